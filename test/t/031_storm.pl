# Sessions take and give back locks in every way, as fast as they can, while the view locks is read:
# no snapshot of it shows anything that can't be.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

use constant SECONDS => 8;

my $node = new_server('storm', conf => <<'END');
shared_preload_libraries = postgres_lock
max_connections = 40
max_locks_per_transaction = 256
END

# The checker. Locks are of three kinds here: of the built-in functions only, ids below 100; taken
# by number or by name, keys that begin with raw; and by name only, all others.
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION impossible(rows pglock.locks[], OUT what text, OUT locks text)
RETURNS SETOF record LANGUAGE sql AS $$
	WITH lock AS MATERIALIZED (
		SELECT row_number() OVER () AS n, row.lock_id < 100 AS is_builtin,
			row.lock_id IN (pglock.lock_id('raw1'), pglock.lock_id('raw2')) AS is_raw,
			row::text AS whole, row.*
		FROM unnest(rows) AS row),
	found AS (
		SELECT 'no key' AS what, whole FROM lock WHERE key IS NULL AND NOT is_builtin AND NOT is_raw
		UNION ALL SELECT 'not the key of the id', whole FROM lock WHERE pglock.lock_id(key) <> lock_id
		UNION ALL SELECT 'a key of the built-in functions', whole FROM lock WHERE is_builtin AND key IS NOT NULL
		UNION ALL SELECT 'granted, but waits', whole FROM lock
			WHERE granted AND (blocked_by IS NOT NULL OR waiting_since IS NOT NULL)
		UNION ALL SELECT 'neither granted nor waits', whole FROM lock
			WHERE NOT granted AND waiting_since IS NULL AND NOT is_builtin
		-- (a slot that is free may be seen before whoever is in front takes it)
		UNION ALL SELECT 'waits for nobody', whole FROM lock
			WHERE NOT granted AND coalesce(cardinality(blocked_by), 0) = 0 AND slot IS DISTINCT FROM 0
		UNION ALL SELECT 'holds any slot', whole FROM lock WHERE granted AND slot < 1
		UNION ALL SELECT 'shares a slot', whole FROM lock WHERE mode = 'shared' AND slot IS NOT NULL
		UNION ALL SELECT 'waits for itself', whole FROM lock WHERE pid = ANY (blocked_by)
		UNION ALL SELECT 'waits in no scope', whole FROM lock WHERE NOT granted AND scope IS NULL AND NOT is_builtin
		UNION ALL SELECT 'not granted, but held', whole FROM lock
			WHERE NOT granted AND (depth IS NOT NULL OR held_since IS NOT NULL OR token IS NOT NULL)
		UNION ALL SELECT 'granted, but nothing is known of it', whole FROM lock
			WHERE granted AND (scope IS NULL OR depth IS NULL OR held_since IS NULL) AND NOT is_builtin
		UNION ALL SELECT 'known, though taken by the built-in functions', whole FROM lock
			WHERE is_builtin AND (scope IS NOT NULL OR depth IS NOT NULL OR held_since IS NOT NULL)
		UNION ALL SELECT 'depth below 1', whole FROM lock WHERE depth < 1
		UNION ALL SELECT 'impossible time', whole FROM lock
			WHERE held_since NOT BETWEEN pg_postmaster_start_time() AND clock_timestamp()
			   OR waiting_since NOT BETWEEN pg_postmaster_start_time() AND clock_timestamp()
		UNION ALL SELECT 'impossible mode or scope', whole FROM lock
			WHERE mode NOT IN ('exclusive', 'shared') OR scope NOT IN ('session', 'transaction')
		UNION ALL SELECT 'token of what is not an exclusive lock', whole FROM lock
			WHERE token IS NOT NULL AND (mode <> 'exclusive' OR slot IS NOT NULL)
		UNION ALL SELECT 'impossible token', whole FROM lock WHERE token <= 0
		UNION ALL SELECT 'held exclusively and by another', a.whole || ' and ' || b.whole
			FROM lock a JOIN lock b USING (lock_id)
			WHERE a.slot IS NOT DISTINCT FROM b.slot AND a.granted AND a.mode = 'exclusive' AND b.granted AND b.pid <> a.pid
		UNION ALL SELECT 'the same lock twice', min(whole) || ' and ' || max(whole)
			FROM lock GROUP BY pid, lock_id, slot, mode, scope, granted HAVING count(*) > 1
		UNION ALL SELECT 'waits for two locks', min(whole) || ' and ' || max(whole)
			FROM lock WHERE NOT granted GROUP BY pid HAVING count(*) > 1
		UNION ALL SELECT 'one exclusive hold with two tokens', min(whole) || ' and ' || max(whole)
			FROM lock WHERE token IS NOT NULL GROUP BY pid, lock_id HAVING count(DISTINCT token) > 1
		UNION ALL SELECT 'one token for two locks', min(whole) || ' and ' || max(whole)
			FROM lock WHERE token IS NOT NULL GROUP BY token HAVING count(DISTINCT lock_id) > 1
		UNION ALL SELECT 'waits for one who is not in its way', waiter.whole
			FROM lock waiter, unnest(waiter.blocked_by) AS blocker
			WHERE NOT EXISTS (
				SELECT FROM lock WHERE lock.lock_id = waiter.lock_id AND lock.pid = blocker
					AND (lock.slot IS NOT DISTINCT FROM waiter.slot OR waiter.slot = 0 AND lock.slot > 0)
					AND (lock.mode = 'exclusive' OR waiter.mode = 'exclusive'))
		UNION ALL SELECT 'does not wait for a holder in its way', waiter.whole || ' and ' || holder.whole
			FROM lock waiter JOIN lock holder USING (lock_id)
			WHERE NOT waiter.granted AND holder.granted AND holder.pid <> waiter.pid
				AND (holder.slot IS NOT DISTINCT FROM waiter.slot OR waiter.slot = 0 AND holder.slot > 0)
				AND (holder.mode = 'exclusive' OR waiter.mode = 'exclusive')
				AND holder.pid <> ALL (waiter.blocked_by))
	SELECT what, whole FROM found
