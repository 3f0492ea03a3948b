# After a call's own timeout the transaction goes on as if nothing had been, and what else ends a
# wait (statement_timeout, lock_timeout, a cancel) is not swallowed when it comes in that moment.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('timeout', conf => "autovacuum = off\n");
my $holder = session($node);
my $session = session($node);

$node->safe_psql('postgres', 'CREATE TABLE work (step text)');
$holder->query_safe("SELECT pglock.acquire('busy'), pglock.acquire_slot('busy', 2), pglock.acquire_slot('busy', 2)");

# The transaction goes on. (The first call loads the library, which has settings.)
$session->query_safe("SELECT pglock.lock_id('')");
foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	# the warning of a wait in a transaction that has its snapshot is not what is tested here
	$session->query_safe(<<"END");
SET pglock.warnings = off;
SET lock_timeout = '1h';
SET statement_timeout = '2h';
BEGIN ISOLATION LEVEL $level;
SET LOCAL work_mem = '1234kB';
CREATE TEMP TABLE settings ON COMMIT DROP AS SELECT name, setting, source FROM pg_settings;
DECLARE cursor CURSOR FOR SELECT n FROM generate_series(1, 3) n;
FETCH cursor;
INSERT INTO work VALUES ('before');
SELECT pglock.acquire('mine', scope => 'transaction');
SAVEPOINT before;
INSERT INTO work VALUES ('in the savepoint');
END
	my $identity = $session->query_safe('SELECT pg_current_xact_id(), now()');

	foreach my $call (
		"pglock.acquire('busy', '1ms')",
		"pglock.acquire('busy', '1ms', shared => true)",
		"pglock.acquire('busy', '1ms', scope => 'transaction')",
		"pglock.acquire_all('{free,busy}', '1ms')",
		"pglock.try('busy')",
		"pglock.acquire_slot('busy', 1, '1ms') IS NOT NULL",
		"pglock.acquire_slot('busy', 2, '1ms') IS NOT NULL",
		"pglock.acquire_slot('busy', 2, '1ms', 'transaction') IS NOT NULL",
		"pglock.try_slot('busy', 2) IS NOT NULL")
	{
		is($session->query_safe("SELECT $call"), 'f', "$level: $call times out");
		is($session->query_safe('SELECT pg_current_xact_id(), now()'),
			$identity, '... in the same transaction');
	}
	is($session->query_safe('SELECT name, setting, source FROM pg_settings EXCEPT SELECT * FROM settings'),
		'', "$level: no setting has changed");
	is($session->query_safe('FETCH cursor'), '2', '... the cursor goes on');
	is($session->query_safe("SELECT pglock.held('mine'), pglock.held('free'), pglock.held('busy')"),
		't|f|f', '... what was held is, and no more');
	$session->query_safe('ROLLBACK TO before');
	is($session->query_safe("SELECT count(*), min(step) FROM work"), '1|before', '... so does the savepoint');
	$session->query_safe("INSERT INTO work VALUES ('after'); COMMIT;");
	is($node->safe_psql('postgres', 'SELECT string_agg(step, \',\') FROM work'),
		'before,after', '... and the transaction commits');
	$session->query_safe('TRUNCATE work; RESET ALL');
}

# A command goes on, too, and whatever may end it still can
sub sqlstate
{
	my ($sql) = @_;

	start_waiting($session, $sql);
	my $state = finish_waiting($session);
	$session->{stderr} = '';    # query_safe() takes what is there for its own
	return $state;
}

my $timed_out = "pglock.acquire('busy', '1ms')";

$session->query_safe("SET statement_timeout = '300ms'");
is(sqlstate("SELECT $timed_out, pg_sleep(600)"), '57014', 'statement_timeout strikes after a timeout');
$session->query_safe("RESET statement_timeout; SET lock_timeout = '50ms'");
$holder->query_safe('BEGIN; LOCK TABLE work');
is(sqlstate("DO 'BEGIN PERFORM $timed_out; LOCK TABLE work; END'" =~ s/\('busy', '1ms'\)/(''busy'', ''1ms'')/r),
	'55P03', 'and so does lock_timeout');
