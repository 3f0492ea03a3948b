# What leases leave behind on disk: renewals no row versions, a hot key nothing that slows it down, keys that are not
# used again nothing for long, a crash nothing that is broken, a dump nothing at all.
#
# LEASE_RENEWALS=1000000: so many renewals.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	RENEWALS => $ENV{LEASE_RENEWALS} // 100_000,
	HOT_ROUNDS => 5000,
	KEYS => 1000,
	CRASHES => 3,
};

# statistics are off the table, and nothing writes to the log but what we do
my $quiet = <<'END_OF_CONF';
autovacuum = off
fsync = off
checkpoint_timeout = 1h
max_connections = 40
END_OF_CONF
my $node = new_server('lease_storage', conf => $quiet);
my ($holder, $old) = map { session($node) } 1 .. 2;

sub value
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

# Runs the script many times.
sub bench
{
	my ($script, @options) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/lease_storage.sql";

	unlink $file;
	append_to_file($file, $script);
	# a client that a crash ends fails
	return IPC::Run::run([ 'pgbench', '-n', @options, '-f', $file, $node->connstr('postgres') ], '>', '/dev/null', '2>', '/dev/null');
}

#
# Renewals
#

sub test_renewals
{
	my $size = "pg_total_relation_size('pglock.lease_rows')";
	my $state = "SELECT $size, pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_insert_lsn() - '0/0'";

	$holder->query_safe("SELECT pglock.acquire_lease('renewed', '1h') AS token \\gset");
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');

	my @before = split /\|/, value($state);
	is($holder->query("SELECT count(*) FROM generate_series(1, @{[ RENEWALS ]}) WHERE pglock.renew_lease('renewed', :token)"),
		RENEWALS, RENEWALS . ' renewals under an old snapshot');
	my @after = split /\|/, value($state);
	my $wal = ($after[2] - $before[2]) / RENEWALS;

	is($after[0], $before[0], '... the relation is as large as before');
	is($after[1], $before[1], '... no transaction id was taken');
	cmp_ok($wal, '<=', 100, "... at most 100 bytes of log each: $wal");
	$old->query_safe('COMMIT');
	$holder->query_safe("SELECT pglock.release_lease('renewed', :token)");
	return;
}

#
# A hot key
#

# How many pages a session reads to acquire and release the lease.
sub pages_read
{
	my $plans = $holder->query(<<'END_OF_SQL');
EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT set_config('hot.token', pglock.acquire_lease('hot')::text, false);
EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT pglock.release_lease('hot', current_setting('hot.token')::bigint);
END_OF_SQL
	my $pages = 0;

	$pages += $_ foreach $plans =~ /(?:hit|read)=(\d+)/g;
	return $pages;
}

sub test_hot_key
{
	# what is cached by the session and what is not yet there at all is not counted
	pages_read() foreach 1 .. 5;
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');

	my $first = pages_read();

	bench("SELECT pglock.acquire_lease('hot') AS token \\gset\nSELECT pglock.release_lease('hot', :token);\n", '-t', HOT_ROUNDS);

	my $last = pages_read();

	cmp_ok($first, '>', 0, "a hot key under an old snapshot: at first $first pages are read");
	cmp_ok($last, '<=', 3 * $first, '... and not many more after ' . HOT_ROUNDS . " rounds: $last");
	is($holder->query("SELECT pglock.revoke_lease('hot')"), '0', '... and none has stayed');
	$old->query_safe('COMMIT');
	return;
}

#
# Keys that are used once
#

sub leases_there
{
	value('VACUUM (DISABLE_PAGE_SKIPPING) pglock.lease_rows');
	return value("SELECT reltuples::int FROM pg_class WHERE oid = 'pglock.lease_rows'::regclass");
}

