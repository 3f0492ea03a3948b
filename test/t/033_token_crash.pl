# Fencing tokens grow from hold to hold, whoever draws them, and over crashes: what a client has seen
# is never given out again, nor undercut.
#
# The clock would hide a token that was forgotten. So half of this goes on far ahead of it, from where
# only what the server kept can go on.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use constant {
	CLIENTS => 8,
	TRANSACTIONS => 150,    # of each pgbench client
	DRAWING_CLIENTS => 4,
	DRAWS => 20000,         # of each of those, if they live to that
	ROUNDS => 10,           # on the clock, and as many ahead of it
	FAR => 8_000_000_000_000_000,
};

# the WAL writer does not write what we should have
my $node = new_server('token_crash', conf => <<'END');
shared_preload_libraries = 'postgres_lock'
restart_after_crash = on
wal_writer_delay = 10s
autovacuum = off
checkpoint_timeout = 1h
shared_buffers = 256kB
max_prepared_transactions = 2
END
my $now = '(extract(epoch FROM clock_timestamp()) * 1000000)::bigint';
my $draw = "SELECT pglock.acquire('k'), pglock.token('k'), pglock.release('k')";
my @crashed;

# The token that the session, or a new one, draws in a hold of its own.
sub draw
{
	my ($session) = @_;
	my $output = defined $session ? $session->query_safe($draw) : $node->safe_psql('postgres', $draw);

	return $output =~ /^t\|(\d+)\|t$/ ? $1 : die "no token: $output";
}

# Sets the bound under which the server thinks tokens were given out.
sub set_bound
{
	$node->safe_psql('postgres', "SELECT setval('pglock.tokens', $_[0])");
	return;
}

sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

# Many holders of few keys. What a holder logs, it logs within its hold, so ids are in the order of
# holds. Checkpoints have the bound logged again and again.
$node->safe_psql('postgres', 'CREATE TABLE drawn (id bigserial, key int, token bigint)');

my @files;
my %holds = (
	'session' => [ "SELECT pglock.acquire('k' || :k);", "SELECT pglock.release('k' || :k);" ],
	'transaction' => [ "BEGIN;\nSELECT pglock.acquire('k' || :k, scope => 'transaction');", 'COMMIT;' ],
	'built-in' => [
		"SELECT pg_advisory_lock(pglock.lock_id('k' || :k));",
		"SELECT pg_advisory_unlock(pglock.lock_id('k' || :k));" ],
	'broken' => [
		"SELECT pglock.acquire('k' || :k);\nSELECT pglock.token('k' || :k), pg_advisory_unlock_all();\n"
		  . "SELECT pglock.acquire('k' || :k);",
		"SELECT pglock.release('k' || :k);" ],
);

foreach my $way (sort keys %holds)
{
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	my ($before, $after) = @{ $holds{$way} };

	append_to_file($file, "\\set k random(1, 3)\n$before\n"
		  . "INSERT INTO drawn (key, token) VALUES (:k, pglock.token('k' || :k));\n$after\n");
	push @files, '-f', "$file\@20";
}
my $checkpoint = PostgreSQL::Test::Utils::tempdir() . '/checkpoint.sql';
append_to_file($checkpoint, 'CHECKPOINT');

my $all = CLIENTS * TRANSACTIONS;

$node->command_like(
	[ 'pgbench', '-n', '-c', CLIENTS, '-j', 2, '-t', TRANSACTIONS, @files, '-f', "$checkpoint\@1", 'postgres' ],
	qr{transactions actually processed: $all/$all\b}, 'many draw tokens');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT key), count(*) > 1000, count(*) = count(DISTINCT token) FROM drawn'),
	'3|t|t', '... each another one');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT token <= lag(token) OVER (PARTITION BY key ORDER BY id)
		AS less FROM drawn) AS drawn WHERE less'),
	'0', '... which is greater than that of the holder before');
is($node->safe_psql('postgres', "SELECT max(token) <= $now FROM drawn"), 't', '... and not ahead of the clock');

# Others see a holder's token.
my $first = session($node);
my $second = session($node);

$first->query_safe("SELECT pglock.acquire('k')");
my $shown = $first->query_safe("SELECT pglock.token('k')");

is($second->query_safe("SELECT key, mode, token FROM pglock.locks"), "k|exclusive|$shown", 'others see the token');
$first->query_safe("SELECT pg_advisory_unlock_all(); SELECT pg_advisory_lock(pglock.lock_id('k'))");
is($second->query_safe("SELECT mode, token FROM pglock.locks"), 'exclusive|', '... not that of a hold before');
$first->query_safe('SELECT pg_advisory_unlock_all()');

