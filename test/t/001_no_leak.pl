# A call that is refused leaves nothing held, whatever refused it and whenever.
#
# The lock may be granted in the moment in which a timeout or a cancel strikes. So several clients
# race short waits against short holds, and look after every refusal what their session holds. The
# control shows that pg_advisory_lock() leaks in the same race.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	CLIENTS => 4,
	ROUNDS => 400,    # of each client in one batch
	REFUSALS => 1000,
	MOST_BATCHES => 40,
};

my $node = new_server('leak', conf => "deadlock_timeout = 10s\nlog_min_messages = log\n");
my $held = "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
my $held_keys = "(pglock.held('a') OR pglock.held('b') OR pglock.held('k'))";

$node->safe_psql('postgres', <<'END');
CREATE TABLE race (over boolean);

-- Lets sessions that wait get their locks and cancels them in the same moment, until the race is over
CREATE PROCEDURE cancel_waiters() LANGUAGE plpgsql AS $$
DECLARE
	waiting int[];
	waiter int;
BEGIN
	WHILE NOT EXISTS (SELECT FROM race WHERE over) LOOP
		PERFORM pglock.acquire('a'), pglock.acquire_slot('a', 2);
		FOR i IN 1..1000 LOOP
			-- who has the place in front waits for slots
			SELECT array_agg(DISTINCT pid) INTO waiting FROM pg_locks
			WHERE locktype = 'advisory' AND (NOT granted OR objsubid = 5);
			EXIT WHEN waiting IS NOT NULL OR EXISTS (SELECT FROM race WHERE over);
		END LOOP;
		IF random() < 0.8 THEN
			PERFORM pglock.release_all();
			-- give the waiter a little of the time in which it answers
			FOR i IN 1..random() * 200 LOOP END LOOP;
		END IF;
		FOREACH waiter IN ARRAY coalesce(waiting, '{}') LOOP
			PERFORM pg_cancel_backend(waiter);
		END LOOP;
		PERFORM pglock.release_all();
	END LOOP;
END $$;

-- What a command that catches errors itself is refused, and what it then holds that it should not.
-- A call that has answered true is none: its caller may be cancelled next, and catches that. The
-- sequence remembers such an answer, as no rollback takes a number back.
CREATE SEQUENCE answers CACHE 1000000;
CREATE FUNCTION race_and_catch(
	rounds int, call text, OUT refusals int, OUT leaks int)
LANGUAGE plpgsql AS $$
DECLARE
	answer bigint := nextval('answers');
BEGIN
	refusals := 0;
	-- what this session took in a call of this function that failed: a cancel may strike anywhere
	leaks := (SELECT count(*) FROM pg_locks
		WHERE locktype = 'advisory' AND pid = pg_backend_pid());
	FOR i IN 1..rounds LOOP
		BEGIN
			EXECUTE 'SELECT CASE WHEN ' || call || ' THEN nextval(''answers'') END';
		EXCEPTION WHEN lock_not_available OR query_canceled THEN
		END;
		IF currval('answers') > answer THEN
			answer := currval('answers');
			PERFORM pg_sleep(random() * 0.001);
		ELSE
			refusals := refusals + 1;
			leaks := leaks + ((SELECT count(*) FROM pg_locks
				WHERE locktype = 'advisory' AND pid = pg_backend_pid()) > 0
				OR pglock.held('a') OR pglock.held('b') OR pglock.held('k'))::int;
		END IF;
		-- the latter what the former does not know of, and nobody is told before the statement ends
		PERFORM pglock.release_all();
		PERFORM pg_advisory_unlock_all();
	END LOOP;
END $$;
END

# One round of a client whose errors reach it. `before`, `after`: what is set only round the call.
# Each query may be struck by a cancel that comes late: then the round says nothing.
sub round_of
{
	my ($race) = @_;
	my $before = $race->{before} // '';
	my $after = $race->{after} // '';
	# a procedure gives no answer but that there was no error
	my $race_ok = $race->{call} =~ /^CALL/ ? "\\if :ERROR\n\\else\n\\set ok t\n\\endif\n" : '';

	return <<END;
\\set before unknown
SELECT $held AS before \\gset
$before
\\set ok f
$race->{call} \\gset
\\set state :SQLSTATE
$race_ok$after
SELECT 1 AS late \\gset
\\set answer unknown
SELECT $held || ' ' || $held_keys AS answer \\gset
\\echo round :before :state :ok :answer
SELECT CASE WHEN :'ok' THEN pg_sleep(random() * 0.001) END AS nothing \\gset
ROLLBACK;
SELECT pg_advisory_unlock_all() AS nothing \\gset
END
}

