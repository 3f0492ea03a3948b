# The statistics of waits: every wait counts once, under its key and its outcome, and nothing else does.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant CLIENTS => 8;

my $node = new_server('contention', conf => <<'END');
shared_preload_libraries = postgres_lock
max_prepared_transactions = 5
END

sub query { return $node->safe_psql('postgres', @_); }

# waits|timeouts|deadlocks|cancels of a key, or of its slots, if there are any
sub counts
{
	my ($key, $of_slots) = @_;

	$of_slots //= 'false';
	return query("SELECT waits, timeouts, deadlocks, cancels FROM pglock.contention WHERE key = '$key' AND of_slots = $of_slots");
}

# The SQLSTATE of what ends by itself.
sub sqlstate
{
	my ($session, $sql) = @_;
	my ($output) = $session->query("$sql;\n\\echo SQLSTATE :SQLSTATE");

	return $output =~ /SQLSTATE (\w+)/ ? $1 : "no SQLSTATE in: $output";
}

sub reset_statistics { return query('SELECT pglock.contention_reset()'); }

my $holder = session($node);
my $waiter = session($node);
my $waiter_pid = $waiter->query_safe('SELECT pg_backend_pid()');

# Only waits count.
$holder->query_safe("SELECT pglock.acquire('k'), pglock.acquire('s', shared => true)");
is( $waiter->query("SELECT pglock.try('k'), pglock.acquire('k', '0'), pglock.acquire_all('{free,k}', '0'),
		pglock.acquire('free'), pglock.acquire('free'), pglock.acquire('s', shared => true), pglock.try('s'),
		pglock.is_free('k'), pglock.release_all()"),
	'f|f|f|t|t|t|f|f|3', 'who does not wait');
is(query('SELECT count(*) FROM pglock.contention'), '0', '... leaves no trace');
is($waiter->query("SELECT pg_advisory_lock(1), pg_try_advisory_lock(pglock.lock_id('k')), pg_advisory_unlock_all()"),
	'|f|', 'nor does who uses the built-in functions');
is(query('SELECT count(*) FROM pglock.contention'), '0', '... leave one');

# How long: at least from when the wait was seen until it could end, at most from before it until after
sub wait_once
{
	my $before = query('SELECT clock_timestamp()');

	start_waiting($waiter, "SELECT pglock.acquire('k')");
	wait_for_waiter($node, 'k');
	my $times = $holder->query_safe("SELECT clock_timestamp(), pg_sleep(0.03), clock_timestamp(), pglock.release('k')");
	my ($seen, undef, $released) = split /\|/, $times;

	is(finish_waiting($waiter), '00000', 'a session gets the lock after a wait');
	my $after = query('SELECT clock_timestamp()');

	$waiter->query_safe("SELECT pglock.release('k')");
	$holder->query_safe("SELECT pglock.acquire('k')");
	return ("extract(epoch FROM timestamptz '$released' - '$seen') * 1000",
		"extract(epoch FROM timestamptz '$after' - '$before') * 1000", $released, $after);
}

my ($least, $most, $released, $after) = wait_once();

is( query("SELECT lock_id = pglock.lock_id('k'), waits, timeouts, deadlocks, cancels,
		total_wait_time BETWEEN $least AND $most, max_wait_time = total_wait_time,
		last_wait_at BETWEEN '$released' AND '$after', stats_since = last_wait_at
	FROM pglock.contention WHERE key = 'k'"),
	't|1|0|0|0|t|t|t|t', '... which counts, with its time');


# How long the waits took, by duration: of each key all of the rows, and the last counts all waits.
my $bounds = '{1,3,10,30,100,300,1000,3000,10000,30000,100000,300000,Infinity}';
my $impossible = "SELECT count(*) FROM (
		SELECT lock_id, of_slots, array_agg(h.le ORDER BY le) AS bounds, max(h.waits) AS all_waits, max(c.waits) AS waits,
			min(total_wait_time) AS total, max(max_wait_time) AS longest,
			sum(wider) FILTER (WHERE wider < 0) AS decreasing, sum(wider * coalesce(shorter, 0)) AS least,
			sum(wider * least(le, max_wait_time)) AS most, max(least(le, max_wait_time)) FILTER (WHERE wider > 0) AS last
		FROM (SELECT *, waits - coalesce(lag(waits) OVER next, 0) AS wider, lag(le) OVER next AS shorter
			FROM pglock.contention_histogram WINDOW next AS (PARTITION BY lock_id, of_slots ORDER BY le)) AS h
		FULL JOIN pglock.contention AS c USING (lock_id, of_slots) GROUP BY lock_id, of_slots) AS of_key
	WHERE (bounds = '$bounds' AND all_waits = waits AND decreasing IS NULL AND last = longest
		AND total BETWEEN least AND most + 0.001) IS NOT TRUE";

is(query('SELECT count(*) FROM pglock.contention_histogram AS h JOIN pglock.contention AS c USING (key, lock_id, of_slots)
		WHERE h.waits = (le >= total_wait_time)::integer'),
	13, '... and is counted where it belongs, by its duration');
is(query($impossible), '0', '... as often as all waits are');

my $since = query('SELECT stats_since FROM pglock.contention');
my ($first_least, $first_most) = ($least, $most);

($least, $most, $released, $after) = wait_once();
is( query("SELECT waits, total_wait_time BETWEEN $first_least + $least AND $first_most + $most,
		max_wait_time BETWEEN greatest($first_least, $least) AND greatest($first_most, $most),
		max_wait_time < total_wait_time, last_wait_at BETWEEN '$released' AND '$after', stats_since = '$since'
	FROM pglock.contention"),
	'2|t|t|t|t|t', 'another wait adds to it');
is($waiter->query("SELECT pglock.acquire('k', '1ms')"), 'f', 'a short wait');
is( query("SELECT waits, timeouts, max_wait_time >= greatest($first_least, $least), total_wait_time >= max_wait_time + 1
	FROM pglock.contention"),
	'3|1|t|t', '... is not the longest');

# In vain, in each way
sub in_vain
{
	my ($what, $sql, $state, $expected, %params) = @_;

	reset_statistics();
	if ($params{meanwhile})
	{
		start_waiting($waiter, $sql);
		wait_for_waiter($node, 'k');
		query($params{meanwhile});
	}
	is($params{meanwhile} ? finish_waiting($waiter) : sqlstate($waiter, $sql), $state, "$what: $state");
	is(counts('k', $params{of_slots}), $expected, '... counts so');
	is(query('SELECT count(*) FROM pglock.contention'), '1', '... and nothing else');
	return;
}

my $cancel = "SELECT pg_cancel_backend($waiter_pid)";

in_vain('timeout', "SELECT pglock.acquire('k', '1ms')", '00000', '1|1|0|0');
in_vain('timeout of transaction scope', "SELECT pglock.acquire('k', '1ms', true, 'transaction')", '00000', '1|1|0|0');
in_vain('timeout of the procedure', "CALL pglock.lock('k', '1ms')", '55P03', '1|1|0|0');
in_vain('timeout of many', "SELECT pglock.acquire_all('{a,k,z}', '1ms')", '00000', '1|1|0|0');
in_vain('lock_timeout', "SET lock_timeout = 1\\; SELECT pglock.acquire('k')", '55P03', '1|1|0|0');
in_vain('lock_timeout before the timeout', "SET lock_timeout = 1\\; SELECT pglock.acquire('k', '1h')", '55P03', '1|1|0|0');
in_vain('lock_timeout of the procedure', "SET lock_timeout = 1\\; CALL pglock.lock('k')", '55P03', '1|1|0|0');
in_vain('a caught lock_timeout', "DO \$\$ BEGIN SET LOCAL lock_timeout = 1; PERFORM pglock.acquire('k');
	EXCEPTION WHEN lock_not_available THEN END \$\$", '00000', '1|1|0|0');
in_vain('statement_timeout', "SET LOCAL statement_timeout = 500\\; SELECT pglock.acquire('k')", '57014', '1|0|0|1');
in_vain('a cancel', "SELECT pglock.acquire('k')", '57014', '1|0|0|1', meanwhile => $cancel);
in_vain('a cancel before the timeout', "SELECT pglock.acquire('k', '1h')", '57014', '1|0|0|1', meanwhile => $cancel);
in_vain('a cancel of the procedure', "CALL pglock.lock('k')", '57014', '1|0|0|1', meanwhile => $cancel);
in_vain('two timeouts and a cancel', "DO \$\$ BEGIN PERFORM pglock.acquire('k', '1ms'), pglock.acquire('k', '1ms'),
	pglock.acquire('k'); END \$\$", '57014', '3|2|0|1', meanwhile => "DO \$\$ BEGIN
		WHILE (SELECT waits < 2 FROM pglock.contention) LOOP PERFORM pg_sleep(0.001); END LOOP;
		PERFORM pg_cancel_backend($waiter_pid); END \$\$");

# ... for a slot
$holder->query_safe("SELECT pglock.acquire_slot('k', 2), pglock.acquire_slot('k', 2)");
foreach my $slots (1, 2)
{
	my %of_slots = (of_slots => 'true');
	my $acquire = "pglock.acquire_slot('k', $slots";

	in_vain("timeout, $slots slots", "SELECT $acquire, '1ms')", '00000', '1|1|0|0', %of_slots);
	in_vain("timeout of transaction scope, $slots slots", "SELECT $acquire, '1ms', 'transaction')", '00000', '1|1|0|0', %of_slots);
	in_vain("timeout of the procedure, $slots slots", "CALL pglock.slot('k', $slots, '1ms')", '55P03', '1|1|0|0', %of_slots);
	in_vain("lock_timeout, $slots slots", "SET lock_timeout = 1\\; SELECT $acquire)", '55P03', '1|1|0|0', %of_slots);
	in_vain("statement_timeout, $slots slots", "SET LOCAL statement_timeout = 500\\; SELECT $acquire)", '57014', '1|0|0|1', %of_slots);
	in_vain("a cancel, $slots slots", "SELECT $acquire)", '57014', '1|0|0|1', %of_slots, meanwhile => $cancel);
}
reset_statistics();
is($waiter->query("SELECT pglock.try_slot('k', 2), pglock.acquire_slot('k', 3), pglock.release_all()"), '|3|1', 'who does not wait for a slot');
is(query('SELECT count(*) FROM pglock.contention'), '0', '... leaves no trace');
is($waiter->query("SELECT pglock.acquire('k', '1ms'), pglock.acquire_slot('k', 1, '1ms'), pglock.acquire_slot('k', 2, '1ms')"), 'f||',
	'waits for the lock and for slots of one key');
is(counts('k') . ' ' . counts('k', 'true'), '1|1|0|0 2|2|0|0', '... count apart');
start_waiting($waiter, "SELECT pglock.acquire_slot('k', 2)");
wait_for_waiter($node, 'k');
$holder->query_safe("SELECT pglock.release_slot('k', 1)");
is(finish_waiting($waiter), '00000', 'a session gets a slot after a wait');
is(counts('k', 'true'), '3|2|0|0', '... which counts');
$waiter->query('SELECT pglock.release_all()');
$holder->query_safe("SELECT pglock.release_slot('k', 2)");

# ... by the end of the session
foreach my $how ('terminated', 'without a client')
{
	my $victim = session($node);
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');

	reset_statistics();
	start_waiting($victim, "SELECT pglock.acquire('k')");
	wait_for_waiter($node, 'k');
	if ($how eq 'terminated')
	{
		query("SELECT pg_terminate_backend($pid)");
	}
	else
	{
		$victim->{run}->signal('KILL');
		eval { $victim->{run}->finish; };
		$holder->query_safe("SELECT pglock.release('k')");
	}
	end_session($victim);
	wait_for_session_end($node, $pid);
	is(counts('k'), '1|0|0|1', "a session is $how while it waits: a cancel");
	is($holder->query("SELECT pglock.held('k') OR pglock.acquire('k')"), 't', '... and has no lock');
}

# ... by a deadlock, which is found by who looks for it first
reset_statistics();
is($waiter->query("SET deadlock_timeout = '1h'; SELECT pglock.acquire('w')"), 't', 'two sessions hold a lock each');
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
is(sqlstate($holder, "SET deadlock_timeout = 10\\; SELECT pglock.acquire('w')"), '40P01', '... and wait for that of the other: one has to give up');
is(counts('w'), '1|0|1|0', '... whose wait counts so');
$holder->query('SELECT pglock.release_all()');
is(finish_waiting($waiter), '00000', '... the other gets the lock');
is(counts('k'), '1|0|0|0', '... after a wait like any other');
$waiter->query('SELECT pglock.release_all(); RESET deadlock_timeout');

# Names: known by number only, until somebody tells; shown shortened
reset_statistics();
$holder->query("SELECT pglock.acquire_raw(pglock.lock_id('k')), pglock.acquire(repeat('x', 300))");
$waiter->query("SELECT pglock.acquire_raw(pglock.lock_id('k'), '1ms'), pglock.acquire(repeat('x', 300), '1ms')");
is(query("SELECT key, waits FROM pglock.contention WHERE lock_id = pglock.lock_id('k')"), '|1', 'a wait by number has no name');
is(query("SELECT waits FROM pglock.contention WHERE key = repeat('x', 255) || '...'"), '1', '... a long name is shortened');
$waiter->query("SELECT pglock.acquire('k', '1ms')");
is(counts('k'), '2|2|0|0', '... and a wait by name adds it');
$holder->query('SELECT pglock.release_all()');

# Sums are exact, however many wait at once.
my $directory = PostgreSQL::Test::Utils::tempdir();

sub start_clients
{
	my ($script, @options) = @_;
	my $file = "$directory/clients.sql";
	my $output = '';

	unlink $file;
	append_to_file($file, $script);
	return {
		output => \$output,
		run => IPC::Run::start(
			[ 'pgbench', '-n', '-c', CLIENTS, '-j', 2, '-f', $file, @options, '-h', $node->host, '-p', $node->port, 'postgres' ],
			'<', \undef, '>&', \$output) };
}

sub finish_clients
{
	my ($clients) = @_;

	$clients->{run}->finish;
	unlike(${ $clients->{output} }, qr/error|aborted/i, 'all clients come to their end');
	return;
}

my $rounds = 150;

reset_statistics();
query(<<'END');
CREATE FUNCTION lock_timeout(key text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL lock_timeout = 1;
	RETURN pglock.acquire(key);
EXCEPTION WHEN lock_not_available THEN
	RETURN NULL;
END $$;
END
$holder->query("SELECT pglock.acquire('busy' || i) FROM generate_series(0, 3) i");
finish_clients(start_clients(<<'END', '-t', $rounds));
\set own :client_id % 4
SELECT pglock.acquire('busy' || :own, '1ms'), pglock.try('busy' || :own);
SELECT pglock.acquire('mine' || :client_id), pglock.release('mine' || :client_id);
SELECT pglock.acquire_all(ARRAY['busy' || :own, 'mine' || :client_id], '1ms', true);
SELECT lock_timeout('busy' || :own);
END
is( query("SELECT string_agg(key, ',' ORDER BY key), min(waits), max(waits), min(timeouts), max(timeouts),
		sum(deadlocks), sum(cancels), bool_and(total_wait_time >= waits / 3 AND max_wait_time >= 1)
	FROM pglock.contention"),
	join('|', 'busy0,busy1,busy2,busy3', (2 * 3 * $rounds) x 4, 0, 0, 't'),
	'many clients wait in vain: every wait counts');    # (lock_timeout's for at least 1 ms)
is(query($impossible), '0', '... by its duration, too');
$holder->query('SELECT pglock.release_all()');

reset_statistics();
foreach my $round (1 .. 3)
{
	$holder->query("SELECT pglock.acquire('chain')");
	my $clients = start_clients("SELECT pglock.acquire('chain');\nSELECT pglock.release('chain');\n", '-t', 1);

	wait_for_waiter($node, 'chain', CLIENTS);
	$holder->query("SELECT pglock.release('chain')");
	finish_clients($clients);
	is(counts('chain'), $round * CLIENTS . '|0|0|0', '... they get the lock one after the other: so does each');
}

$holder->query("SELECT pglock.acquire('chain')");

my $clients = start_clients("SELECT pglock.acquire('chain');\n", '-t', 1);

wait_for_waiter($node, 'chain', CLIENTS);
is(query('SELECT count(pg_cancel_backend(pid)) FROM pg_locks WHERE NOT granted'), CLIENTS, '... all are cancelled at once');
$clients->{run}->finish;
is(counts('chain'), 4 * CLIENTS . '|0|0|' . CLIENTS, '... and so is each');
$clients = start_clients("SELECT pglock.acquire('chain', '1h', true);\n", '-t', 1);
wait_for_waiter($node, 'chain', CLIENTS);
query('SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted');
$clients->{run}->finish;
ok( $node->poll_query_until('postgres', "SELECT waits = @{[ 5 * CLIENTS ]} AND cancels = @{[ 2 * CLIENTS ]} FROM pglock.contention"),
	'... terminated at once, and so is each');

# Other databases have statistics of their own.
query('CREATE ROLE app LOGIN; CREATE ROLE operator LOGIN; CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION postgres_lock');
is($node->safe_psql('other', 'SELECT count(*) FROM pglock.contention'), '0', 'another database has no statistics');
is($node->safe_psql('other', 'SELECT pglock.contention_reset()'), '', '... to forget');
is(counts('chain'), 5 * CLIENTS . '|0|0|' . 2 * CLIENTS, '... which does not forget those of this one');

# Who may reset
sub reset_by
{
	my ($role) = @_;
	my (undef, $output) = $node->psql('postgres', "SELECT pglock.contention_reset();\n\\echo :SQLSTATE",
		on_error_stop => 0, extra_params => [ '-U', $role ]);

	return $output =~ s/^\n//r;
}

query('GRANT EXECUTE ON FUNCTION pglock.contention_reset() TO operator');
is(reset_by('app'), '42501', 'who is not granted it may not reset');
is(counts('chain'), 5 * CLIENTS . '|0|0|' . 2 * CLIENTS, '... and does not');
is(reset_by('operator'), '00000', 'who is granted it may');
is(query('SELECT count(*) FROM pglock.contention'), '0', '... and does');
is(query('SELECT count(*) FROM pglock.contention_histogram'), '0', '... also the durations');
is($waiter->query("SELECT pglock.acquire('chain', '1ms')"), 'f', 'a wait after the reset');
is(query('SELECT waits, stats_since = last_wait_at FROM pglock.contention'), '1|t', '... is the first');
end_session($holder, $waiter);
is(counts('chain'), '1|1|0|0', 'statistics outlive the sessions');
$node->restart;
is(query('SELECT count(*) FROM pglock.contention'), '0', '... not the server');

# Few keys: who was waited for longest ago makes room. The keys of all databases share it.
$node->append_conf('postgresql.conf', 'pglock.max_contended_keys = 3');
$node->restart;
$holder = session($node);
$waiter = session($node);

sub keys_after
{
	foreach my $key (@_)
	{
		$waiter->query("SELECT pglock.acquire('$key', '1ms')");
	}
	return query("SELECT string_agg(key || waits, ',' ORDER BY last_wait_at) FROM pglock.contention");
}

# how full the table is, and whose wait evicted a key last
sub info
{
	return query('SELECT keys, max_keys, evictions,
			(SELECT key FROM pglock.contention WHERE stats_since = last_eviction_at)
		FROM pglock.contention_info');
}

$holder->query("SELECT pglock.acquire(i) FROM unnest('{a,b,c,d,e,f}'::text[]) i");
is(keys_after('a', 'b', 'c'), 'a1,b1,c1', 'three keys');
is(info(), '3|3|0|', '... fill the table');
is(keys_after('a'), 'b1,c1,a2', '... the first again');
is(keys_after('d'), 'c1,a2,d1', '... a fourth takes the place of the second');
is(info(), '3|3|1|d', '... which is counted');
is(keys_after('b'), 'a2,d1,b1', '... which comes back, anew');
is(keys_after('b', 'a', 'b'), 'd1,a3,b3', '... and stays');
is(keys_after('e', 'f'), 'b3,e1,f1', '... two more');
is(info(), '3|3|4|f', '... so four places were taken');
is($node->safe_psql('other', <<'END'), "t\nf", '... one of another database');
BEGIN;
SELECT pglock.acquire('k', scope => 'transaction');
PREPARE TRANSACTION 'p';
SELECT pglock.acquire('k', '1ms');
COMMIT PREPARED 'p';
END
is(query("SELECT string_agg(key || waits, ',' ORDER BY last_wait_at) FROM pglock.contention"), 'e1,f1', '... takes a place, too');
is($node->safe_psql('other', 'SELECT key, waits FROM pglock.contention'), 'k|1', '... for itself');
is(info(), '3|3|5|', '... counted with the others');
reset_statistics();
is(info(), '1|3|5|', '... and left there by a reset of this one, which makes no room for others');
is($node->safe_psql('other', 'SELECT key, waits FROM pglock.contention'), 'k|1', '... and keeps it when the others are forgotten');
is(keys_after('a', 'b'), 'a1,b1', '... whose places are free again');
is(keys_after('c', 'd'), 'b1,c1,d1', '... for as many as there are');
end_session($holder, $waiter);

# No keys
$node->append_conf('postgresql.conf', 'pglock.max_contended_keys = 0');
$node->restart;
$holder = session($node);
$waiter = session($node);
$holder->query("SELECT pglock.acquire('k')");
is($waiter->query("SELECT pglock.acquire('k', '1ms')"), 'f', 'no keys: a wait in vain');
start_waiting($waiter, "SELECT pglock.acquire('k')");
wait_for_waiter($node, 'k');
is($holder->query("SELECT pglock.release('k')"), 't', '... and one');
is(finish_waiting($waiter), '00000', '... not in vain');
is(query('SELECT count(*), pglock.contention_reset() FROM pglock.contention'), '0|', '... nothing is recorded');
is(query('SELECT count(*) FROM pglock.contention_info'), '0', '... so there is no table');
is(query('SELECT count(*), count(key) FROM pglock.locks'), '1|1', '... while locks are shown');
end_session($holder, $waiter);

# Very many keys: whoever reads them all can give up. What has been read until then goes to a file, whose size is logged.
$node->append_conf('postgresql.conf', <<'END');
pglock.max_contended_keys = 30000
max_locks_per_transaction = 1000
log_temp_files = 0
END
$node->restart;
$holder = session($node);
$waiter = session($node);
$holder->query_safe("SELECT count(pglock.acquire('k' || i)) FROM generate_series(1, 30000) i");
$waiter->query_safe("SELECT count(pglock.acquire('k' || i, '1us')) FROM generate_series(1, 30000) i");

# What the session reads in as much time, as bytes.
sub bytes_read
{
	my ($session, $relation, $timeout) = @_;
	my $log_size = -s $node->logfile;
	my $sqlstate = sqlstate($session, "BEGIN; SET LOCAL statement_timeout = '$timeout'; SELECT count(*) FROM pglock.$relation");

	$session->query('ROLLBACK');

	my ($bytes) = slurp_file($node->logfile, $log_size) =~ /temporary file: .* size (\d+)/;

	return ($sqlstate, $bytes // 0);
}

foreach my $read ([ $waiter, 'contention' ], [ $waiter, 'contention_histogram' ], [ $holder, 'session_holds()' ])
{
	my ($session, $relation) = @$read;

	$session->query("SET work_mem = '64kB'");
	my ($done, $all) = bytes_read($session, $relation, '0');
	my ($ended, $some) = bytes_read($session, $relation, '1ms');

	is("$done $ended", '00000 57014', "$relation: reading it all takes longer than may be");
	cmp_ok($some, '<', $all / 2, '... and ends in time');
}
end_session($holder, $waiter);

stop_and_check_log($node);
done_testing();
