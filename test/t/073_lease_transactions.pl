# Taking, checking and releasing a lease are parts of the transaction, whatever becomes of it: at each isolation
# level, with savepoints, prepared, in functions and triggers, in a deadlock, and when the lock table is full.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CLIENTS => 6,
	TRANSACTIONS => 50,    # of each client
};

my $node = new_server('lease_transactions', init => { allows_streaming => 1 }, conf => <<'END_OF_CONF');
max_prepared_transactions = 5
max_locks_per_transaction = 10
max_connections = 20
max_worker_processes = 1
autovacuum = off
fsync = off
END_OF_CONF
my ($a, $b, $c) = map { session($node) } 1 .. 3;

# What a statement of the session answers, or its SQLSTATE if it fails.
sub ask
{
	my ($session, $sql) = @_;
	my ($answer, $state) = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE") =~ /\A(.*?)\n?SQLSTATE (\w+)/s;

	$session->{stderr} = '';
	return $state eq '00000' ? $answer : $state;
}

# A new lease, in place of one that another test has left
sub acquire
{
	my ($session, $key, $ttl) = @_;

	$node->safe_psql('postgres', "SELECT pglock.revoke_lease('$key')");
	return ask($session, "SELECT pglock.try_lease('$key', '@{[ $ttl // '1h' ]}')");
}

sub is_held
{
	my ($key, $token, $name) = @_;

	is(ask($c, "SELECT pglock.holds_lease('$key', $token), pglock.try_lease('$key') IS NULL"), 't|t', $name);
	return;
}

# Nobody has a lease of the key, so that it can be had at once.
sub is_free
{
	my ($key, $name) = @_;

	isnt(ask($c, "SELECT pglock.try_lease('$key')"), '', $name);
	ask($c, "SELECT pglock.revoke_lease('$key')");
	return;
}

# The session waits until the lease has expired, and then has it.
sub start_queueing
{
	my ($session, $key) = @_;

	start_waiting($session, "SELECT pglock.acquire_lease('$key')");
	$node->poll_query_until('postgres', "SELECT waiters = 1 FROM pglock.leases WHERE key = '$key'") or die 'nobody waits';
	return;
}

sub start_waiting_for_transaction
{
	my ($session, $key) = @_;

	start_waiting($session, "SELECT pglock.acquire_lease('$key')");
	wait_for_waiter($node);
	return;
}

#
# Isolation levels. Each transaction has its snapshot before it gets the lease from another one.
#

$node->safe_psql('postgres', 'CREATE TABLE lease (key text, token int); CREATE TABLE written (n int);'
	  . "INSERT INTO lease VALUES ('k', 0); INSERT INTO written VALUES (0)");

# How many transactions of concurrent clients fail.
sub failures
{
	my ($level, $commands) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir() . '/script.sql';

	append_to_file($script, "BEGIN ISOLATION LEVEL $level;\nSELECT count(*) FROM written;\n$commands\nCOMMIT;\n");

	my ($output, $errors) = run_command(
		[
			$node->installed_command('pgbench'), '-n', '-c', CLIENTS, '-t', TRANSACTIONS,
			'-f', $script, '-h', $node->host, '-p', $node->port, 'postgres'
		]);

	return $output =~ /^number of failed transactions: (\d+)/m ? $1 : "pgbench: $output$errors";
}

my $use = <<'END_OF_SQL';
SELECT pglock.acquire_lease('levels', '1h') AS token \gset
SELECT pglock.renew_lease('levels', :token), pglock.holds_lease('levels', :token), pglock.check_lease('levels', :token);
SELECT pglock.release_lease('levels', :token);
END_OF_SQL

$node->safe_psql('postgres', 'ALTER DATABASE postgres SET pglock.warnings = off');
foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	is(failures($level, $use), 0, "$level: no transaction fails for our rows");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pglock.leases'), '0', '... and none leaves a lease');
}
cmp_ok(failures('REPEATABLE READ', 'UPDATE lease SET token = token + 1;'), '>', 0, 'control: for a row of a table, some do');

#
# Rollbacks, of all and of a part
#

my %undone = (
	'a block' => [ 'BEGIN', 'ROLLBACK' ],
	'a part of a block' => [ 'BEGIN; SAVEPOINT s', 'ROLLBACK TO s' ],
	'a nested part of a block' => [ 'BEGIN; SAVEPOINT s; SAVEPOINT t', 'RELEASE t; ROLLBACK TO s' ]);

