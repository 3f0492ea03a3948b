# Those who wait for a lease are served in the order in which they came. Whatever ends the wait of one of them,
# and wherever it waits, the next goes on, and nothing of it is left.
#
# There are three places to wait: at the gate, behind others; in front, asleep until the lease expires; and in front
# for the lock of the slot, which a transaction has that has not ended.
#
# LEASE_RACES=1000: so many refusals of each kind, instead of a few.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Waiters;

use constant {
	WAITERS => 100,
	CLIENTS => 4,
	ROUNDS => 100,    # of each client in one batch
	REFUSALS => $ENV{LEASE_RACES} // 100,
	MOST_BATCHES => 60,
	KILLS => ($ENV{LEASE_RACES} // 100) / 4,    # of each client
	RACED => "%pglock.%lease(''raced%",
};

my $node = new_server('lease_waiters', conf => <<'END_OF_CONF');
max_connections = 130
autovacuum = off
fsync = off
deadlock_timeout = 10s
END_OF_CONF
my $queue = Waiters->new(
	$node,
	name => 'lease "k"',
	acquire => "SELECT pglock.acquire_lease('k', '1h')",
	call => "CALL pglock.lease('k', '1h')",
	timed => [ "SELECT pglock.acquire_lease('k', '1h', timeout => '100ms')", "CALL pglock.lease('k', '1h', timeout => '100ms')" ],
	short => "pglock.acquire_lease('k', timeout => '1ms') IS NULL",
	give_back => "SELECT pglock.revoke_lease('k')",
	given_back => '1',
	holds => {
		asleep => [ "SELECT pglock.acquire_lease('k', '1h') AS nothing \\gset", "SELECT pglock.revoke_lease('k')" ],
		slot => [ "BEGIN; SELECT pglock.acquire_lease('k', '1h') AS nothing \\gset", 'ROLLBACK' ]
	},
	# the gate of a key, and its only slot
	locks => { gate => 4, slot => 0x4001 },
	waiting => '(SELECT waiters FROM pglock.leases)',
	left => "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') + (SELECT count(*) FROM pglock.leases)");
my ($holder, $observer) = @{$queue}{ 'holder', 'observer' };

#
# Where they wait
#

# From the lock of the slot to the sleep in front, when the lease is committed; and back, when its release is undone.
sub test_change_of_place
{
	my $waiter = session($node);
	my $pid = Waiters::pid_of($waiter);

	$holder->query_safe("BEGIN; SELECT pglock.acquire_lease('k', '1h') AS token \\gset");
	start_waiting($waiter, $queue->{call});
	$queue->wait_for_place($pid, 'slot');
	$holder->query_safe('COMMIT');
	$queue->wait_for_place($pid, 'asleep');
	$holder->query_safe("BEGIN; SELECT pglock.release_lease('k', :token)");
	# nobody tells that a transaction has begun to release it: a shorter ttl has it look
	$observer->query_safe("SELECT pglock.renew_leases(array_agg(token), '1ms') FROM pglock.leases");
	$queue->wait_for_place($pid, 'slot');
	$holder->query_safe('ROLLBACK');
	is(finish_waiting($waiter), '00000', 'who waited for the slot sleeps once the lease is committed, and the other way round');
	is($holder->query("SELECT pglock.renew_lease('k', :token), pglock.revoke_lease('k')"), 'f|1', '... and has it in the end');
	$queue->nothing_is_left('... and nothing is left');
	end_session($waiter);
	return;
}

# CALL lease waits without a snapshot
sub test_snapshot
{
	my @waiters = map { session($node) } 0 .. 1;
	my $pids = join ', ', map { Waiters::pid_of($_) } @waiters;
	my $index = session($node);

	$node->safe_psql('postgres', 'CREATE TABLE indexed AS SELECT generate_series(1, 100) AS i');
	foreach my $place (sort keys %{ $queue->{holds} })
	{
		$holder->query_safe($queue->{holds}{$place}[0]);
		$queue->start_in_order($place, \@waiters, sql => { 0 => $queue->{call}, 1 => $queue->{call} });
		is($observer->query("SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids) AND backend_xmin IS NULL"),
			2, "CALL lease waits without a snapshot, at $place and at the gate");
		# the holder is in a transaction, but not in one that has written to this table
		is($index->query("SET statement_timeout = '60s';\nVACUUM indexed;\n\\echo :SQLSTATE"), '00000', '... VACUUM goes on');
		is($index->query("CREATE INDEX CONCURRENTLY ON indexed (i);\n\\echo :SQLSTATE"), '00000', '... and CREATE INDEX CONCURRENTLY');
		$holder->query_safe($queue->{holds}{$place}[1]);
		$queue->check_served('... and then each has the lease', @waiters);
	}
	end_session(@waiters, $index);
	return;
}

#
# Races
#

# A call is refused in the moment in which it may be granted. The answer is the token; an error and NULL leave nothing.
# Each query may be struck by a cancel that comes late: then the round says nothing.
sub test_race
{
	my ($name, $refused, $call, %race) = @_;
	my $before = $race{before} // '';
	my $after = $race{after} // '';
	my ($refusals, $leaks) = (0, 0);
	my %unexpected;
	# a lease that a late cancel kept from being revoked has another holder, and does not last
	my $round = <<"END_OF_SQL";
\\set holder :session -ROUND
$before
\\set token ''
$call \\gset
\\set state :SQLSTATE
$after
\\set left unknown
SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
	+ (SELECT count(*) FROM pglock.leases WHERE holder = :'holder' AND :'token' = '') AS left \\gset
\\echo round :state :left x:token
SELECT pglock.revoke_lease('raced') FROM pg_sleep(random() * 0.001) WHERE :'token' <> '' \\gset
END_OF_SQL
	my $script = "SELECT pg_backend_pid()::text AS session \\gset\n" . join '', map { $round =~ s/ROUND/$_/r } 1 .. ROUNDS;

	foreach my $batch (1 .. MOST_BATCHES)
	{
		foreach (map { /^round (.*)$/mg } $queue->run_struck_clients($script, CLIENTS, strike => $race{strike}, at => RACED))
		{
			my ($state, $left, $token) = split / /;

			next if $token ne 'x';
			$unexpected{$state}++ unless $state =~ $refused;
			next if $left eq 'unknown';
			$refusals++;
			$leaks++ if $left ne '0';
		}
		last if $refusals >= REFUSALS;
	}
	note("$name: $refusals refusals");
	is_deeply(\%unexpected, {}, "race, $name: no other errors");
	cmp_ok($refusals, '>=', REFUSALS, '... enough refusals');
	is($leaks, 0, "... none of $refusals has left a lock or a lease");
	is($observer->query("SELECT pglock.acquire_lease('raced', timeout => '60s') IS NOT NULL, pglock.revoke_lease('raced')"), 't|1', '... and the queue goes on');
	$queue->nothing_is_left('... and nothing is left');
	return;
}

# Sessions are ended while they wait, and while they get the lease: then it lasts until it expires.
sub test_kill_race
{
	my $answers = join '', $queue->run_struck_clients(
		"SELECT pglock.acquire_lease('raced', '20ms') IS NOT NULL;\n" x 20, CLIENTS,
		strike => 'pg_terminate_backend', at => RACED, times => KILLS);

	cmp_ok(scalar(() = $answers =~ /^t$/mg), '>', 0, 'race, terminate: the queue goes on');
	is($observer->query("SELECT pglock.acquire_lease('raced', timeout => '60s') IS NOT NULL, pglock.revoke_lease('raced')"), 't|1', '... to the end');
	$queue->nothing_is_left('... and nothing is left');
	return;
}

my $acquire = "SELECT coalesce(pglock.acquire_lease('raced', '100ms', holder => :'holder'";
my $lock_timeout = "SET lock_timeout = '1ms';";
my $statement_timeout = "SET statement_timeout = '2ms';";

$queue->test_order(WAITERS, @{ $queue->{holds}{asleep} });
$queue->test_ends;
$queue->test_lost_client;
$queue->test_own_timeout;
test_change_of_place();
test_snapshot();

test_race('timeout', qr/^00000$/, "$acquire, timeout => '1ms')::text, '') AS token");
test_race('timeout in a block', qr/^00000$/, "$acquire, timeout => '1ms')::text, '') AS token", before => 'BEGIN;', after => 'COMMIT;');
test_race('lock_timeout', qr/^55P03$/, "$acquire)::text, '') AS token", before => $lock_timeout, after => 'RESET lock_timeout;');
test_race('statement_timeout', qr/^57014$/, "$acquire)::text, '') AS token", before => $statement_timeout, after => 'RESET statement_timeout;');
test_race('statement_timeout after the grant', qr/^57014$/, "$acquire)::text, '') AS token, pg_sleep(0.0015)",
	before => $statement_timeout, after => 'RESET statement_timeout;');
test_race('cancel', qr/^57014$/, "$acquire)::text, '') AS token", strike => 'pg_cancel_backend');
test_race('cancel and timeout', qr/^(57014|00000)$/, "$acquire, timeout => '1ms')::text, '') AS token", strike => 'pg_cancel_backend');
test_race('CALL, timeout', qr/^55P03$/, "CALL pglock.lease('raced', '100ms', '1ms', :'holder')");
test_race('CALL, cancel', qr/^57014$/, "CALL pglock.lease('raced', '100ms', holder => :'holder')", strike => 'pg_cancel_backend');
test_kill_race();

$queue->end;
stop_and_check_log($node);
done_testing();
