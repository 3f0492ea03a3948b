# With pglock.synchronous_acquire a lock is only given out by the server that synchronous standbys
# follow: one that goes on beside a promoted standby refuses, where it would answer true without.
# Whatever ends the wait for a standby leaves nothing held.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use constant {
	CLIENTS => 3,
	ROUNDS => 150,    # of each client in one batch of the race
	REFUSALS => 200,
	MOST_BATCHES => 20,
};

my $primary = new_server('primary', init => { allows_streaming => 1 }, conf => "autovacuum = off\n");

$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');

$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$standby->start;

# synchronous from now on, or not
sub set_synchronous
{
	my ($names) = @_;

	$primary->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '$names'");
	$primary->reload;
	$primary->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = '$names'")
	  or die 'no reload';
	return;
}

# SQLSTATE of a statement, and what is said of it
sub outcome
{
	my ($session, $sql) = @_;

	$session->{stderr} = '';
	my ($output) = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE");
	my $said = $session->{stderr};

	$session->{stderr} = '';    # query_safe() takes what is there for its own
	return ($output =~ /SQLSTATE (\w+)/ ? $1 : "no SQLSTATE in: $output", $said);
}

my $session = session($primary);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
my $held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $pid";

# Ends the block that a call may have begun.
sub end_block
{
	$session->query('ROLLBACK');
	$session->{stderr} = '';
	return;
}

# Nothing is held, as the lock manager and as our books see it.
sub nothing_is_held
{
	my ($name) = @_;

	is($primary->safe_psql('postgres', "$held UNION ALL SELECT count(*) FROM pglock.locks WHERE pid = $pid"),
		"0\n0", $name);
	return;
}

# Each way to take something: with a timeout (%s), and what it answers
my %calls = (
	'acquire' => [ "SELECT pglock.acquire('k'%s)", 't' ],
	'acquire, shared' => [ "SELECT pglock.acquire('k'%s, shared => true)", 't' ],
	'acquire, transaction scope' => [ "BEGIN; SELECT pglock.acquire('k'%s, scope => 'transaction')", 't' ],
	'acquire, read only' => [ "BEGIN READ ONLY; SELECT pglock.acquire('k'%s)", 't' ],
	'acquire_raw' => [ 'SELECT pglock.acquire_raw(5%s)', 't' ],
	'acquire_all' => [ "SELECT pglock.acquire_all('{a,b,k}'%s)", 't' ],
	'acquire_all of one' => [ "SELECT pglock.acquire_all('{k}'%s)", 't' ],
	'try' => [ "SELECT pglock.try('k')", 't' ],
	'lock' => [ "CALL pglock.lock('k'%s)", '' ],
	'lock, transaction scope' => [ "BEGIN; CALL pglock.lock('k'%s, scope => 'transaction')", '' ],
	'acquire_slot' => [ "SELECT pglock.acquire_slot('k', 1%s)", '1' ],
	'acquire_slot, one of two' => [ "SELECT pglock.acquire_slot('k', 2%s) > 0", 't' ],
	'try_slot' => [ "SELECT pglock.try_slot('k', 1)", '1' ],
	'slot' => [ "CALL pglock.slot('k', 1%s)", '1' ]);
my %never_timed = map { $_ => 1 } grep { $calls{$_}[0] !~ /%s/ } keys %calls;

# The call, with that timeout if it has one.
sub statement
{
	my ($name, $timeout) = @_;
	my $call = $calls{$name}[0];
	my $argument = defined $timeout ? ", timeout => '$timeout'" : '';

	$call =~ s/%s/$argument/;
	return $call;
}

#
# Without synchronous standbys
#

$session->query_safe('SET pglock.synchronous_acquire = on');
is($session->query_safe("SELECT pglock.acquire('k'), pglock.release('k')"), 't|t',
	'without synchronous standbys there is nothing to wait for');
$session->query_safe('SET pglock.synchronous_acquire = strict');
foreach my $name (sort keys %calls)
{
	my ($sqlstate, $said) = outcome($session, statement($name));

	is($sqlstate, '55000', "strict: $name is refused");
	like($said, qr/cannot confirm the acquisition of (lock|slot|\d locks).*no\s+synchronous standbys/s, '... the error says why')
	  if $name =~ /^acquire(_all|_slot)?$/;
	end_block();
	nothing_is_held('... nothing is held');
}

#
# With a standby that follows
#

set_synchronous('*');
wait_until_synchronous($primary);
foreach my $name (sort keys %calls)
{
	is($session->query_safe(statement($name, '1 hour')), $calls{$name}[1], "a standby follows: $name");
	end_block();
	$session->query_safe('SELECT pglock.release_all(), pg_advisory_unlock_all()');
}
is($session->query_safe("BEGIN; SELECT pglock.acquire('k'), pg_current_xact_id_if_assigned() IS NULL; COMMIT"), 't|t',
	'no transaction id is assigned');