foreach my $what (sort keys %undone)
{
	my ($begin, $undo) = @{ $undone{$what} };

	ask($a, $begin);
	like(acquire($a, 'undone'), qr{^\d{16}$}, "$what: a lease is taken");
	is(ask($c, "SELECT pglock.try_lease('undone')"), '', '... others do not get it');
	start_waiting_for_transaction($b, 'undone');
	ask($a, $undo);
	is(finish_waiting($b), '00000', '... undone, whoever waits gets it');
	ask($a, 'COMMIT');

	my $token = acquire($a, 'undone');

	ask($a, $begin);
	is(ask($a, "SELECT pglock.release_lease('undone', $token), pglock.holds_lease('undone', $token)"), 't|f', "$what: a lease is released");
	is(ask($c, "SELECT pglock.try_lease('undone')"), '', '... others do not get it yet');
	ask($a, $undo);
	is_held('undone', $token, '... undone, it is held');
	ask($a, 'COMMIT');
	is_held('undone', $token, '... and still after that');

	start_queueing($b, 'undone');
	ask($a, $begin);
	ask($a, "SELECT pglock.check_lease('undone', $token)");
	ask($a, $undo);
	is(ask($c, "SELECT pglock.release_lease('undone', $token)"), 't', "$what: a check is undone");
	is(finish_waiting($b), '00000', '... and in nobody\'s way');
	ask($a, 'COMMIT');
}

# what is released and taken in one block
my $token = acquire($a, 'block');

is(ask($a, "BEGIN; SELECT pglock.release_lease('block', $token), pglock.try_lease('block') > $token"), 't|t',
	'a lease is released and taken again in one block');
is(ask($c, "SELECT pglock.try_lease('block')"), '', '... others do not get it');
ask($a, 'ROLLBACK');
is_held('block', $token, '... rolled back, it is the old one');

# a check is no obstacle for the release, but for the next holder
$token = acquire($a, 'checked', '1h');
is(ask($a, "BEGIN; SELECT pglock.check_lease('checked', $token)"), '', 'a block checks a lease');
is(ask($b, "SELECT pglock.check_lease('checked', $token), pglock.renew_lease('checked', $token), pglock.release_lease('checked', $token)"),
	'|t|t', '... another checks, renews and releases it meanwhile');
is(ask($c, "SELECT pglock.try_lease('checked')"), '', '... nobody can take it before the block ends');
start_waiting_for_transaction($b, 'checked');
ask($a, 'COMMIT');
is(finish_waiting($b), '00000', '... and then somebody who waits gets it');

#
# A deadlock of two blocks
#

ask($_, 'BEGIN') foreach $a, $b;
acquire($a, 'first');
acquire($b, 'second');
start_waiting_for_transaction($a, 'second');
start_waiting($b, "SELECT pglock.acquire_lease('first')");

# the other one goes on as soon as the transaction of one has failed
my %end = (b => finish_waiting($b));

ask($b, 'ROLLBACK');
$end{a} = finish_waiting($a);
ask($a, 'ROLLBACK');
is(join(' ', sort values %end), '00000 40P01', 'two blocks in opposite order: one is a deadlock\'s victim, the other goes on');
is_free($_, "... $_ is free after that") foreach 'first', 'second';

#
# Two-phase commit
#

foreach my $end ('COMMIT', 'ROLLBACK')
{
	# a check
	$token = acquire($a, 'prepared', '200ms');
	ask($a, "BEGIN; SELECT pglock.check_lease('prepared', $token); UPDATE written SET n = n + 1; PREPARE TRANSACTION 'p'");
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pglock.leases WHERE key = 'prepared')") or die 'the lease does not expire';
	is(ask($c, "SELECT pglock.try_lease('prepared'), pglock.acquire_lease('prepared', timeout => '10ms')"), '|',
		"$end PREPARED, a check: nobody takes the lease over before, though it has expired");
	start_waiting_for_transaction($b, 'prepared');
	is(ask($c, "$end PREPARED 'p'"), '', '... the prepared transaction ends');
	is(finish_waiting($b), '00000', '... and the lease is had');

	# an acquire
	ask($c, "SELECT pglock.revoke_lease('prepared')");
	$token = ask($a, "BEGIN; SELECT pglock.acquire_lease('prepared', '1h')");
	ask($a, "PREPARE TRANSACTION 'p'");
	is(ask($c, "SELECT pglock.try_lease('prepared')"), '', "$end PREPARED, an acquire: nobody gets the lease before");
	start_waiting_for_transaction($b, 'prepared') if $end eq 'ROLLBACK';
	ask($c, "$end PREPARED 'p'");
	if ($end eq 'COMMIT')
	{
		is_held('prepared', $token, '... it is held after that');
	}
	else
	{
		is(finish_waiting($b), '00000', '... whoever waits gets it after that');
	}

	# a release
	$token = acquire($a, 'prepared');
	start_queueing($b, 'prepared');
	is(ask($a, "BEGIN; SELECT pglock.release_lease('prepared', $token)"), 't', "$end PREPARED, a release");
	ask($a, "PREPARE TRANSACTION 'p'");
	wait_for_waiter($node);
	is(ask($c, "SELECT pglock.try_lease('prepared')"), '', '... nobody gets the lease before');
	ask($c, "$end PREPARED 'p'");
	if ($end eq 'ROLLBACK')
	{
		is_held('prepared', $token, '... it is held after that');
		ask($a, "SELECT pglock.release_lease('prepared', $token)");
	}
	is(finish_waiting($b), '00000', '... whoever waits gets it when it is released');
}