sub test_sweep
{
	value('VACUUM pglock.lease_rows');

	my $script = "SELECT pglock.acquire_lease(nextval('key')::text, '1ms');\n";

	value('CREATE SEQUENCE key');
	bench($script, '-t', KEYS);
	is(leases_there(), KEYS, KEYS . ' keys that are used once: their leases are there when they have just expired');
	value('ALTER DATABASE postgres SET pglock.lease_retention = 0');
	bench($script, '-t', KEYS);
	cmp_ok(leases_there(), '<', KEYS / 2, '... and most of twice as many are gone when they need not be kept');
	value('ALTER DATABASE postgres RESET pglock.lease_retention');
	return;
}

#
# The disk
#

# Is all of the log on disk: without the WAL writer only what the sessions themselves have flushed.
sub is_flushed
{
	my ($sql, $flushed, $name) = @_;

	$holder->query_safe($sql);
	is($holder->query('SELECT pg_current_wal_insert_lsn() = pg_current_wal_flush_lsn(), current_setting($$synchronous_commit$$)'),
		"$flushed|on", $name);
	return;
}

sub test_flushing
{
	my $acquire = "SELECT pglock.acquire_lease('flushed', '1h') AS token \\gset";
	my $release = "SELECT pglock.release_lease('flushed', :token) AS released \\gset";
	my $writer = value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");

	value('CREATE TABLE written (i int)');
	# with checksums, whoever first sees that a row of the catalogs is dead or committed logs that page
	value('VACUUM');
	kill 'STOP', $writer;
	is_flushed($acquire, 't', 'acquiring waits for the disk');
	is_flushed($release, 'f', '... a release alone does not');
	$holder->query_safe($acquire);
	is_flushed("SELECT pglock.revoke_lease('flushed') AS revoked \\gset", 't', '... revoking does, since the holder may go on');
	is_flushed("BEGIN; SET LOCAL synchronous_commit = off; $acquire\nCOMMIT", 't', '... acquiring does, whatever synchronous_commit is');
	is_flushed("BEGIN; INSERT INTO written VALUES (1); $release\nCOMMIT", 't', '... a release after other writes does');
	$holder->query_safe($acquire);
	is_flushed("BEGIN; $release\nINSERT INTO written VALUES (1); COMMIT", 't', '... and before them');
	$holder->query_safe($acquire);
	is_flushed("BEGIN; $release\n$acquire\nCOMMIT", 't', '... and before another is acquired');
	is_flushed("BEGIN; SAVEPOINT here; $release\nROLLBACK TO here; INSERT INTO written VALUES (1); COMMIT", 't', '... and undone before them');
	$holder->query_safe("SELECT pglock.acquire_lease('other', '1h') AS other \\gset");
	is_flushed("BEGIN; SELECT pglock.release_lease('other', :other); $release\nCOMMIT", 'f', '... two releases do not');

	# what nobody waited for may be lost
	$holder->query_safe($acquire);
	$holder->query_safe($release);

	my $token = $holder->query('SELECT :token');

	$node->stop('immediate');
	end_session($holder, $old);
	$node->start;
	is(value("SELECT pglock.try_lease('flushed') IS NULL, pglock.holds_lease('flushed', $token), pglock.release_lease('flushed', $token)"),
		't|t|t', 'a release that a crash has lost: the lease is there until it expires, and can be released again');
	($holder, $old) = map { session($node) } 1 .. 2;
	return;
}

#
# Maintenance
#

# The SQLSTATE of a command, at the third try at the latest: what is concurrent waits for the end of a transaction that
# has the relation locked when it looks, be it only because a session in front of the queue looks at the same moment.
sub maintain
{
	my ($command) = @_;
	my $sqlstate = '57014';

	for (my $tries = 3; $tries > 0 && $sqlstate eq '57014'; $tries--)
	{
		$sqlstate = $old->query("SET statement_timeout = '60s';\n$command;\n\\echo :SQLSTATE");
	}
	return $sqlstate;
}

