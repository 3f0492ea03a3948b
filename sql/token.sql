--
-- Fencing tokens
--
-- The numbers differ from run to run: what is shown is how they compare.
CREATE PROCEDURE refused(command text) LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RAISE NOTICE '% is NOT refused', command;
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE NOTICE E'%\n=> % %', btrim(command), sqlstate,
        concat_ws(E'\n', sqlerrm, nullif(detail, ''), nullif(hint, ''));
END $$;
-- volatile, unlike 1 / 0, which fails before anything is called
CREATE FUNCTION fail() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'failed'; END $$;

-- the same within a hold, a greater one in the next
SELECT pglock.acquire('x');
SELECT pglock.token('x') AS token \gset
SELECT pglock.token('x') = :token AS same, pglock.token('x') = :token AS same;
SELECT pglock.release('x'), pglock.acquire('x');
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
SELECT pglock.token('x') = :token AS same;
SELECT pglock.release('x');
CALL pglock.lock('x');
SELECT pglock.token('x') > :token AS greater;
SELECT pglock.release('x');
-- all within one statement
SELECT pglock.acquire('x'), pglock.token('x') = pglock.token('x') AS same, pglock.release('x');
DO $$
DECLARE
    last bigint = 0;
BEGIN
    FOR i IN 1 .. 1000 LOOP
        ASSERT pglock.try('x') AND pglock.token('x') > last;
        last = pglock.token('x');
        ASSERT pglock.release('x');
    END LOOP;
END $$;

-- microseconds since 1970, and not ahead of the clock
SELECT pglock.acquire('x');
SELECT pglock.token('x') AS token \gset
SELECT to_timestamp(:token / 1e6) BETWEEN clock_timestamp() - interval '1 min' AND clock_timestamp()
    AS is_recent;
-- kept under a bound that is a second ahead at most
SELECT last_value >= :token AS covered,
       to_timestamp(last_value / 1e6) < clock_timestamp() + interval '1 s' AS is_near
FROM pglock.tokens;
SELECT pglock.release('x');

-- one sequence for all keys, in the order of drawing
SELECT pglock.acquire_all('{a,b,c}');
SELECT pglock.token('b') AS b, pglock.token('c') AS c, pglock.token('a') AS a \gset
SELECT :b > :token AS b, :c > :b AS c, :a > :c AS a;
SELECT pglock.token('a') = :a AS a, pglock.token('b') = :b AS b, pglock.token('c') = :c AS c;
SELECT pglock.release('b'), pglock.token('a') = :a AS a, pglock.token('c') = :c AS c;
SELECT pglock.acquire('b'), pglock.token('b') > :a AS b, pglock.token('a') = :a AS a;
SELECT pglock.release_all();
WITH drawn AS MATERIALIZED (
    SELECT i, pglock.acquire('n' || i), pglock.token('n' || i) FROM generate_series(1, 1000) AS i)
SELECT count(DISTINCT token), bool_and(token > previous) AS greater
FROM (SELECT token, lag(token, 1, 0::bigint) OVER (ORDER BY i) AS previous FROM drawn) AS drawn;
SELECT pglock.release_all();

-- a key of another type is the same key
SELECT pglock.acquire('42');
SELECT pglock.token('42') AS token \gset
SELECT pglock.token(42) = :token AS integer, pglock.token(42::bigint) = :token AS bigint,
       pglock.token('42'::text) = :token AS text;
SELECT pglock.acquire('01234567-89ab-cdef-0123-456789abcdef'::uuid);
SELECT pglock.token('01234567-89ab-cdef-0123-456789abcdef'::uuid) AS token \gset
SELECT pglock.token('01234567-89ab-cdef-0123-456789abcdef') = :token AS text;
SELECT pglock.release_all();