# over a crash
$token = acquire($a, 'crash', '300ms');
ask($a, "BEGIN; SELECT pglock.check_lease('crash', $token); PREPARE TRANSACTION 'p'");

my $taken = ask($a, "BEGIN; SELECT pglock.acquire_lease('crash 2', '1h')");

ask($a, "PREPARE TRANSACTION 'q'");
$node->stop('immediate');
end_session($a, $b, $c);
$node->start;
($a, $b, $c) = map { session($node) } 1 .. 3;
$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pglock.leases WHERE key = 'crash')") or die 'the lease does not expire';
is(ask($c, "SELECT pglock.try_lease('crash'), pglock.try_lease('crash 2')"), '|',
	'prepared, and the server crashed: nobody takes what was checked or acquired');
ask($c, "COMMIT PREPARED 'p'");
ask($c, "COMMIT PREPARED 'q'");
is_free('crash', '... ended, what was checked is to be had');
is_held('crash 2', $taken, '... and what was acquired is held');

#
# Functions, triggers, procedures
#

$token = acquire($a, 'kept');
is( ask($a, <<"END_OF_SQL"), '', 'DO: a part that fails');
BEGIN;
DO \$\$
BEGIN
	BEGIN
		PERFORM pglock.acquire_lease('caught');
		PERFORM pglock.release_lease('kept', $token);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
	END;
	PERFORM pglock.acquire_lease('not caught');
END \$\$
END_OF_SQL
is_free('caught', '... has taken nothing, while its block goes on');
is_held('kept', $token, '... and released nothing');
is(ask($c, "SELECT pglock.try_lease('not caught')"), '', '... what others took is the block\'s');
ask($a, 'COMMIT');
is(ask($c, "SELECT pglock.try_lease('not caught')"), '', '... and held after COMMIT');