sub test_maintenance
{
	my @waiters = map { session($node) } 1 .. 2;
	my $is_waited_for = "SELECT waiters = 2 FROM pglock.leases WHERE key = 'kept'";

	$holder->query_safe("SELECT pglock.acquire_lease('kept', '1h') AS token \\gset");
	start_waiting($_, "CALL pglock.lease('kept', '1h')") foreach @waiters;
	$node->poll_query_until('postgres', $is_waited_for) or die 'nobody waits';
	foreach my $command ('VACUUM pglock.lease_rows', 'VACUUM (FULL, FREEZE) pglock.lease_rows', 'VACUUM (FULL, FREEZE)',
		'CLUSTER pglock.lease_rows USING lease_rows_by_key', 'REINDEX TABLE pglock.lease_rows',
		'REINDEX TABLE CONCURRENTLY pglock.lease_rows', 'REINDEX SCHEMA pglock', 'ANALYZE pglock.lease_rows')
	{
		is(maintain($command), '00000', "$command goes on while sessions wait");
		is($holder->query("SELECT pglock.renew_lease('kept', :token), pglock.holds_lease('kept', :token)"), 't|t', '... and the lease is held');
	}
	is(value($is_waited_for), 't', '... and waited for');
	is($holder->query("SELECT pglock.release_lease('kept', :token)"), 't', '... and released');
	foreach (@waiters)
	{
		# whichever of them is in front
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pglock.leases WHERE key = 'kept'") or die;
		value("SELECT pglock.revoke_lease('kept')");
	}
	is(finish_waiting($_), '00000', '... and then had by those who waited') foreach @waiters;

	# the extension goes
	$holder->query_safe("SELECT pglock.acquire_lease('kept', '2s')");
	start_waiting($_, "CALL pglock.lease('kept', '1h')") foreach @waiters;
	$node->poll_query_until('postgres', $is_waited_for) or die 'nobody waits';
	is($old->query("DROP EXTENSION postgres_lock;\n\\echo :SQLSTATE"), '00000', 'DROP EXTENSION goes on while sessions wait');
	is(finish_waiting($_), '55000', '... whose wait ends with an error') foreach @waiters;
	value('CREATE EXTENSION postgres_lock');
	is($waiters[0]->query("SELECT pglock.acquire_lease('kept', '1h') > 0, pglock.revoke_lease('kept')"), 't|1', '... and created again it works');
	end_session(@waiters);
	return;
}

#
# Copies
#

sub test_copies
{
	my $dump = "$PostgreSQL::Test::Utils::tmp_check/lease_storage.dump";

	$holder->query_safe("SELECT pglock.acquire_lease('copied', '1h') AS token \\gset");

	my $token = $holder->query('SELECT :token');
	my $is_fresh = "SELECT (SELECT count(*) FROM pglock.leases), pglock.renew_lease('copied', $token), pglock.try_lease('copied', '1h') > $token";

	command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'a database with a lease is dumped');
	value('CREATE DATABASE restored');
	command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], '... and restored');
	is(value($is_fresh, 'restored'), '0|f|t', '... without the lease');
	end_session($holder, $old);
	$node->poll_query_until('template1', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'postgres'") or die 'a session stays';
	value('CREATE DATABASE copied TEMPLATE postgres', 'template1');
	is(value($is_fresh, 'copied'), '0|f|t', 'a copied database is without the lease');
	is(value("SELECT pglock.renew_lease('copied', $token), pglock.release_lease('copied', $token)"), 't|t', '... and the original has it');
	is(value("SELECT count(*) FROM pglock.leases", 'copied'), '1', '... and each has its own');
	return;
}