$holder->query_safe('ROLLBACK');
$session->query_safe('RESET lock_timeout');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
start_waiting($session, "SELECT $timed_out, pg_sleep(600)");
$node->poll_query_until('postgres',
	"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid");
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
is(finish_waiting($session), '57014', 'and a cancel');

# What strikes in the same moment. After the call the command sleeps for so long that what ends it
# can only be the other: a swallowed one shows by an answer.
sub start_rounds
{
	my ($script, $output) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/timeout.sql";

	open my $handle, '>', $file or die $!;
	print $handle $script;
	close $handle;
	return IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' application_name=rounds', '-f', $file ],
		'<', \undef, '>', $output, '2>', '/dev/null');
}

sub count_states
{
	my ($output) = @_;
	my %count;

	$count{$_}++ foreach $output =~ /^state (\w+)$/mg;
	return \%count;
}

my $around = "interval '1 us'";
my $rounds = 500;
my $output;

# calls that wait, but for the timeout
my @waits = ("pglock.acquire('busy', ", "pglock.acquire_slot('busy', 2, ");

foreach my $wait (@waits)
{
	start_rounds("SET statement_timeout = '3ms';\n" . <<"END" x $rounds, \$output)->finish;
SELECT $wait $around * (2700 + random() * 500)), pg_sleep(60) AS answer;
\\echo state :SQLSTATE
END
	is_deeply(count_states($output), { 57014 => $rounds }, "$wait...): statement_timeout is never swallowed");
}

# Both are timeouts and both may say so, but nobody asked for a cancel
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION outcomes(rounds int) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..rounds LOOP
		BEGIN
			RETURN NEXT pglock.acquire('busy', interval '1 us' * (1000 + random() * 100))::text;
		EXCEPTION WHEN OTHERS OR query_canceled THEN
			RETURN NEXT SQLSTATE || ' ' || SQLERRM;
		END;
	END LOOP;
END $$;
END
my ($status, $outcomes, $errors) = $node->psql('postgres', <<'END');
SET lock_timeout = '1ms';
SELECT DISTINCT outcome FROM outcomes(3000) outcome
WHERE outcome NOT IN ('false', '55P03 canceling statement due to lock timeout');
END
is("$outcomes$errors", '', 'lock_timeout and timeout end in one of them, and leave no cancel behind');

# One cancel for each command that is seen in the call or in the sleep after it
$node->safe_psql('postgres', <<'END');
CREATE PROCEDURE cancel_each(victim int, rounds int) LANGUAGE plpgsql AS $$
DECLARE
	seen timestamptz;
	last_seen timestamptz := '-infinity';
BEGIN
	FOR i IN 1..rounds LOOP
		LOOP
			PERFORM pg_stat_clear_snapshot();
			SELECT query_start INTO seen FROM pg_stat_get_activity(victim)
			WHERE (wait_event IN ('advisory', 'PgSleep') OR wait_event_type = 'Extension') AND query_start > last_seen;
			EXIT WHEN FOUND;
		END LOOP;
		-- the moment of the cancel wanders over that of the timeout
		WHILE clock_timestamp() < seen + interval '1 us' * (600 + random() * 800) LOOP END LOOP;
		PERFORM pg_cancel_backend(victim);
		last_seen := seen;
	END LOOP;
END $$;
END
foreach my $wait (@waits)
{
	my $running = start_rounds(<<"END" x $rounds, \$output);
SELECT $wait '1ms'), pg_sleep(60) AS answer;
\\echo state :SQLSTATE
END
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'rounds'");
	my $victim =
	  $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'rounds'");

	is($node->psql('postgres', "CALL cancel_each($victim, $rounds)"), 0, "$wait...): all are cancelled");
	$running->finish;
	is_deeply(count_states($output), { 57014 => $rounds }, '... and no cancel is swallowed');
	wait_for_session_end($node, $victim);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}),
		3, '... only the holder holds a lock');
}

end_session($holder, $session);
stop_and_check_log($node);
done_testing();
