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

use constant {
	WAITERS => 100,
	CLIENTS => 4,
	ROUNDS => 100,    # of each client in one batch
	REFUSALS => $ENV{LEASE_RACES} // 100,
	MOST_BATCHES => 60,
	KILLS => ($ENV{LEASE_RACES} // 100) / 4,    # of each client
};

# The gate of a key, and its only slot, in pg_locks.objsubid
use constant { GATE => 4, SLOT => 0x4001 };

my $node = new_server('lease_waiters', conf => <<'END_OF_CONF');
max_connections = 130
autovacuum = off
fsync = off
deadlock_timeout = 10s
END_OF_CONF
my ($holder, $observer) = map { session($node) } 1 .. 2;

sub pid_of { return scalar $_[0]->query('SELECT pg_backend_pid()'); }

# More often than poll_query_until() would look.
sub wait_until
{
	my ($condition) = @_;

	$observer->query_safe(<<"END_OF_SQL");
DO \$\$ BEGIN
	FOR i IN 1..60000 LOOP
		IF ($condition) THEN RETURN; END IF;
		PERFORM pg_stat_clear_snapshot(), pg_sleep(0.001);
	END LOOP;
	RAISE 'not so: %', \$not\$ $condition \$not\$;
END \$\$
END_OF_SQL
	return;
}

# Has anybody a lock of a lease, or waits for one, or is there a lease.
sub nothing_is_left
{
	my ($name) = @_;

	is($observer->query("SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), (SELECT count(*) FROM pglock.leases)"),
		'0|0', $name);
	return;
}

# Waits until the session with that pid is at that place.
sub wait_for_place
{
	my ($pid, $place) = @_;
	my $asleep = "EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension')";
	my ($gate, $slot) = map { "EXISTS (SELECT FROM pg_locks WHERE pid = $pid AND NOT granted AND objsubid = $_)" } GATE, SLOT;

	wait_until({ asleep => $asleep, gate => $gate, slot => $slot, any => "$asleep OR $gate OR $slot" }->{$place});
	return;
}

#
# The order
#

sub test_order
{
	my @clients;

	$node->safe_psql('postgres', 'CREATE TABLE served (at serial, waiter int)');
	$holder->query_safe("SELECT pglock.acquire_lease('k', '1h')");
	foreach my $waiter (1 .. WAITERS)
	{
		my $call = $waiter % 2 ? "CALL pglock.lease('k', '1h')" : "SELECT pglock.acquire_lease('k', '1h', timeout => '1h')";

		push @clients,
		  IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', $call,
				'-c', "INSERT INTO served (waiter) VALUES ($waiter)", '-c', "SELECT pglock.revoke_lease('k')" ],
			'<', \undef, '>', '/dev/null', '2>', '/dev/null');
		wait_until("(SELECT waiters FROM pglock.leases) = $waiter");
	}
	is($observer->query('SELECT waiters FROM pglock.leases'), WAITERS, WAITERS . ' sessions wait, says the view');
	$holder->query_safe("SELECT pglock.revoke_lease('k')");
	is(scalar(grep { !$_->finish } @clients), 0, '... all of them get the lease');
	is($observer->query("SELECT string_agg(waiter::text, ' ' ORDER BY at) FROM served"), join(' ', 1 .. WAITERS),
		'... in the order in which they came');
	nothing_is_left('... and nothing is left');
	return;
}

#
# Whatever ends a wait
#

# How the wait of a session is ended: what is set before, what is done, and the SQLSTATE that comes of it; none: the
# session is gone.
my %ends = (
	terminate => { do => sub { $observer->query("SELECT pg_terminate_backend($_[1])") } },
	cancel => { do => sub { $observer->query("SELECT pg_cancel_backend($_[1])") }, state => '57014' },
	statement_timeout => { before => "SET statement_timeout = '100ms'", state => '57014' },
	lock_timeout => { before => "SET lock_timeout = '100ms'", state => '55P03' },
	timeout => { call => "SELECT pglock.acquire_lease('k', '1h', timeout => '100ms')", state => '00000' },
	'timeout of CALL' => { call => "CALL pglock.lease('k', '1h', timeout => '100ms')", state => '55P03' },
	'loss of the client' => {
		before => "SET client_connection_check_interval = '10ms'",
		do => sub { $_[0]->{run}->signal('KILL') }
	});

# How the holder holds the lease, and ends that; where the one in front waits meanwhile.
my %holds = (
	asleep => [ "SELECT pglock.acquire_lease('k', '1h') AS nothing \\gset", "SELECT pglock.revoke_lease('k')" ],
	slot => [ "BEGIN; SELECT pglock.acquire_lease('k', '1h') AS nothing \\gset", 'ROLLBACK' ]);