-- kept as long as the lock is held exclusively, whichever levels there are
SELECT pglock.acquire('x'), pglock.acquire('x');
SELECT pglock.token('x') AS token \gset
SELECT pglock.release('x'), pglock.token('x') = :token AS same;
SELECT pglock.acquire('x', shared => true), pglock.token('x') = :token AS same;
SELECT pglock.acquire('x'), pglock.release('x', shared => true), pglock.token('x') = :token AS same;
SELECT pg_advisory_unlock(pglock.lock_id('x')), pglock.token('x') = :token AS same;
-- in another scope
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.token('x') = :token AS same;
SELECT pglock.release('x'), pglock.token('x') = :token AS same;
SELECT pglock.acquire('x'), pglock.token('x') = :token AS same;
COMMIT;
SELECT pglock.token('x') = :token AS same;
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.release('x');
SELECT pglock.token('x') = :token AS same;
COMMIT;
CALL refused($$ SELECT pglock.token('x') $$);
-- a shared one that stays is not enough
SELECT pglock.acquire('x', shared => true), pglock.acquire('x');
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
SELECT pglock.release('x');
CALL refused($$ SELECT pglock.token('x') $$);
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater;
SELECT pglock.token('x') AS token \gset
SELECT pglock.release('x', shared => true), pglock.token('x') = :token AS same;
SELECT pglock.release_all();

-- transactions and savepoints
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.token('x') > :token AS greater;
SELECT pglock.token('x') AS token \gset
SAVEPOINT s;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.token('x') = :token AS same;
ROLLBACK TO s;
SELECT pglock.token('x') = :token AS same;
COMMIT;
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
ROLLBACK;
-- drawn after the savepoint, of what was held before it
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.acquire('y');
SAVEPOINT s;
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS x, pglock.token('y') AS y \gset
\echo :greater
ROLLBACK TO s;
SELECT pglock.token('x') = :x AS same, pglock.token('y') = :y AS same;
ROLLBACK;
SELECT pglock.token('y') = :y AS same, pglock.release('y');
-- the lock goes with the savepoint: broken
BEGIN;
SAVEPOINT s;
SELECT pglock.acquire('x', scope => 'transaction');
SELECT pglock.token('x') AS token \gset
ROLLBACK TO s;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.token('x') > :token AS greater;
COMMIT;
DO $$
DECLARE
    before bigint;
BEGIN
    BEGIN
        PERFORM pglock.acquire('x', scope => 'transaction');
        before = pglock.token('x');
        PERFORM fail();
    EXCEPTION WHEN raise_exception THEN
        PERFORM pglock.acquire('x', scope => 'transaction');
    END;
    ASSERT pglock.token('x') > before;
END $$;
-- the command that drew it fails
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater, fail();
CALL refused($$ SELECT pglock.token('x') $$);
SELECT pglock.acquire('x');
SELECT pglock.token('x') > 0, fail();
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
SELECT pglock.acquire('x'), pglock.token('x') = :token AS same, fail();
SELECT pglock.token('x') = :token AS same;
SELECT pglock.release_all();
-- prepared: the lock leaves the session
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.token('x') > :token AS greater;
SELECT pglock.token('x') AS token \gset
PREPARE TRANSACTION 'regress_pglock_token';
CALL refused($$ SELECT pglock.token('x') $$);
SELECT pid, token FROM pglock.locks;
COMMIT PREPARED 'regress_pglock_token';
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater, pglock.release('x');

-- broken behind our back, if only for a moment
SELECT pglock.acquire('x');
SELECT pglock.token('x') AS token \gset
DO $$
BEGIN
    PERFORM pg_advisory_unlock(pglock.lock_id('x'));
    PERFORM pg_advisory_lock(pglock.lock_id('x'));
END $$;
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
DO $$
BEGIN
    PERFORM pg_advisory_unlock(pglock.lock_id('x'));
    PERFORM pglock.acquire('x');
END $$;
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
DO $$
DECLARE
    before bigint = pglock.token('x');
BEGIN
    PERFORM pg_advisory_unlock_all();
    PERFORM pglock.acquire('x');
    ASSERT pglock.token('x') > before;
    before = pglock.token('x');
    PERFORM pg_advisory_unlock_all();
    PERFORM pg_advisory_xact_lock(pglock.lock_id('x'));
    PERFORM pglock.acquire('x');
    ASSERT pglock.token('x') > before;