$$;
END

# The control: a possible set passes, and each way to make it impossible is found.
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION made(key text, mode text, granted boolean, pid integer, blocked_by integer[] DEFAULT NULL,
	scope text DEFAULT 'session', changes jsonb DEFAULT '{}')
RETURNS pglock.locks LANGUAGE sql AS $$
	SELECT jsonb_populate_record(NULL::pglock.locks, jsonb_build_object(
		'key', key, 'lock_id', pglock.lock_id(key), 'mode', mode, 'scope', scope, 'granted', granted, 'pid', pid,
		'depth', CASE WHEN granted THEN 1 END, 'held_since', CASE WHEN granted THEN now() END,
		'waiting_since', CASE WHEN NOT granted THEN now() END, 'blocked_by', blocked_by) || changes)
$$;
CREATE FUNCTION findings(VARIADIC rows pglock.locks[]) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(DISTINCT what, '; '), '') FROM impossible(rows)
$$;
END

my $possible = "made('a', 'exclusive', true, 1, changes => '{\"token\": 5}'),
	made('a', 'exclusive', true, 1, NULL, 'transaction', '{\"token\": 5}'), made('a', 'shared', true, 1),
	made('a', 'shared', false, 2, '{1}'), made('a', 'exclusive', false, 3, '{1,2}'),
	made('b', 'shared', true, 1), made('b', 'shared', true, 2),
	made('s', 'exclusive', true, 1, changes => '{\"slot\": 1}'), made('s', 'exclusive', true, 1, changes => '{\"slot\": 2}'),
	made('s', 'exclusive', true, 2, changes => '{\"slot\": 3}'), made('s', 'exclusive', true, 5),
	made('s', 'exclusive', false, 6, '{1,2}', changes => '{\"slot\": 0}'),
	made('s', 'exclusive', false, 7, '{6,1,2}', changes => '{\"slot\": 0}'),
	made('s', 'exclusive', false, 8, '{1}', changes => '{\"slot\": 2}'),
	made('t', 'exclusive', false, 9, '{}', changes => '{\"slot\": 0}')";

is($node->safe_psql('postgres', "SELECT findings($possible)"), '', 'control: a possible set is passed');

sub is_found
{
	my ($what, $row) = @_;

	like($node->safe_psql('postgres', "SELECT findings($possible, $row)"), qr/\b$what\b/,
		"control: $what: is found");
	return;
}

my $held = "'c', 'exclusive', true, 4";
my $waits = "'a', 'shared', false, 4, '{1,3}'";