is( ask($a, <<'END_OF_SQL'), '55000 not held', 'a function catches that a lease is not held');
CREATE FUNCTION write(token bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pglock.check_lease('kept', token);
	UPDATE written SET n = n + 1;
	RETURN 'written';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	RETURN sqlstate || ' not held';
END $$;
SELECT write(1)
END_OF_SQL
is(ask($a, "SELECT write($token)"), 'written', '... and writes if it is');

ask($a, <<'END_OF_SQL');
CREATE FUNCTION check_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pglock.check_lease('kept', new.token);
	RETURN new;
END $$;
CREATE TRIGGER check_writer BEFORE UPDATE ON lease FOR EACH ROW EXECUTE FUNCTION check_writer();
ALTER TABLE lease ALTER token TYPE bigint
END_OF_SQL
is(ask($a, "UPDATE lease SET token = 1"), '55000', 'a trigger refuses who does not hold the lease');
is(ask($a, "BEGIN; UPDATE lease SET token = $token"), '', '... lets who does write');
is(ask($b, "SELECT pglock.release_lease('kept', $token)"), 't', '... and the lease, released meanwhile');
is(ask($c, "SELECT pglock.try_lease('kept')"), '', '... is nobody else\'s before COMMIT');
ask($a, 'COMMIT');
is_free('kept', '... and free after it');

ask($a, <<'END_OF_SQL');
CREATE PROCEDURE work(INOUT token bigint) LANGUAGE plpgsql AS $$
BEGIN
	CALL pglock.lease('work', token => token);
	COMMIT;
	PERFORM pglock.check_lease('work', token);
	ROLLBACK;
	PERFORM pglock.release_lease('work', token);
	ROLLBACK;
END $$
END_OF_SQL
$token = ask($a, 'CALL work(NULL)');
is_held('work', $token, 'a procedure commits a lease, checks it, and rolls its release back');

#
# Where nothing can be written
#

sub refusals
{
	my ($session, $begin, @calls) = @_;
	my %states;

	foreach my $call (@calls)
	{
		ask($session, $begin);
		$states{$call} = ask($session, "SELECT * FROM pglock.$call");
		ask($session, 'ROLLBACK');
	}
	return \%states;
}

my @writing = (
	"acquire_lease('work')", "acquire_lease('new', timeout => '1s')", "try_lease('new')", "renew_lease('work', $token)",
	"renew_leases('{$token}')", "release_lease('work', $token)", "revoke_lease('work')");
my @reading = ("check_lease('work', $token)", "holds_lease('work', $token)", "lease_status()");

foreach my $begin ('BEGIN READ ONLY', 'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY', 'BEGIN; SET TRANSACTION READ ONLY')
{
	is_deeply(refusals($a, $begin, @writing), { map { $_ => '25006' } @writing }, "$begin: what writes is refused");
}
is(ask($a, "BEGIN READ ONLY; SELECT pglock.check_lease('work', $token), pglock.holds_lease('work', $token), count(*) FROM pglock.leases WHERE key = 'work'"),
	'|t|1', '... and what reads is not');
is(ask($b, "SELECT pglock.release_lease('work', $token)"), 't', '... the lease is released meanwhile');
is(ask($c, "SELECT pglock.try_lease('work')"), '', '... and nobody else\'s before the end of the block that checks it');
ask($a, 'COMMIT');
is(ask($a, 'BEGIN READ ONLY; CALL pglock.lease(\'new\')'), '25006', 'the procedure is refused, too');
ask($a, 'ROLLBACK');

$node->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('lease_standby');

$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

my $on_standby = session($standby);

is_deeply(refusals($on_standby, 'BEGIN', @writing, @reading), { map { $_ => '25006' } @writing, @reading }, 'on a standby all is refused');
is(ask($on_standby, 'TABLE pglock.leases'), '25006', '... also to look');
end_session($on_standby);
stop_and_check_log($standby);

#
# The lock table is full
#

my $advisory = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
# what is looked up once in a session needs locks, too
my $warm_up = "$advisory; SELECT pglock.try('warm'), pglock.release('warm'), pglock.try_lease('warm', '1ms'), pglock.holds_lease('warm', 1),
	pglock.renew_lease('warm', 1), pglock.release_lease('warm', 1), count(*) FROM pglock.leases";

$node->safe_psql('postgres', 'SELECT pglock.revoke_lease(key) FROM pglock.leases');
ask($_, $warm_up) foreach $a, $b;
$token = acquire($a, 'own', '1h');

is(ask($a, "SELECT pglock.acquire_lease('k' || i) FROM generate_series(1, 1000000) AS i"), '53200', 'a statement fails when the lock table is full');
is(ask($b, $advisory), '0', '... and keeps no lock');
is(ask($b, 'SELECT key FROM pglock.leases'), 'own', '... nor a lease');

# Another session takes all there is, and gives it back lock by lock.
foreach my $call ("acquire_lease('full')", "try_lease('full')", "check_lease('own', $token)", "release_lease('own', $token)")
{
	ask($b, <<'END_OF_SQL');
DO $$
BEGIN
	FOR i IN 1..1000000 LOOP
		PERFORM pglock.acquire('filler' || i);
	END LOOP;
EXCEPTION WHEN out_of_memory THEN
END $$
END_OF_SQL

	my $fillers = ask($b, $advisory);
	my ($state, $refused) = ('', 0);

	while (1)
	{
		# a part of a block fails, the block goes on
		ask($a, 'BEGIN; SAVEPOINT s');
		$state = ask($a, "SELECT pglock.$call");
		last if $state ne '53200';
		$refused++;
		ask($a, 'ROLLBACK TO s');
		is(ask($b, "$advisory"), $fillers, "$call fails with $fillers other locks: it keeps none");
		ask($a, 'ROLLBACK');
		ask($b, "SELECT pglock.release('filler$fillers')");
		$fillers--;
	}
	ask($a, 'ROLLBACK');
	cmp_ok($refused, '>', 0, "$call fails while there is no room");
	like($state, qr/^(\d{16}|t|)$/, '... and does not when there is');
	ask($b, 'SELECT pglock.release_all()');
	is(ask($b, 'SELECT key FROM pglock.leases'), 'own', '... it has changed nothing');
}
is_free('full', 'there is room again');
is_held('own', $token, '... and what was held, still is');

end_session($a, $b, $c);
stop_and_check_log($node);
done_testing();