# The wait of the victim is ended, which is that in front or the one behind.
sub test_end
{
	my ($kind, $place, $victim) = @_;
	my $end = $ends{$kind};
	my $name = "$kind, " . ($victim ? 'behind' : 'in front') . ", in front is at: $place";
	my @waiters = map { session($node) } 0 .. 2;
	my @pids = map { pid_of($_) } @waiters;

	$holder->query_safe($holds{$place}[0]);
	foreach my $i (0 .. 2)
	{
		my $is_victim = $i == $victim;

		$waiters[$i]->query_safe($end->{before}) if $is_victim && $end->{before};
		start_waiting($waiters[$i], ($is_victim ? $end->{call} : undef) // "SELECT pglock.acquire_lease('k', '1h')");
		# where it is a timeout that ends the wait, it may have passed
		wait_for_place($pids[$i], $i ? 'gate' : $place) if $end->{do};
		wait_for_place($pids[$i], 'any') unless $end->{do} || $is_victim;
	}
	$end->{do}->($waiters[$victim], $pids[$victim]) if $end->{do};
	if ($end->{state})
	{
		is(finish_waiting($waiters[$victim]), $end->{state}, "$name: the wait ends");
		like($waiters[$victim]->{stderr}, qr/while acquiring lease "k"/, '... and its context says what was waited for')
		  if $end->{state} ne '00000' && $kind ne 'timeout of CALL';
	}
	else
	{
		wait_for_session_end($node, $pids[$victim]);
		pass("$name: the session ends");
	}
	$holder->query_safe($holds{$place}[1]);
	foreach my $i (grep { $_ != $victim } 0 .. 2)
	{
		is(finish_waiting($waiters[$i]), '00000', '... and the next has the lease');
		is($waiters[$i]->query("SELECT pglock.revoke_lease('k')"), '1', '... alone');
	}
	nothing_is_left('... and nothing is left');
	end_session(@waiters);
	return;
}

# A client that is lost, and whose session does not look, is not given the lease.
sub test_lost_client
{
	my @waiters = map { session($node) } 0 .. 1;
	my @pids = map { pid_of($_) } @waiters;

	$holder->query_safe("SELECT pglock.acquire_lease('k', '1h')");
	foreach my $i (0 .. 1)
	{
		start_waiting($waiters[$i], "SELECT pglock.acquire_lease('k', '1h')");
		wait_for_place($pids[$i], $i ? 'gate' : 'asleep');
	}
	$waiters[0]->{run}->signal('KILL');
	$waiters[0]->{run}->finish;
	$holder->query_safe("SELECT pglock.revoke_lease('k')");
	is(finish_waiting($waiters[1]), '00000', 'a client is lost in front: when the lease is free the next has it');
	wait_for_session_end($node, $pids[0]);
	is($waiters[1]->query("SELECT pglock.revoke_lease('k')"), '1', '... alone');
	nothing_is_left('... and nothing is left');
	end_session(@waiters);
	return;
}

# Our own timeout is no error: the transaction goes on, with the settings that it had.
sub test_own_timeout
{
	my $waiter = session($node);

	foreach my $place (sort keys %holds)
	{
		$holder->query_safe($holds{$place}[0]);
		is($waiter->query(<<'END_OF_SQL'), "t\nt\n1h\n2h\n1", "our own timeout at $place: the transaction goes on, and its settings are as they were");
CREATE TEMP TABLE work (i int);
BEGIN;
SET LOCAL lock_timeout = '1h';
SET LOCAL statement_timeout = '2h';
INSERT INTO work VALUES (1);
SELECT pglock.acquire_lease('k', timeout => '1ms') IS NULL;
SELECT pglock.acquire_lease('k', timeout => '20ms') IS NULL;
SHOW lock_timeout;
SHOW statement_timeout;
COMMIT;
SELECT count(*) FROM work;
DROP TABLE work;
END_OF_SQL
		$holder->query_safe($holds{$place}[1]);
	}
	nothing_is_left('... and nothing is left');
	end_session($waiter);
	return;
}

# From the lock of the slot to the sleep in front, when the lease is committed; and back, when its release is undone.
sub test_change_of_place
{
	my $waiter = session($node);
	my $pid = pid_of($waiter);

	$holder->query_safe("BEGIN; SELECT pglock.acquire_lease('k', '1h') AS token \\gset");
	start_waiting($waiter, "CALL pglock.lease('k', '1h')");
	wait_for_place($pid, 'slot');
	$holder->query_safe('COMMIT');
	wait_for_place($pid, 'asleep');
	$holder->query_safe("BEGIN; SELECT pglock.release_lease('k', :token)");
	# nobody tells that a transaction has begun to release it: a shorter ttl has it look
	$observer->query_safe("SELECT pglock.renew_leases(array_agg(token), '1ms') FROM pglock.leases");
	wait_for_place($pid, 'slot');
	$holder->query_safe('ROLLBACK');
	is(finish_waiting($waiter), '00000', 'who waited for the slot sleeps once the lease is committed, and the other way round');
	is($holder->query("SELECT pglock.renew_lease('k', :token), pglock.revoke_lease('k')"), 'f|1', '... and has it in the end');
	nothing_is_left('... and nothing is left');
	end_session($waiter);
	return;
}

# CALL lease waits without a snapshot
sub test_snapshot
{
	my @waiters = map { session($node) } 0 .. 1;
	my @pids = map { pid_of($_) } @waiters;
	my $index = session($node);

	$node->safe_psql('postgres', 'CREATE TABLE indexed AS SELECT generate_series(1, 100) AS i');
	foreach my $place (sort keys %holds)
	{
		$holder->query_safe($holds{$place}[0]);
		foreach my $i (0 .. 1)
		{
			start_waiting($waiters[$i], "CALL pglock.lease('k', '1h')");
			wait_for_place($pids[$i], $i ? 'gate' : $place);
		}
		is($observer->query("SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids[0], $pids[1]) AND backend_xmin IS NULL"),
			2, "CALL lease waits without a snapshot, at $place and at the gate");
		# the holder is in a transaction, but not in one that has written to this table
		is($index->query("SET statement_timeout = '60s';\nVACUUM indexed;\n\\echo :SQLSTATE"), '00000', '... VACUUM goes on');
		is($index->query("CREATE INDEX CONCURRENTLY ON indexed (i);\n\\echo :SQLSTATE"), '00000', '... and CREATE INDEX CONCURRENTLY');
		$holder->query_safe($holds{$place}[1]);
		foreach my $waiter (@waiters)
		{
			is(finish_waiting($waiter), '00000', '... and then has the lease');
			$waiter->query_safe("SELECT pglock.revoke_lease('k')");
		}
	}
	nothing_is_left('... and nothing is left');
	end_session(@waiters, $index);
	return;
}

#
# Races
#

$node->safe_psql('postgres', <<'END_OF_SQL');
CREATE TABLE race (over boolean);

-- Until the race is over
CREATE PROCEDURE strike_waiters(how regproc) LANGUAGE plpgsql AS $$
DECLARE
	struck boolean;
BEGIN
	WHILE NOT EXISTS (SELECT FROM race) LOOP
		EXECUTE format('SELECT bool_or(%s(pid)) FROM pg_stat_activity
			WHERE state = ''active'' AND query LIKE ''%%pglock.%%lease(''''raced%%'' AND pid <> pg_backend_pid() AND random() < 0.5', how) INTO struck;
		COMMIT;
		FOR i IN 1..random() * 2000 LOOP END LOOP;
	END LOOP;
END $$;
END_OF_SQL

# Runs the script in all clients at once, with a procedure that strikes at them if given; returns what they print.
sub run_clients
{
	my ($script, $strike, $times) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/lease_race";
	my @psql = ('psql', '-XAtq', '-d', $node->connstr('postgres'));
	my ($striker, @clients);

	unlink "$file.sql";
	append_to_file("$file.sql", $script);
	$node->safe_psql('postgres', 'TRUNCATE race');
	$striker = IPC::Run::start([ @psql, '-c', "CALL strike_waiters('$strike')" ], '<', \undef) if $strike;
	# from file to file: IPC::Run would serve one client at a time
	foreach my $i (1 .. CLIENTS)
	{
		push @clients,
		  IPC::Run::start([ 'sh', '-c', 'n=$1; shift; for i in $(seq $n); do "$@"; done', 'sh', $times // 1, @psql, '-f', "$file.sql" ],
			'<', \undef, '>', "$file.out$i", '2>', '/dev/null');
	}
	$_->finish foreach @clients;
	$node->safe_psql('postgres', 'INSERT INTO race VALUES (true)');
	$striker->finish if $striker;
	return map { slurp_file("$file.out$_") } 1 .. CLIENTS;
}

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
		foreach (map { /^round (.*)$/mg } run_clients($script, $race{strike}))
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
	nothing_is_left('... and nothing is left');
	return;
}

# Sessions are ended while they wait, and while they get the lease: then it lasts until it expires.
sub test_kill_race
{
	my $answers = join '', run_clients("SELECT pglock.acquire_lease('raced', '20ms') IS NOT NULL;\n" x 20, 'pg_terminate_backend', KILLS);

	cmp_ok(scalar(() = $answers =~ /^t$/mg), '>', 0, 'race, terminate: the queue goes on');
	is($observer->query("SELECT pglock.acquire_lease('raced', timeout => '60s') IS NOT NULL, pglock.revoke_lease('raced')"), 't|1', '... to the end');
	nothing_is_left('... and nothing is left');
	return;
}

my $acquire = "SELECT coalesce(pglock.acquire_lease('raced', '100ms', holder => :'holder'";
my $lock_timeout = "SET lock_timeout = '1ms';";
my $statement_timeout = "SET statement_timeout = '2ms';";

test_order();
foreach my $kind (sort keys %ends)
{
	foreach my $place (sort keys %holds)
	{
		test_end($kind, $place, $_) foreach 0 .. 1;
	}
}
test_lost_client();
test_own_timeout();
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

end_session($holder, $observer);
stop_and_check_log($node);
done_testing();