# Under the bound tokens come one by one where the clock can't tell them apart: nobody forgets the
# last one, as long as the server runs.
set_bound(FAR);
is(draw($first), FAR + 1, 'ahead of the clock: tokens go on from there');
is(draw($second), FAR + 2, '... for all sessions');
$node->safe_psql('postgres', 'CHECKPOINT');
is(draw($first), FAR + 3, '... over a checkpoint');
$node->safe_psql('postgres', 'CREATE TABLE large (filler text)');
foreach my $token (FAR + 4, FAR + 5)
{
	$node->safe_psql('postgres', "INSERT INTO large SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
	is(draw($second), $token, '... and when the page was out of memory');
}
$first->query_safe('BEGIN');
is(draw($first), FAR + 6, '... in a transaction');
$first->query_safe('ROLLBACK');
is(draw($first), FAR + 7, '... that was rolled back');

# What was logged is in the log's file when the token is seen, whatever the caller has set. (Nobody
# else logs anything: the log ends with the bound; at the end of a page its header may come. With more
# buffers nobody writes it for us to make room for another page, either.)
end_session($first, $second);
$node->append_conf('postgresql.conf', 'shared_buffers = 16MB');
$node->restart;
# with checksums, whoever first sees that a row of the catalogs is dead or committed logs that page
$node->safe_psql('postgres', 'VACUUM');
$first = session($node);
$second = session($node);

foreach my $setting ('on', 'off', 'local')
{
	my $last = draw();

	$node->safe_psql('postgres', 'CHECKPOINT');
	$first->query_safe("SET synchronous_commit = $setting; BEGIN");
	my $before = $first->query_safe('SELECT pg_current_wal_insert_lsn()');
	my $token = draw($first);

	is( $first->query_safe("SELECT pg_current_wal_insert_lsn() > '$before',
			pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn() < 100"),
		't|t', "synchronous_commit = $setting: the bound is logged, and flushed");

	# another session draws under that bound; then the server crashes with the transaction open
	$second->query_safe("SET synchronous_commit = $setting");
	my $of_second = draw($second);

	is("$token|$of_second", ($last + 1) . '|' . ($last + 2), '... two sessions draw');
	crash();
	end_session($first, $second);
	cmp_ok(draw(), '>', $of_second, '... the server crashes: the next is greater');
	$first = session($node);
	$second = session($node);
}

# The extension created and used in one transaction: with wal_level = minimal nothing of that is
# logged, but all is written at its end. The last token goes with it, and is not to be believed after a
# crash.
$node->safe_psql('postgres', 'CREATE DATABASE minimal');

my $in_one = $node->safe_psql('minimal', "BEGIN; CREATE EXTENSION postgres_lock; SELECT setval('pglock.tokens', "
	  . FAR . "); $draw; COMMIT");

like($in_one, qr/^t\|@{[FAR + 1]}\|t$/m, 'drawn in the transaction that creates the extension');
is($node->safe_psql('minimal', $draw), "t|@{[FAR + 2]}|t", '... and after it');
crash();
end_session($first, $second);
cmp_ok($node->safe_psql('minimal', $draw) =~ s/\D//gr, '>', FAR + 2, '... the server crashes: the next is greater');
$first = session($node);
$second = session($node);

# A single backend's crash: shared memory is made anew.
my $last = draw($first);
my $pid = $first->query_safe('SELECT pg_backend_pid()');

push @crashed, $pid;
kill 'KILL', $pid;
$node->poll_query_until('postgres', "SELECT pg_postmaster_start_time() IS NOT NULL
	AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)")
  or die 'the server does not come back';
end_session($first, $second);
cmp_ok(draw(), '>', $last, 'a backend crashes: the next is greater');


# Clients draw tokens until the server crashes. What they saw is what they printed.
sub start_client
{
	my ($number) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my $script = $number % 2 == 0 ? "SET synchronous_commit = off;\n" : '';

	foreach my $i (1 .. DRAWS)
	{
		my $key = 'k' . ($i + $number) % 3;

		$script .=
		  $number < DRAWING_CLIENTS / 2
		  ? "SELECT pglock.acquire('$key'), pglock.token('$key'), pglock.release('$key');\n"
		  : "BEGIN; SELECT pglock.token('$key') FROM pglock.acquire('$key', scope => 'transaction'); COMMIT;\n";
	}
	append_to_file("$folder/script.sql", $script);
	return {
		output => "$folder/seen",
		run => IPC::Run::start(
			[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', "$folder/script.sql" ],
			'>', "$folder/seen", '2>', '/dev/null')
	};
}

sub wait_for_output
{
	my ($client) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if -s $client->{output};
		usleep(100_000);
	}
	die 'a client sees no token';
}

# (least, greatest) of the tokens that the clients saw, all different, each client's in order
sub tokens_seen
{
	my (@clients) = @_;
	my %seen;
	my $wrong = 0;

	foreach my $client (@clients)
	{
		my $last = 0;

		foreach my $token (slurp_file($client->{output}) =~ /\b(\d{16})\b/g)
		{
			$wrong++ if $seen{$token}++ || $token <= $last;
			$last = $token;
		}
	}
	is($wrong, 0, '... each token is another one, and each client sees them grow');

	my @tokens = sort { $a <=> $b } keys %seen;
	note scalar(@tokens), ' tokens seen';
	return ($tokens[0], $tokens[-1]);
}

sub run_rounds
{
	my ($name) = @_;
	my $greatest = draw();

	foreach my $round (1 .. ROUNDS)
	{
		my @clients = map { start_client($_) } 0 .. DRAWING_CLIENTS - 1;

		wait_for_output($_) foreach @clients;
		crash();
		$_->{run}->finish foreach @clients;

		my ($least_seen, $greatest_seen) = tokens_seen(@clients);

		cmp_ok($least_seen, '>', $greatest, "$name, round $round: greater than all before");
		my $first = $node->safe_psql('postgres', "SELECT pglock.token('k1'), $now FROM pglock.acquire('k1')");
		my ($token, $time) = split /\|/, $first;

		cmp_ok($token, '>', $greatest_seen, '... and so is the first after the crash');
		cmp_ok($token, '<=', $time, '... which is not ahead of the clock') if $token < FAR;
		$greatest = $token;
	}
	return;
}

run_rounds('ahead of the clock');
set_bound(1);
run_rounds('on the clock');

# After a crash a draw waits until the clock has passed the bound; it can be cancelled.
my $session = session($node);
my ($bound, $token, $time) = split /\|/, $node->safe_psql('postgres', "SELECT setval('pglock.tokens', $now + 900000),
	pglock.token('k'), $now FROM pglock.acquire('k')");

cmp_ok($token, '>', $bound, 'a draw waits for the clock to pass the bound');
cmp_ok($token, '<=', $time, '... and is not ahead of it');
$session->query_safe("SELECT pglock.acquire('k'); SET statement_timeout = '100ms'");
like($session->query("SELECT setval('pglock.tokens', $now + 1000000), pglock.token('k');\n\\echo :SQLSTATE"),
	qr/57014/, 'a timeout ends the wait');
$session->{stderr} = '';    # query_safe() takes what is there for its own
$session->query_safe('RESET statement_timeout');
is($session->query_safe('SELECT key, token FROM pglock.locks'), 'k|', '... the lock is held, without a token');
cmp_ok($session->query_safe("SELECT pglock.token('k')"), '>', $token, '... which is drawn by the next call');
end_session($session);

# A checkpoint between two draws makes nobody wait: the second is given out under the first one's
# bound, unless the clock has passed that when it is asked for.
my $is_asked_in_time;

foreach (1 .. 10)
{
	my $output = $node->safe_psql('postgres', <<"END");
$draw;
SELECT last_value FROM pglock.tokens;
CHECKPOINT;
SELECT $now, pglock.token('c') FROM pglock.acquire('c');
END
	(undef, $bound, $time, $token) = split /\n|\|(?=\d+$)/m, $output;
	$is_asked_in_time = $time < $bound;
	last if $is_asked_in_time;
}
cmp_ok($token, '<', $bound, 'nobody waits after a checkpoint') if $is_asked_in_time;

# However many are drawn, how fast ever, they do not run away from the clock.
my ($greatest, $then) = split /\|/, $node->safe_psql('postgres', "SELECT max(token), $now FROM (
	SELECT pglock.acquire('k'), pglock.token('k'), pglock.release('k') FROM generate_series(1, 1000000)) AS drawn");
cmp_ok($greatest, '<', $then + 1000, 'a million tokens at once are not ahead of the clock');

# Where there can be no standby, there is none to wait for, as commits do not.
$node->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '*'");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = '*'");
is($node->safe_psql('postgres', 'SHOW max_wal_senders'), '0', 'there can be no standbys');
is(($node->psql('postgres', "CREATE TABLE does_not_wait (); $draw"))[0], 0, '... a token is drawn');

stop_and_check_log($node, killed => \@crashed);
done_testing();