$session->query_safe('SELECT pglock.release_all()');

# Each confirms what comes after its own grant, however close they come.
my @outputs = run_psqls($primary, <<'END', 4, times => 3);
SET pglock.synchronous_acquire = strict;
SET synchronous_commit = off;
SELECT string_agg(DISTINCT pglock.acquire(i::text)::text || pglock.release(i::text), ',') FROM generate_series(1, 100) AS i;
END
is(join(',', map { split } @outputs), join(',', ('truetrue') x 12), 'sessions that confirm beside each other');

#
# The standby does not answer
#

my ($receiver) = $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');

kill 'STOP', $receiver;
$session->query_safe('SET pglock.synchronous_acquire = off');
is($session->query_safe("SELECT pglock.acquire('k'), pglock.release('k')"), 't|t', 'off: the standby is not asked');
is((outcome($session, "SET statement_timeout = '100ms'; SELECT pglock.token('k') FROM pglock.acquire('k')"))[0], '57014',
	'... who draws a token waits for it');
$session->query_safe('RESET statement_timeout');
nothing_is_held('... nothing is held');

foreach my $setting ('on', 'strict')
{
	$session->query_safe("SET pglock.synchronous_acquire = $setting");
	foreach my $name (sort keys %calls)
	{
		next if $setting eq 'strict' && $name !~ /^(acquire|slot)$/;

		foreach my $way ($never_timed{$name} ? () : 'timeout', 'lock_timeout', 'statement_timeout', 'cancel')
		{
			my $call = statement($name, $way eq 'timeout' ? '30ms' : undef);
			my ($sqlstate, $said);

			$session->query_safe("SET $way = '30ms'") if $way =~ /_timeout/;
			if ($way eq 'cancel')
			{
				start_waiting($session, $call);
				wait_for_replication($primary, 1);
				$primary->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
				$sqlstate = finish_waiting($session);
				$said = $session->{stderr};
			}
			else
			{
				($sqlstate, $said) = outcome($session, $call);
			}
			end_block();
			$session->query_safe("RESET $way") if $way =~ /_timeout/;

			my ($expected, $error) =
			  $way =~ /^(lock_)?timeout/
			  ? ('55P03', qr/ERROR:  could not confirm the acquisition of/)
			  : ('57014', qr/ERROR:  canceling the acquisition of .* not yet replicated/);

			is($sqlstate, $expected, "$setting: $name, $way");
			like($said, $error, '... an error says so');
			unlike($said, qr/WARNING/, '... and nothing else');
			nothing_is_held('... nothing is held');
		}
	}
}

# A timeout of zero is for others who hold the lock: it does not end the wait for the standby.
$session->query_safe('SET pglock.synchronous_acquire = on');
start_waiting($session, "SELECT pglock.acquire('k', timeout => '0')");
wait_for_replication($primary, 1);
kill 'CONT', $receiver;
is(finish_waiting($session), '00000', 'a timeout of zero: the standby answers, and so does the call');
is($session->query_safe("SELECT pglock.held('k')"), 't', '... the lock is held');
kill 'STOP', $receiver;

# One held already is confirmed once more: so a holder can ask whether that still holds.
like((outcome($session, "SELECT pglock.acquire('k', timeout => '30ms')"))[1], qr/could not confirm/,
	'a lock that is held already');
is($session->query_safe("SELECT depth FROM pglock.locks WHERE key = 'k'"), '1', '... stays held as often as it was');
is($session->query_safe("SELECT pglock.release('k')"), 't', '... and is released without the standby');