# Leases are no part of what is published.
sub test_publication
{
	my $publisher = new_server('lease_publisher', init => { allows_streaming => 'logical' }, conf => $quiet);
	my $subscriber = new_server('lease_subscriber', extension => 0, conf => $quiet);
	my $address = $publisher->connstr . ' dbname=postgres';

	$_->safe_psql('postgres', 'CREATE TABLE published (i int PRIMARY KEY)') foreach $publisher, $subscriber;
	$publisher->safe_psql('postgres', "SELECT pglock.acquire_lease('before', '1h')");
	$publisher->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');
	is($publisher->safe_psql('postgres', "SELECT tablename FROM pg_publication_tables"), 'published', 'a publication FOR ALL TABLES leaves leases out');
	$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '$address' PUBLICATION everything");
	$subscriber->wait_for_subscription_sync($publisher, 'everything');
	$publisher->safe_psql('postgres', <<'END_OF_SQL');
SELECT pglock.acquire_lease('k', '1h') AS token \gset
SELECT pglock.renew_lease('k', :token);
INSERT INTO published VALUES (1);
BEGIN;
INSERT INTO published VALUES (2);
SELECT pglock.release_lease('k', :token), pglock.acquire_lease('k', '1h');
COMMIT;
END_OF_SQL
	$publisher->wait_for_catchup('everything');
	is($subscriber->safe_psql('postgres', 'SELECT string_agg(i::text, $$ $$ ORDER BY i) FROM published'), '1 2',
		'... and a subscriber without the extension goes on');
	$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION everything');
	stop_and_check_log($_) foreach $publisher, $subscriber;
	return;
}

#
# Crashes
#

sub test_crashes
{
	my $crashing = new_server('lease_crash', init => { extra => [ '--locale=C', '--encoding=UTF8', '--data-checksums' ] },
		conf => "autovacuum_naptime = 1s\nfsync = off\nshared_buffers = 1MB\n");
	my $script = <<'END_OF_SQL';
\set key random(1, 200)
SELECT coalesce(pglock.try_lease(:key, '50ms'), 0) AS token \gset
SELECT pglock.renew_lease(:key, :token);
BEGIN;
SELECT pglock.release_lease(:key, :token);
\set undone random(0, 1)
\if :undone
ROLLBACK;
\else
COMMIT;
\endif
END_OF_SQL
	my $file = "$PostgreSQL::Test::Utils::tmp_check/lease_crash.sql";
	my ($state) = $crashing->psql('postgres', 'CREATE EXTENSION amcheck');

	if ($state != 0 && !$ENV{CI})
	{
		note('there is no amcheck here');
		$crashing->stop;
		return;
	}
	append_to_file($file, $script);
	foreach my $crash (1 .. CRASHES)
	{
		my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 60, '-f', $file, $crashing->connstr('postgres') ], '>', '/dev/null', '2>', '/dev/null');
		my $rows = $crashing->safe_psql('postgres', 'SELECT last_value FROM pglock.tokens');

		# the bound of the tokens is moved once a second, so there is load
		$crashing->poll_query_until('postgres', "SELECT last_value > $rows FROM pglock.tokens") or die 'no load';
		$crashing->stop('immediate');
		$load->finish;
		$crashing->start;
		is($crashing->safe_psql('postgres', "SELECT count(*) FROM verify_heapam('pglock.lease_rows')"), '0', "crash $crash under load: the rows are sound");
		is($crashing->safe_psql('postgres', "SELECT count(bt_index_check(indexrelid, true)) FROM pg_index WHERE indrelid = 'pglock.lease_rows'::regclass"),
			'2', '... and so are the indexes');
		is($crashing->safe_psql('postgres', "SELECT count(DISTINCT (key, slot)) = count(*) FROM pglock.leases"), 't', '... and no key is held twice');
	}
	is($crashing->safe_psql('postgres', "SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database"), '0', 'no checksum has failed');
	stop_and_check_log($crashing);
	return;
}

test_renewals();
test_hot_key();
test_sweep();
test_flushing();
test_maintenance();
test_copies();
stop_and_check_log($node);
test_publication();
test_crashes();
done_testing();