is_found('no key', "made($held, changes => '{\"key\": null}')");
is_found('not the key of the id', "made($held, changes => '{\"key\": \"other\"}')");
is_found('a key of the built-in functions', "made($held, changes => '{\"lock_id\": 42}')");
is_found('granted, but waits', "made($held, '{2}')");
is_found('granted, but waits', "made($held, changes => '{\"waiting_since\": \"now\"}')");
is_found('neither granted nor waits', "made($waits, changes => '{\"waiting_since\": null}')");
is_found('waits for nobody', "made($waits, changes => '{\"blocked_by\": []}')");
is_found('waits for nobody', "made($waits, changes => '{\"blocked_by\": null}')");
is_found('waits for itself', "made($waits, changes => '{\"blocked_by\": [1, 4]}')");
is_found('waits in no scope', "made($waits, scope => NULL)");
is_found('not granted, but held', "made($waits, changes => '{\"$_\"}')" =~ s/"\}/": 1}/r) foreach 'depth', 'token';
is_found('not granted, but held', "made($waits, changes => '{\"held_since\": \"now\"}')");
is_found('granted, but nothing is known of it', "made($held, changes => '{\"$_\": null}')")
  foreach 'depth', 'held_since', 'scope';
is_found('known, though taken by the built-in functions', "made($held, changes => '{\"lock_id\": 42}')");
is_found('depth below 1', "made($held, changes => '{\"depth\": 0}')");
is_found('impossible time', "made($held, changes => '{\"held_since\": \"$_\"}')") foreach 'tomorrow', 'yesterday';
is_found('impossible time', "made($waits, changes => '{\"waiting_since\": \"tomorrow\"}')");
is_found('impossible mode or scope', "made($held, scope => 'none')");
is_found('token of what is not an exclusive lock', "made('c', 'shared', true, 4, changes => '{\"token\": 6}')");
is_found('token of what is not an exclusive lock', "made($held, changes => '{\"token\": 6, \"slot\": 1}')");
is_found('waits for nobody', "made('s', 'exclusive', false, 4, '{}', changes => '{\"slot\": 1}')");
is_found('holds any slot', "made($held, changes => '{\"slot\": 0}')");
is_found('shares a slot', "made('c', 'shared', true, 4, changes => '{\"slot\": 1}')");
is_found('held exclusively and by another', "made('s', 'exclusive', true, 4, changes => '{\"slot\": 1}')");
is_found('the same lock twice', "made('s', 'exclusive', true, 1, changes => '{\"slot\": 1}')");
is_found('waits for one who is not in its way', "made('s', 'exclusive', false, 4, '{1,2,5,6,7}', changes => '{\"slot\": 0}')");
is_found('waits for one who is not in its way', "made('s', 'exclusive', false, 4, '{1,2}', changes => '{\"slot\": 1}')");
is_found('does not wait for a holder in its way', "made('s', 'exclusive', false, 4, '{1}', changes => '{\"slot\": 0}')");
is_found('impossible token', "made($held, changes => '{\"token\": 0}')");
is_found('held exclusively and by another', "made('a', 'exclusive', true, 4)");
is_found('held exclusively and by another', "made('a', 'shared', true, 4)");
is_found('the same lock twice', "made('a', 'shared', true, 1)");
is_found('waits for two locks', "made('b', 'exclusive', false, 2, '{1}')");
is_found('one token for two locks', "made($held, changes => '{\"token\": 5}')");
is_found('one exclusive hold with two tokens',
	"made('c', 'exclusive', true, 4, changes => '{\"token\": 6}'),
	made('c', 'exclusive', true, 4, NULL, 'transaction', '{\"token\": 7}')");
is_found('waits for one who is not in its way', "made($waits, changes => '{\"blocked_by\": [1, 2]}')");
is_found('does not wait for a holder in its way', "made($waits, changes => '{\"blocked_by\": [3]}')");

# The storm. Waits that could be a deadlock end before that is looked for; an error would end a client
# of pgbench, and the storm with it.
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION random_key() RETURNS text VOLATILE LANGUAGE sql AS $$ SELECT 'k' || (random() * 4)::int $$;

CREATE FUNCTION in_time(key text, id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL lock_timeout = '3ms';
	PERFORM pglock.acquire('in a subtransaction', '2ms', true, 'transaction');
	PERFORM pg_advisory_lock(id);
	RETURN pglock.acquire(key);
EXCEPTION WHEN lock_not_available THEN
	RETURN false;
END $$;

-- NULL too if the session itself holds all that there are
CREATE FUNCTION slot_in_time(key text, slots integer, timeout interval, scope text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	RETURN pglock.acquire_slot(key, slots, timeout, scope);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	RETURN NULL;
END $$;

CREATE TABLE violation (at timestamptz DEFAULT clock_timestamp(), what text, locks text);
CREATE TABLE seen (what text, count bigint);

-- Each snapshot is of a transaction of its own, since pg_stat_activity does not change within one.
CREATE PROCEDURE read_for(seconds integer) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 s';
	snapshot pglock.locks[];
	counts bigint[] := array_fill(0, '{12}');
BEGIN
	WHILE clock_timestamp() < until LOOP
		SELECT array_agg(locks) INTO snapshot FROM pglock.locks;
		COMMIT;
		INSERT INTO violation (what, locks) SELECT impossible.what, impossible.locks FROM impossible(snapshot);
		SELECT ARRAY[counts[1] + 1,
			counts[2] + count(*) FILTER (WHERE granted AND mode = 'exclusive' AND key IS NOT NULL),
			counts[3] + count(*) FILTER (WHERE granted AND mode = 'shared' AND key IS NOT NULL),
			counts[4] + count(*) FILTER (WHERE scope = 'transaction'),
			counts[5] + count(*) FILTER (WHERE depth > 1),
			counts[6] + count(*) FILTER (WHERE NOT granted AND mode = 'exclusive'),
			counts[7] + count(*) FILTER (WHERE NOT granted AND mode = 'shared'),
			counts[8] + count(token),
			counts[9] + count(*) FILTER (WHERE lock_id < 100),
			greatest(counts[10], max(count(*)) OVER ()),
			counts[11] + count(*) FILTER (WHERE slot > 0 AND granted),
			counts[12] + count(*) FILTER (WHERE slot = 0)]
		INTO counts FROM unnest(snapshot);
	END LOOP;
	INSERT INTO seen SELECT * FROM unnest('{snapshots,exclusive holds,shared holds,holds of transaction scope,
		holds of some depth,exclusive waiters,shared waiters,tokens,locks of the built-in functions,
		rows at once,slots,waiters for any slot}'::text[], counts);
END $$;
END

# $what decides; those who hold much come and go, too
my $churn = <<'END';
\set what random(1, 20)
\if :what <= 3
SELECT pglock.acquire(random_key(), interval '1 ms' * random(), random() < 0.5) FROM generate_series(1, 3);
\elif :what = 4
SELECT pglock.acquire_all(array(SELECT 'many' || i FROM generate_series(1, 20) i), '5ms', random() < 0.7);
\elif :what = 5
SELECT pglock.acquire_all(array(SELECT 'mine' || pg_backend_pid() || '.' || i
	FROM generate_series(1, (90 * random())::int) i));
\elif :what = 6
BEGIN;
SELECT pglock.acquire(random_key(), '3ms', random() < 0.5, 'transaction') FROM generate_series(1, 4);
SAVEPOINT s;
SELECT pglock.acquire(random_key(), '1ms', random() < 0.5, 'transaction') FROM generate_series(1, 4);
ROLLBACK TO SAVEPOINT s;
SELECT pg_advisory_unlock(pglock.lock_id(random_key()));
COMMIT;
\elif :what = 7
SELECT CASE WHEN pglock.acquire('t' || i, '3ms') THEN pglock.token('t' || i) END
FROM (SELECT (random() * 3)::int AS i) AS which;
\elif :what = 8
SELECT in_time(random_key(), (1 + random() * 4)::int);
\elif :what = 9
SELECT pg_advisory_unlock_all();
\elif :what = 10
SELECT pg_try_advisory_lock((1 + random() * 4)::int), pg_try_advisory_lock_shared(6), pg_try_advisory_xact_lock(7);
\elif :what = 11
SELECT pg_advisory_unlock(pglock.lock_id(random_key())), pg_advisory_unlock_shared(pglock.lock_id(random_key()))
FROM generate_series(1, 3);
\elif :what = 12
SELECT pglock.try_raw(pglock.lock_id('raw' || i), true), pglock.acquire('raw' || i, '1ms', true),
	pglock.release_raw(pglock.lock_id('raw' || i)), pg_advisory_unlock_shared(pglock.lock_id('raw' || i))
FROM generate_series(1, 2) i, generate_series(1, 5);
\elif :what = 13
SELECT pglock.release(random_key()), pglock.release(random_key(), random() < 0.5) FROM generate_series(1, 3);
\elif :what = 14
CALL pglock.lock('few');
SELECT pglock.release('few');
\elif :what <= 16
SELECT slot_in_time(random_key(), (1 + random() * 2)::int, interval '2 ms' * random(), 'session') FROM generate_series(1, 3);
\elif :what = 17
BEGIN;
SELECT slot_in_time(random_key(), 2, '3ms', 'transaction') FROM generate_series(1, 3);
SAVEPOINT s;
SELECT slot_in_time(random_key(), 3, '1ms', 'transaction') FROM generate_series(1, 3);
ROLLBACK TO SAVEPOINT s;
COMMIT;
\elif :what = 18
SELECT pglock.release_slot(random_key(), 1), pglock.try_slot(random_key(), 4), pglock.release_slot(random_key(), 2);
\else
SELECT pglock.release_all();
\endif
END

my $file = PostgreSQL::Test::Utils::tempdir() . '/churn.sql';

append_to_file($file, $churn);

my $size = $node->safe_psql('postgres', 'SELECT pglock.registry_size()');
# to files: a pipe that nobody reads, as we wait for another client, would stop a client that holds a lock
my @outputs = map { "$file.out$_" } 0 .. 2;
my @pgbench = ('pgbench', '-n', '-T', SECONDS, '-f', $file, '-h', $node->host, '-p', $node->port, 'postgres');
my @clients = (
	[ @pgbench, '-c', 3, '-M', 'simple' ],
	[ @pgbench, '-c', 3, '-M', 'prepared' ],
	[ @pgbench, '-c', 2, '-C' ]);
my @running = map { IPC::Run::start($clients[$_], '<', \undef, '>&', $outputs[$_]) } 0 .. $#clients;

is($node->psql('postgres', "CALL read_for(@{[ SECONDS ]})"), 0, 'the view is read while clients churn');
foreach my $i (0 .. $#running)
{
	$running[$i]->finish;
	unlike(slurp_file($outputs[$i]), qr/error|aborted/i, "clients of kind $i go on to the end");
}

is( $node->safe_psql('postgres', "SELECT count(*), what, min(locks) FROM violation GROUP BY what ORDER BY what"),
	'', 'no snapshot shows anything impossible');
note($node->safe_psql('postgres', 'SELECT what, count FROM seen'));
is($node->safe_psql('postgres', 'SELECT count(*) FROM seen'), '12', '... and each kind');
is($node->safe_psql('postgres', "SELECT what FROM seen WHERE count < 10"), '', '... of lock was seen');
ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"),
	'when all have ended nothing is held');
is($node->safe_psql('postgres', 'SELECT count(*), pglock.registry_size() FROM pglock.locks'),
	"0|$size", '... and nothing is shown, nor any memory in use');

# Memory for what many sessions publish comes and goes, while the view is read as often as possible.
my $many = "$file.many";

append_to_file($many, <<'END');
SELECT pglock.acquire_all(array(SELECT 'mine' || pg_backend_pid() || '.' || i FROM generate_series(1, 80) i));
\sleep 1 ms
SELECT pglock.release_all();
END

my $holders = IPC::Run::start([ 'pgbench', '-n', '-T', SECONDS, '-c', 12, '-M', 'prepared', '-f', $many, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \undef, '>&', "$many.out");

$node->safe_psql('postgres', <<"END");
CREATE PROCEDURE look_for(seconds integer, INOUT looks bigint = 0, INOUT rows bigint = 0, INOUT unknown bigint = 0) LANGUAGE plpgsql AS \$\$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 s';
	look record;
BEGIN
	WHILE clock_timestamp() < until LOOP
		SELECT count(*) AS rows, count(*) FILTER (WHERE key IS NULL) AS unknown INTO look FROM pglock.lock_status() WHERE granted;
		looks := looks + 1;
		rows := rows + look.rows;
		unknown := unknown + look.unknown;
	END LOOP;
END \$\$;
END

my ($looks, $rows, $unknown) = split /\|/, $node->safe_psql('postgres', "CALL look_for(@{[ SECONDS - 1 ]})");

$holders->finish;
note("$looks looks at $rows rows");
cmp_ok($rows, '>', 1000, 'sessions hold many locks while the view is read');
is($unknown, 0, '... each of which is known');

stop_and_check_log($node);
done_testing();