# Caught where the command goes on.
is((outcome($session, "DO \$\$ BEGIN PERFORM pglock.acquire('k', '30ms');
	EXCEPTION WHEN lock_not_available THEN PERFORM set_config('pglock.synchronous_acquire', 'off', false),
		pglock.acquire('caught'); END \$\$"))[0], '00000', 'an error is caught');
is($session->query_safe("SELECT string_agg(key, ',') FROM pglock.locks WHERE pid = pg_backend_pid()"), 'caught',
	'... the lock is not held');
$session->query_safe('SELECT pglock.release_all()');
is($session->query_safe('SHOW client_min_messages'), 'notice', 'the settings are what they were');
is($session->query_safe('SHOW synchronous_commit'), 'on', '... all of them');

# A session that is to end tells its client so.
my $ending = session($primary);
my $ending_pid = $ending->query_safe('SET pglock.synchronous_acquire = on; SELECT pg_backend_pid()');

start_waiting($ending, "SELECT pglock.acquire('ending')");
wait_for_replication($primary, 1);
$primary->safe_psql('postgres', "SELECT pg_terminate_backend($ending_pid)");
wait_for_session_end($primary, $ending_pid);
is($primary->safe_psql('postgres', "SELECT pglock.is_free('ending')"), 't', 'a session is ended while it waits: the lock is free');
usleep(10_000) until !$ending->{run}->pumpable || $ending->{stderr} =~ /FATAL/ || !eval { $ending->{run}->pump_nb; 1 };
like($ending->{stderr}, qr/FATAL:  terminating connection due to administrator command/, '... its client is told why');
end_session($ending);

# Given up, the standby is nothing to wait for, unless there must be one.
my %waiting = map { $_ => session($primary) } ('on', 'strict');

foreach my $setting (sort keys %waiting)
{
	$waiting{$setting}->query_safe("SET pglock.synchronous_acquire = $setting");
	start_waiting($waiting{$setting}, "SELECT pglock.acquire('$setting')");
}
wait_for_replication($primary, 2);
set_synchronous('');
is(finish_waiting($waiting{on}), '00000', 'on: a standby that is given up is not waited for any more');
is(finish_waiting($waiting{strict}), '55000', 'strict: ... the lock is refused');
$_->{stderr} = '' foreach values %waiting;
is($waiting{on}->query_safe('SELECT string_agg(key, \',\') FROM pglock.locks'), 'on', '... nothing of it is held');
end_session(values %waiting);
kill 'CONT', $receiver;

#
# A race: timeouts and cancels against a standby that answers now and then
#

set_synchronous('*');
wait_until_synchronous($primary);

my $race = <<'END';
SET pglock.synchronous_acquire = on;
DO $$
DECLARE
	refusals int := 0;
	leaks int := 0;
	answer boolean;
BEGIN
	FOR i IN 1..%d LOOP
		answer := false;
		BEGIN
			IF random() < 0.5 THEN
				answer := pglock.acquire('k' || %d, make_interval(secs => 0.002 * random()));
			ELSE
				answer := pglock.acquire_all(array['a' || %d, 'b' || %d], make_interval(secs => 0.002 * random()));
			END IF;
		EXCEPTION WHEN lock_not_available OR query_canceled THEN
			refusals := refusals + 1;
		END;
		IF NOT answer THEN
			leaks := leaks + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid());
		END IF;
		PERFORM pglock.release_all();
	END LOOP;
	RAISE NOTICE 'refusals: %%, leaks: %%', refusals, leaks;
END $$;
END

my ($refusals, $leaks, $granted, $batches) = (0, 0, 0, 0);

while (($refusals < REFUSALS || $granted < REFUSALS) && $batches++ < MOST_BATCHES)
{
	my @clients = map { my $number = $_; session($primary) } 1 .. CLIENTS;

	foreach my $number (1 .. CLIENTS)
	{
		start_waiting($clients[ $number - 1 ], sprintf($race, ROUNDS, ($number) x 3) =~ s/;\s*\z//r);
	}
	while ($primary->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'") > 0)
	{
		kill 'STOP', $receiver;
		$primary->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' LIMIT 1");
		kill 'CONT', $receiver;
		usleep(5_000);
	}
	foreach my $client (@clients)
	{
		finish_waiting($client);
		if ($client->{stderr} =~ /refusals: (\d+), leaks: (\d+)/)
		{
			$refusals += $1;
			$granted += ROUNDS - $1;
			$leaks += $2;
		}
		$client->{stderr} = '';
		end_session($client);
	}
}
kill 'CONT', $receiver;
cmp_ok($refusals, '>=', REFUSALS, "a race of timeouts and a standby's answers: some are refused");
cmp_ok($granted, '>=', REFUSALS, '... some are not');
is($leaks, 0, '... and nothing that was refused is held');

#
# Two primaries
#

my $old = session($primary);

$old->query_safe("SET pglock.synchronous_acquire = off; SET lock_timeout = '300ms'");
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no promotion';

my $new = session($standby);

$new->query_safe('SET pglock.synchronous_acquire = on');
is($new->query_safe("SELECT pglock.acquire('both')"), 't', 'the standby is promoted: it gives out a lock');
is($old->query_safe("SELECT pglock.acquire('both')"), 't', 'the control: the old primary gives it to another');
$old->query_safe("SELECT pglock.release('both')");
$old->query_safe('SET pglock.synchronous_acquire = on');
is((outcome($old, "SELECT pglock.acquire('both')"))[0], '55P03', 'with the setting the old primary refuses');
is($old->query_safe('SELECT count(*) FROM pglock.locks'), '0', '... nothing is held there');

$old->quit;
$new->quit;
$session->quit;
stop_and_check_log($standby);
$primary->stop('immediate');
is_crash_free($primary);
done_testing();