END $$;
-- in one of the modes only
SELECT pglock.acquire('x', shared => true);
SELECT pglock.token('x') AS token \gset
SELECT pg_advisory_unlock_shared(pglock.lock_id('x')), pg_advisory_lock_shared(pglock.lock_id('x')),
       pglock.token('x') = :token AS same;
SELECT pg_advisory_unlock(pglock.lock_id('x')), pg_advisory_lock(pglock.lock_id('x')),
       pglock.token('x') > :token AS greater;
SELECT pg_advisory_unlock_all();
SELECT pglock.acquire('x');
SELECT pglock.token('x') AS token \gset
DISCARD ALL;
CALL refused($$ SELECT pglock.token('x') $$);
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater;
SELECT pglock.release_all();

-- held by the built-ins only
SELECT pg_advisory_lock(pglock.lock_id('x')), pglock.token('x') > :token AS greater;
SELECT pglock.token('x') AS token \gset
SELECT pg_advisory_lock(pglock.lock_id('x')), pglock.acquire('x'),
       pglock.token('x') = :token AS same;
SELECT pglock.release('x'), pg_advisory_unlock(pglock.lock_id('x')),
       pglock.token('x') = :token AS same;
SELECT mode, scope, depth, token = :token AS same FROM pglock.locks;
SELECT pg_advisory_unlock(pglock.lock_id('x')), pg_advisory_lock(pglock.lock_id('x')),
       pglock.token('x') > :token AS greater;
SELECT pglock.token('x') AS token \gset
SELECT pg_advisory_unlock(pglock.lock_id('x'));
CALL refused($$ SELECT pglock.token('x') $$);
BEGIN;
SELECT pg_advisory_xact_lock(pglock.lock_id('x')), pglock.token('x') > :token AS greater;
COMMIT;
SELECT pglock.acquire_raw(pglock.lock_id('x')), pglock.token('x') > :token AS greater,
       pglock.release('x');
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

-- the view has it where it belongs
BEGIN;
SELECT pglock.acquire('x'), pglock.acquire('x', shared => true), pglock.acquire('y'),
       pglock.acquire('x', scope => 'transaction');
SELECT pglock.token('x') AS token \gset
SELECT key, mode, scope, token = :token AS token FROM pglock.locks ORDER BY key, mode, scope;
SELECT pglock.release('x', shared => false);
COMMIT;
SELECT key, mode, scope, token FROM pglock.locks ORDER BY key, mode, scope;
SELECT pglock.release_all();

-- what is refused
CALL refused($$ SELECT pglock.token('x') $$);
CALL refused($$ SELECT pglock.token(42) $$);
CALL refused($$ SELECT pglock.token('01234567-89ab-cdef-0123-456789abcdef'::uuid) $$);
CALL refused($$ SELECT pglock.token('') $$);
CALL refused($$ SELECT pglock.token(NULL) $$);
CALL refused($$ SELECT pglock.token(NULL::bigint) $$);
CALL refused($$ SELECT pglock.token(NULL::uuid) $$);
SELECT pglock.acquire('x', shared => true);
CALL refused($$ SELECT pglock.token('x') $$);
SELECT pglock.acquire('x');
BEGIN READ ONLY;
CALL refused($$ SELECT pglock.token('x') $$);
COMMIT;
SELECT pglock.token('x') > :token AS greater;
-- drawn or not
BEGIN READ ONLY;
CALL refused($$ SELECT pglock.token('x') $$);
COMMIT;
SET default_transaction_read_only = on;
CALL refused($$ SELECT pglock.token('x') $$);
RESET default_transaction_read_only;
SELECT pglock.release_all();

-- no transaction id, and so no warning that the next holder can't see what was written
BEGIN;
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater;
SELECT pg_current_xact_id_if_assigned() IS NULL AS none, pglock.release('x');
SAVEPOINT s;
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater, pglock.release_all();
SELECT pg_current_xact_id_if_assigned() IS NULL AS none;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater, pglock.release('x');
SELECT pg_current_xact_id_if_assigned() IS NULL AS none;
COMMIT;

