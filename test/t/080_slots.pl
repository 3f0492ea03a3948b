# Slots: never more are held than there are, whoever waited longest has the next, and whatever frees one wakes that one.
#
# SLOT_RACES=1000: so many sessions are killed as they wait, instead of a few.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Waiters;

use constant {
	CLIENTS => 20,
	PERMITS => 4,
	GRANTS => 100_000,
	MOST_BATCHES => 20,
	WAITERS => 40,
	KILLERS => 4,
	KILLS => ($ENV{SLOT_RACES} // 100) / 4,    # of each of their clients
	# seconds: who is woken does not wait for the next look, which comes after one
	WOKEN => 0.5,
	NOTICED => 1.5,
};

my $node = new_server('slots', conf => <<'END_OF_CONF');
shared_preload_libraries = postgres_lock
max_connections = 60
max_locks_per_transaction = 256
max_prepared_transactions = 5
restart_after_crash = on
autovacuum = off
fsync = off
deadlock_timeout = 10s
END_OF_CONF
my @killed;

#
# Exclusion
#

$node->safe_psql('postgres', <<'END_OF_SQL');
-- Takes a slot of so many, in one of many ways, and looks whether anybody else has it: who does is inside of
-- pg_try_advisory_lock(1, slot), too, which knows nothing of us.
CREATE PROCEDURE take_turns(way text, permits int, turns int, INOUT violations int = 0) LANGUAGE plpgsql AS $$
DECLARE
	slot int;
BEGIN
	FOR i IN 1..turns LOOP
		CASE way
			WHEN 'acquire' THEN slot := pglock.acquire_slot('k', permits);
			WHEN 'call' THEN CALL pglock.slot('k', permits, '1h', 'session', slot);
			WHEN 'transaction' THEN slot := pglock.acquire_slot('k', permits, scope => 'transaction');
			WHEN 'timeout' THEN
				slot := NULL;
				WHILE slot IS NULL LOOP slot := coalesce(pglock.try_slot('k', permits), pglock.acquire_slot('k', permits, '1ms')); END LOOP;
			WHEN 'control' THEN slot := 1 + floor(random() * permits);
		END CASE;
		IF slot BETWEEN 1 AND permits AND pg_try_advisory_lock(1, slot) THEN
			-- long enough for others to come
			IF random() < 0.1 THEN PERFORM pg_sleep(0.001); END IF;
			PERFORM pg_advisory_unlock(1, slot);
		ELSE
			violations := violations + 1;
		END IF;
		IF way = 'transaction' THEN
			COMMIT;
		ELSIF way <> 'control' AND NOT pglock.release_slot('k', slot) THEN
			violations := violations + 1;
		END IF;
	END LOOP;
END $$;
END_OF_SQL

# So many clients take turns, each in one of the ways; `permits` may use :client, the client's number. Returns how
# often the look found another, and how many clients came to their end.
sub take_turns
{
	my ($clients, $permits, $turns, @ways) = @_;
	my $ways = join ',', @ways;
	my @answers = run_psqls($node, <<"END_OF_SQL", $clients);
SET pglock.warnings = off;
SELECT ('{$ways}'::text[])[1 + :client % @{[ scalar @ways ]}] AS way, $permits AS permits \\gset
CALL take_turns(:'way', :permits, $turns);
END_OF_SQL
	my $violations = 0;

	$violations += $_ || 0 foreach @answers;
	return $violations, scalar grep { /^\d+\n$/ } @answers;
}

my @ways = ('acquire', 'call', 'transaction', 'timeout');

sub test_exclusion
{
	my ($violations, $ended);

	foreach (1 .. MOST_BATCHES)
	{
		($violations) = take_turns(CLIENTS, PERMITS, 200, 'control');
		last if $violations > 0;
	}
	cmp_ok($violations, '>', 0, 'control: two are seen who have one slot');
	($violations, $ended) = take_turns(CLIENTS, PERMITS, GRANTS / CLIENTS, @ways);
	is($violations, 0, CLIENTS . ' clients on ' . PERMITS . ' slots: of ' . GRANTS . ' grants each is alone, within the number');
	is($ended, CLIENTS, '... and all are served');
	cmp_ok($node->safe_psql('postgres', "SELECT waits FROM pglock.contention WHERE key = 'k' AND of_slots"), '>', GRANTS / 10, '... many had to wait');
	($violations, $ended) = take_turns(CLIENTS, '1 + :client % ' . PERMITS, 250, @ways);
	is($violations, 0, '... and where each says another number');
	is($ended, CLIENTS, '... and all are served');
	return;
}

# All but two, or none, are held by another session.
sub test_number
{
	my ($slots, $turns) = @_;
	my $session = session($node);
	my $held = $slots > 2 ? $slots - 2 : 0;
	my $free;

	is( $session->query("SELECT count(DISTINCT pglock.acquire_slot('k', $slots)) FROM generate_series(1, $held)"),
		$held, "$slots slots: a session has $held of them");
	$free = $session->query("SELECT array_agg(i) FROM generate_series(1, $slots) AS i WHERE i NOT IN (SELECT slot FROM pglock.session_holds())");

	# who is granted one of those that are held is found by their look
	$session->query("SELECT count(pg_advisory_lock(1, slot)) FROM pglock.session_holds()");

	my ($violations, $ended) = take_turns(6, $slots, $turns, @ways);

	is($violations, 0, "... others take turns at $free alone");
	is($ended, 6, '... and all are served');
	is($session->query('SELECT pglock.release_all()'), $held, '... and all slots are given back');
	$session->quit;
	return;
}

#
# What wakes the one in front
#

my $queue = Waiters->new(
	$node,
	name => 'a slot of "k"',
	acquire => "SELECT pglock.acquire_slot('k', 2)",
	call => "CALL pglock.slot('k', 2)",
	timed => [ "SELECT pglock.acquire_slot('k', 2, '100ms')", "CALL pglock.slot('k', 2, '100ms')" ],
	short => "pglock.acquire_slot('k', 2, '1ms') IS NULL",
	give_back => 'SELECT pglock.release_all()',
	given_back => '1',
	holds => { asleep => [ "SELECT count(pglock.acquire_slot('k', 2)) FROM generate_series(1, 2)", 'SELECT pglock.release_all()' ] },
	locks => { gate => 5 },
	waiting => '(SELECT count(*) FROM pglock.locks WHERE NOT granted)',
	left => "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'");

my $both = "PERFORM pglock.acquire_slot('k', 2) FROM generate_series(1, 2);";
my $both_tx = "SELECT count(pglock.acquire_slot('k', 2, scope => 'transaction')) FROM generate_series(1, 2)";
my $any_sleeps = "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%_slot%')";
my $is_waited_for = "WHILE NOT $any_sleeps LOOP PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); END LOOP;";
# the statement goes on until the one in front has been served
my $goes_on = "WHILE $any_sleeps LOOP PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); END LOOP;";

# How the slots are held, by a session that does nothing else or by SQL that goes on, and what sets them free.
my @wakes = (
	{ name => 'release_slot', do => "SELECT pglock.release_slot('k', 2)" },
	{ name => 'release_all', do => 'SELECT pglock.release_all()' },
	{ name => 'pg_advisory_unlock_all', do => 'SELECT pg_advisory_unlock_all()' },
	{ name => 'DISCARD ALL', do => 'DISCARD ALL' },
	{ name => 'COMMIT', take => "BEGIN; $both_tx", do => 'COMMIT' },
	{ name => 'ROLLBACK', take => "BEGIN; $both_tx", do => 'ROLLBACK' },
	{ name => 'ROLLBACK TO', take => "BEGIN; SAVEPOINT s; $both_tx", do => 'ROLLBACK TO s' },
	{ name => 'an error in the block', take => "BEGIN; $both_tx", do => 'SELECT 1/0' },
	{ name => 'an error after the savepoint', take => "BEGIN; SAVEPOINT s; $both_tx", do => 'SELECT 1/0' },
	{ name => 'an error of the command that took them', runs => "DO \$\$ BEGIN $both $is_waited_for RAISE 'error'; END \$\$" },
	{ name => 'the end of the statement that took them', runs => "WITH taken AS MATERIALIZED ($both_tx), slept AS MATERIALIZED (SELECT pg_sleep(0.2) FROM taken) SELECT FROM slept" },
	{ name => 'pg_terminate_backend', do => sub { $queue->{observer}->query_safe("SELECT pg_terminate_backend($_[1])") } },
	{ name => 'the end of the session', do => sub { $_[0]->quit } },
	{ name => 'the loss of the client', do => sub { $_[0]->{run}->signal('KILL') } },
	{
		name => 'pg_advisory_unlock_all in a statement that goes on',
		runs => "DO \$\$ BEGIN $both $is_waited_for PERFORM pg_advisory_unlock_all(); $goes_on END \$\$",
		limit => NOTICED
	},
	{
		name => 'the rollback of a part of a statement that goes on',
		runs => "DO \$\$ BEGIN BEGIN PERFORM ($both_tx); $is_waited_for RAISE 'error'; EXCEPTION WHEN raise_exception THEN $goes_on END; END \$\$",
		limit => NOTICED
	},
	{ name => 'COMMIT PREPARED', take => "BEGIN; $both_tx; PREPARE TRANSACTION 'p'", do => "COMMIT PREPARED 'p'", limit => NOTICED },
	{ name => 'ROLLBACK PREPARED', take => "BEGIN; $both_tx; PREPARE TRANSACTION 'p'", do => "ROLLBACK PREPARED 'p'", limit => NOTICED });

# How long the waiter, which sleeps in front, has to wait from then on
sub time_until_served
{
	my ($waiter, $wake) = @_;
	my $holder = session($node);
	my $pid = Waiters::pid_of($holder);
	my $start;

	if ($wake->{runs})
	{
		start_waiting($holder, $wake->{runs});
		$queue->wait_until("(SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory')");
		# it looks for itself when the waiter sleeps
		$start = time;
		start_waiting($waiter, $queue->{acquire});
	}
	else
	{
		$holder->query_safe($wake->{take} // $queue->{holds}{asleep}[0]);
		$queue->start_in_order('asleep', [$waiter]);
		$start = time;
		ref $wake->{do} ? $wake->{do}->($holder, $pid) : $holder->query($wake->{do});
	}

	my $state = finish_waiting($waiter);
	my $time = time - $start;

	is($state, '00000', "$wake->{name}: the one in front has a slot");
	$holder->query("ROLLBACK;\nSELECT pglock.release_all()") unless ref $wake->{do};
	is($waiter->query('SELECT pglock.release_all()'), '1', '... alone');
	end_session($holder);
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"), '... and nothing is left');
	return $time;
}

sub test_wakes
{
	my $waiter = session($node);

	foreach my $wake (@wakes)
	{
		my $limit = $wake->{limit} // WOKEN;
		my $time;

		# the machine may be busy
		foreach (1 .. 3)
		{
			$time = time_until_served($waiter, $wake);
			last if $time < $limit;
		}
		cmp_ok($time, '<', $limit, "... $wake->{name}: and soon");
	}
	end_session($waiter);
	return;
}

# A session that had to wait for its first slot, which was the only one that it asked for, wakes others, too.
sub test_first_wait
{
	my ($first, $waiter) = map { session($node) } 1 .. 2;
	my $pid = Waiters::pid_of($first);
	my ($time, $start);

	foreach (1 .. 3)
	{
		$queue->{holder}->query_safe($queue->{holds}{asleep}[0]);
		$first = session($node) if $_ > 1;
		$pid = Waiters::pid_of($first);
		start_waiting($first, "SELECT pglock.acquire_slot('k', 1)");
		wait_for_waiter($node, 'k');
		$queue->{holder}->query_safe("SELECT pglock.release_slot('k', 1)");
		is(finish_waiting($first), '00000', 'a session has waited for the only slot');
		$queue->start_in_order('asleep', [$waiter]);
		$start = time;
		$queue->{observer}->query_safe("SELECT pg_terminate_backend($pid)");
		is(finish_waiting($waiter), '00000', '... it is ended, and the one in front has the slot');
		$time = time - $start;
		is($waiter->query('SELECT pglock.release_all()'), '1', '... alone');
		end_session($first);
		$queue->{holder}->query_safe('SELECT pglock.release_all()');
		last if $time < WOKEN;
	}
	cmp_ok($time, '<', WOKEN, '... and soon');
	end_session($waiter);
	return;
}

# Who holds one and waits for another is in the way of those behind once.
sub test_blocked_by
{
	my ($first, $second, $behind) = map { session($node) } 1 .. 3;
	my ($first_pid, $second_pid, $pid) = map { Waiters::pid_of($_) } $first, $second, $behind;

	$_->query_safe("SELECT pglock.acquire_slot('k', 2)") foreach $first, $second;
	$queue->start_in_order('asleep', [ $first, $behind ]);
	is($queue->{observer}->query("SELECT blocked_by FROM pglock.locks WHERE NOT granted AND pid = $first_pid"), "{$second_pid}",
		'who holds a slot and waits for another waits for who has that');
	is($queue->{observer}->query("SELECT cardinality(blocked_by), blocked_by \@> ARRAY[$first_pid, $second_pid] FROM pglock.locks WHERE pid = $pid"),
		'2|t', '... and both are in the way of the next');
	is($second->query('SELECT pglock.release_all()'), '1', '... the one gives it back');
	is(finish_waiting($first), '00000', '... which the other has then');
	is($first->query('SELECT pglock.release_all()'), '2', '... and gives both back');
	$queue->check_served('... and the next is served', $behind);
	end_session($first, $second, $behind);
	return;
}

# Sessions are ended while they wait, in front and behind, and while they get slots.
sub test_kill_race
{
	my $answers = join '', $queue->run_struck_clients(
		"SELECT pglock.acquire_slot('raced', 2) IS NOT NULL FROM pg_sleep(random() * 0.001);\nSELECT pglock.release_all() \\g /dev/null\n" x 20,
		KILLERS, strike => 'pg_terminate_backend', at => "%pglock.acquire_slot(''raced%", times => KILLS);

	cmp_ok(scalar(() = $answers =~ /^t$/mg), '>', 0, 'race, terminate: the queue goes on');
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"), '... to the end, and nothing is left');
	return;
}

# The server restarts, and nobody holds anything.
sub test_crash
{
	my ($crashing, $waiter) = map { session($node) } 1 .. 2;
	my $pid = Waiters::pid_of($crashing);

	$crashing->query_safe($queue->{holds}{asleep}[0]);
	$queue->start_in_order('asleep', [$waiter]);
	push @killed, $pid;
	kill 'KILL', $pid;
	ok($node->poll_query_until('postgres', "SELECT count(pglock.acquire_slot('k', 2)) = 2 FROM generate_series(1, 2)"),
		'kill -9 of the holder: all slots are free again');
	end_session($crashing, $waiter);
	return;
}

test_exclusion();
test_number(@$_) foreach [ 1, 100 ], [ 2, 100 ], [ 100, 100 ], [ 10_000, 10 ];
$queue->test_order(WAITERS, $queue->{holds}{asleep}[0], "SELECT pglock.release_slot('k', 1)");
$queue->{holder}->query_safe('SELECT pglock.release_all()');
$queue->nothing_is_left('... and nothing is left');
$queue->test_ends;
$queue->test_lost_client;
$queue->test_own_timeout;
test_blocked_by();
test_kill_race();
foreach my $preloaded (1, 0)
{
	if (!$preloaded)
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
		$node->restart;
		$queue->reconnect;
	}
	note($preloaded ? 'preloaded' : 'not preloaded');
	test_wakes();
	test_first_wait();
}
test_crash();

$queue->end;
stop_and_check_log($node, killed => \@killed);
done_testing();