# Batch after batch until there were enough refusals, or a leak where one is hoped for.
# Tests the SQLSTATEs; returns (refusals, leaks).
sub run_race
{
	my ($race) = @_;
	my ($refusals, $leaks) = (0, 0);
	my %unexpected;
	my $script = $race->{caught}
	  ? ($race->{before} // '') . "SELECT race_and_catch(20, \$\$$race->{call}\$\$);\n" x (ROUNDS / 20)
	  : round_of($race) x ROUNDS;

	for my $batch (1 .. MOST_BATCHES)
	{
		my $canceller;

		if ($race->{cancel})
		{
			$node->safe_psql('postgres', 'TRUNCATE race');
			$canceller = IPC::Run::start(
				[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'CALL cancel_waiters()' ]);
		}
		foreach my $output (run_psqls($node, $script, CLIENTS))
		{
			if ($race->{caught})
			{
				while ($output =~ /\((\d+),(\d+)\)/g)
				{
					$refusals += $1;
					$leaks += $2;
				}
				next;
			}
			foreach my $round ($output =~ /^round (.*)$/mg)
			{
				my ($before, $state, $ok, $count, $held) = split / /, $round;

				next if $before ne '0' || $ok eq 't';
				$unexpected{$state}++ if $state !~ $race->{refused};
				next if $count eq 'unknown';
				$refusals++;
				$leaks++ if $count ne '0' || $held ne 'f' && $held ne 'false';
			}
		}
		if ($canceller)
		{
			$node->safe_psql('postgres', 'INSERT INTO race VALUES (true)');
			$canceller->finish;
		}
		last if $race->{control} ? $leaks > 0 : $refusals >= REFUSALS;
	}
	is_deeply(\%unexpected, {}, ($race->{name} // 'control') . ': no other errors');
	return ($refusals, $leaks);
}

# What the clients do. `refused`: the SQLSTATEs that may come of it; 00000 is the answer false.
#
# acquire_all takes its keys in the order k, b, a. All race for a, and half of them hold the others
# by then, so that what fails is mostly the second half.
my $acquire_all = "pglock.acquire_all(CASE WHEN random() < 0.5 THEN '{a,b,k}'::text[] ELSE '{a}' END";
my $shared = 'shared => random() < 0.3';
my $lock_timeout = "SET lock_timeout = '1ms';";
my $slot = "pglock.acquire_slot('a', CASE WHEN random() < 0.3 THEN 1 ELSE 2 END";
my $statement_timeout = "SET statement_timeout = '2ms';";
my $no_statement_timeout = 'SET statement_timeout = 0;';
my @races = (
	{
		name => 'timeout',
		call => "SELECT pglock.acquire('a', '1ms', $shared) AS ok",
		refused => qr/^00000$/
	},
	{
		name => 'timeout and lock_timeout',
		before => $lock_timeout,
		call => "SELECT pglock.acquire('a', '1ms') AS ok",
		refused => qr/^(00000|55P03)$/
	},
	{
		name => 'timeout, transaction scope',
		before => 'BEGIN;',
		call => "SELECT pglock.acquire('a', '1ms', $shared, scope => 'transaction') AS ok",
		refused => qr/^00000$/
	},
	{
		name => 'lock_timeout',
		before => $lock_timeout,
		call => "SELECT pglock.acquire('a', shared => random() < 0.3) AS ok",
		refused => qr/^55P03$/
	},
	{
		name => 'lock_timeout, undone by a savepoint',
		before => "$lock_timeout BEGIN; SAVEPOINT before;",
		call => "SELECT pglock.acquire('a') AS ok",
		after => 'ROLLBACK TO before;',
		refused => qr/^55P03$/
	},
	{
		name => 'cancel',
		cancel => 1,
		call => "SELECT pglock.acquire('a') AS ok",
		refused => qr/^57014$/
	},
	{
		name => 'cancel after the grant',
		cancel => 1,
		call => "SELECT pglock.acquire('a') AS ok, pg_sleep(0.0003)",
		refused => qr/^57014$/
	},
	{
		name => 'cancel and timeout',
		cancel => 1,
		call => "SELECT pglock.acquire('a', '1ms') AS ok",
		refused => qr/^(57014|00000)$/
	},
	{
		name => 'statement_timeout',
		before => $statement_timeout,
		call => "SELECT pglock.acquire('a') AS ok",
		after => $no_statement_timeout,
		refused => qr/^57014$/
	},
	{
		name => 'statement_timeout after the grant',
		before => $statement_timeout,
		call => "SELECT pglock.acquire('a') AS ok, pg_sleep(0.0015)",
		after => $no_statement_timeout,
		refused => qr/^57014$/
	},
	{ name => 'CALL lock, timeout', call => "CALL pglock.lock('a', '1ms')", refused => qr/^55P03$/ },
	{
		name => 'CALL lock, lock_timeout',
		before => $lock_timeout,
		call => "CALL pglock.lock('a')",
		refused => qr/^55P03$/
	},
	{ name => 'CALL lock, cancel', cancel => 1, call => "CALL pglock.lock('a')", refused => qr/^57014$/ },
	{
		name => 'CALL lock, statement_timeout and timeout',
		before => $statement_timeout,
		call => "CALL pglock.lock('a', '2ms')",
		after => $no_statement_timeout,
		refused => qr/^(57014|55P03)$/
	},
	{
		name => 'acquire_all, timeout',
		call => "SELECT $acquire_all, '1ms', $shared) AS ok",
		refused => qr/^00000$/
	},
	{
		name => 'acquire_all, timeout, transaction scope',
		before => 'BEGIN;',
		call => "SELECT $acquire_all, '1ms', scope => 'transaction') AS ok",
		refused => qr/^00000$/
	},
	{
		name => 'acquire_all, lock_timeout',
		before => $lock_timeout,
		call => "SELECT $acquire_all) AS ok",
		refused => qr/^55P03$/
	},
	{
		name => 'acquire_all, cancel',
		cancel => 1,
		call => "SELECT $acquire_all) AS ok",
		refused => qr/^57014$/
	},
	{
		name => 'acquire_all, statement_timeout',
		before => $statement_timeout,
		call => "SELECT $acquire_all) AS ok",
		after => $no_statement_timeout,
		refused => qr/^57014$/
	},
	{ name => 'slot, timeout', call => "SELECT $slot, '1ms') IS NOT NULL AS ok", refused => qr/^00000$/ },
	{
		name => 'slot, timeout, transaction scope',
		before => 'BEGIN;',
		call => "SELECT $slot, '1ms', 'transaction') IS NOT NULL AS ok",
		refused => qr/^00000$/
	},
	{
		name => 'slot, lock_timeout',
		before => $lock_timeout,
		call => "SELECT $slot) IS NOT NULL AS ok",
		refused => qr/^55P03$/
	},
	{
		name => 'slot, cancel',
		cancel => 1,
		call => "SELECT $slot) IS NOT NULL AS ok",
		refused => qr/^57014$/
	},
	{
		name => 'slot, cancel after the grant',
		cancel => 1,
		call => "SELECT $slot) IS NOT NULL AS ok, pg_sleep(0.0003)",
		refused => qr/^57014$/
	},
	{
		name => 'slot, cancel and timeout',
		cancel => 1,
		call => "SELECT $slot, '1ms') IS NOT NULL AS ok",
		refused => qr/^(57014|00000)$/
	},
	{
		name => 'slot, statement_timeout',
		before => $statement_timeout,
		call => "SELECT $slot) IS NOT NULL AS ok",
		after => $no_statement_timeout,
		refused => qr/^57014$/
	},
	{
		name => 'slot, statement_timeout after the grant',
		before => $statement_timeout,
		call => "SELECT $slot) IS NOT NULL AS ok, pg_sleep(0.0015)",
		after => $no_statement_timeout,
		refused => qr/^57014$/
	},
	{ name => 'CALL slot, timeout', call => "CALL pglock.slot('a', 2, '1ms')", refused => qr/^55P03$/ },
	{ name => 'CALL slot, cancel', cancel => 1, call => "CALL pglock.slot('a', 2)", refused => qr/^57014$/ },
	{ name => 'caught: timeout', caught => 1, call => "pglock.acquire('a', '1ms')" },
	{
		name => 'caught: lock_timeout',
		caught => 1,
		before => $lock_timeout,
		call => "pglock.acquire('a')"
	},
	{
		name => 'caught: lock_timeout and timeout',
		caught => 1,
		before => $lock_timeout,
		call => "$acquire_all, '1ms')"
	},
	{ name => 'caught: cancel', caught => 1, cancel => 1, call => "$acquire_all)" },
	{
		name => 'caught: slot, lock_timeout',
		caught => 1,
		before => $lock_timeout,
		call => "$slot) IS NOT NULL"
	},
	{ name => 'caught: slot, cancel', caught => 1, cancel => 1, call => "$slot) IS NOT NULL" },
);

foreach my $race (@races)
{
	my ($refusals, $leaks) = run_race($race);

	cmp_ok($refusals, '>=', REFUSALS, "$race->{name}: refusals");
	is($leaks, 0, "$race->{name}: leaks of $refusals refusals");
}

my ($refusals, $leaks) = run_race(
	{
		control => 1,
		before => $lock_timeout,
		call => "SELECT true AS ok FROM pg_advisory_lock(pglock.lock_id('a'))",
		refused => qr/^55P03$/
	});
cmp_ok($leaks, '>', 0, "control: pg_advisory_lock() leaks in the same race, of $refusals refusals");

stop_and_check_log($node);
done_testing();