-- where it is used: a fence that refuses who is late
CREATE TABLE fenced (value text, token bigint);
INSERT INTO fenced VALUES ('', 0);
CREATE FUNCTION fenced_update(new_value text, new_token bigint) RETURNS boolean LANGUAGE sql AS $$
    WITH updated AS (
        UPDATE fenced SET value = new_value, token = new_token WHERE token <= new_token RETURNING 1)
    SELECT EXISTS (SELECT FROM updated)
$$;
SELECT pglock.acquire('x');
SELECT pglock.token('x') AS stale \gset
SELECT fenced_update('first', :stale), fenced_update('first again', :stale), pglock.release('x');
SELECT pglock.acquire('x'), fenced_update('second', pglock.token('x'));
SELECT fenced_update('late', :stale);
SELECT value, token = pglock.token('x') AS same FROM fenced;
INSERT INTO fenced SELECT i::text, pglock.token('x') FROM generate_series(1, 100) AS i;
SELECT count(DISTINCT token) FROM fenced;
SELECT pglock.release_all();
DROP FUNCTION fenced_update;
DROP TABLE fenced;

-- anybody may draw one, and read the sequence; but not change it
CREATE ROLE regress_pglock_token;
SET ROLE regress_pglock_token;
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater;
SELECT last_value >= pglock.token('x') AS covered, pglock.release('x') FROM pglock.tokens;
CALL refused($$ SELECT nextval('pglock.tokens') $$);
CALL refused($$ SELECT setval('pglock.tokens', 1) $$);
RESET ROLE;
DROP ROLE regress_pglock_token;

-- a bound far ahead of the clock, as after that was set back: on from there
SELECT setval('pglock.tokens', 9000000000000000000);
SELECT pglock.acquire('x'), pglock.token('x');
SELECT pglock.acquire('y'), pglock.token('y'), pglock.token('x');
CHECKPOINT;
SELECT pglock.release('y'), pglock.acquire('y'), pglock.token('y');
SELECT last_value - pglock.token('y') BETWEEN 0 AND 1000000 AS is_near FROM pglock.tokens;
SELECT pglock.release_all();
-- and at the end of the numbers
SELECT setval('pglock.tokens', 9223372036854775807);
SELECT pglock.acquire('x');
CALL refused($$ SELECT pglock.token('x') $$);
BEGIN;
SELECT pglock.token('x');
ROLLBACK;
-- the hold goes on without one
SELECT token FROM pglock.locks;
SELECT setval('pglock.tokens', 9000000000000000000);
SELECT pglock.token('x'), pglock.release('x');

-- where the sequence is gone
SELECT pglock.acquire('x');
BEGIN;
ALTER EXTENSION postgres_lock DROP SEQUENCE pglock.tokens;
ALTER SEQUENCE pglock.tokens RENAME TO other;
CALL refused($$ SELECT pglock.token('x') $$);
CREATE VIEW pglock.tokens AS SELECT 1 AS last_value;
CALL refused($$ SELECT pglock.token('x') $$);
ROLLBACK;

-- created again, the extension starts with the clock
SELECT setval('pglock.tokens', 1, false);
SELECT pglock.token('x') > :token AS greater, pglock.token('x') AS token \gset
\echo :greater
DROP EXTENSION postgres_lock;
CREATE EXTENSION postgres_lock;
SELECT pglock.token('x') = :token AS same, pglock.release('x');
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater;
SELECT pglock.release('x');
BEGIN;
DROP EXTENSION postgres_lock;
CREATE EXTENSION postgres_lock;
SELECT pglock.acquire('x'), pglock.token('x') > :token AS greater;
ROLLBACK;
SELECT pglock.token('x') > :token AS greater;
SELECT pglock.release_all();

DROP FUNCTION fail;
DROP PROCEDURE refused;
