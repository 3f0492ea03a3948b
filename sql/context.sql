--
-- Where the functions may be called from
--
\set mine 'SELECT key, mode, scope, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, mode, scope'

-- read-only transactions
BEGIN READ ONLY;
SELECT pglock.acquire('a'), pglock.try('a'), pglock.acquire_all('{a,b}'),
       pglock.acquire('c', '1s', scope => 'transaction'), pglock.acquire_raw(1);
CALL pglock.lock('a');
:mine;
SELECT pglock.held('a'), pglock.is_free('a'), (SELECT count(*) FROM pglock.holders('a')),
       pglock.release('a'), pglock.release_raw(1), pglock.release_all();
COMMIT;
SET default_transaction_read_only = on;
CALL pglock.lock('a');
SELECT pglock.release('a');
RESET default_transaction_read_only;

-- PL/pgSQL: function, DO, and a procedure that ends transactions
CREATE FUNCTION in_plpgsql(key text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pglock.acquire(key, timeout => '5s') THEN
        RAISE 'not acquired';
    END IF;
    CALL pglock.lock(key, shared => true);
    RETURN (SELECT count(*) FROM pglock.locks WHERE locks.key = in_plpgsql.key);
END $$;
SELECT in_plpgsql('a'), pglock.release('a'), pglock.release('a'), pglock.release('a');
DO $$
DECLARE
    answer boolean;
BEGIN
    answer = pglock.try('a');
    ASSERT answer AND pglock.held('a');
    PERFORM pglock.release('a');
    ASSERT NOT pglock.held('a');
END $$;
CREATE TABLE counter (n integer);
INSERT INTO counter VALUES (0);
CREATE PROCEDURE in_batches() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3 LOOP
        CALL pglock.lock('batch');
        UPDATE counter SET n = n + 1;
        COMMIT;
        PERFORM pglock.release('batch');
    END LOOP;
END $$;
CALL in_batches();
SELECT n FROM counter;
:mine;
-- a nested CALL keeps what its caller has done and locked
BEGIN;
LOCK TABLE counter;
UPDATE counter SET n = 10;
SELECT pglock.acquire('t', scope => 'transaction');
CALL pglock.lock('a');
ROLLBACK;
CREATE PROCEDURE nested() LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counter SET n = 10;
    PERFORM pglock.acquire('t', scope => 'transaction');
    CALL pglock.lock('b');
    RAISE NOTICE 'still held: %, still written: %', pglock.held('t'), (SELECT n FROM counter);
    ROLLBACK;
    RAISE NOTICE 'then held: %, then written: %', pglock.held('t'), (SELECT n FROM counter);
END $$;
CALL nested();
SELECT pglock.release_all();

-- functions in SQL, inlined or not
CREATE FUNCTION in_sql(key text) RETURNS boolean LANGUAGE sql AS 'SELECT pglock.acquire(key)';
CREATE FUNCTION in_sql_twice(key text) RETURNS boolean LANGUAGE sql AS
    'SELECT pglock.acquire(key); SELECT pglock.release(key) AND pglock.held(key)';
CREATE FUNCTION in_sql_standard(key text) RETURNS boolean LANGUAGE sql
    RETURN pglock.try(key, shared => true);
SELECT in_sql('a'), in_sql_twice('a'), in_sql_standard('b');
:mine;
SELECT pglock.release_all();
-- what runs as another role, or with settings of its own
CREATE FUNCTION in_definer(key text) RETURNS boolean LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = '' SET work_mem = '1MB' AS $$
BEGIN
    CALL pglock.lock(key);
    RETURN pglock.held(key);
END $$;
SELECT in_definer('a'), pglock.release('a');

-- triggers
CREATE FUNCTION in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pglock.acquire(concat_ws(' ', tg_when, tg_op, new.n), scope => tg_argv[0]);
    RETURN new;
END $$;
CREATE TRIGGER before_row BEFORE INSERT ON counter
    FOR EACH ROW EXECUTE FUNCTION in_trigger('transaction');
CREATE TRIGGER after_row AFTER UPDATE ON counter
    FOR EACH ROW EXECUTE FUNCTION in_trigger('session');
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON counter INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION in_trigger('session');
BEGIN;
INSERT INTO counter VALUES (7), (8);
UPDATE counter SET n = n + 1 WHERE n = 7;
:mine;
COMMIT;
:mine;
SELECT pglock.release_all();

-- cursors: a row is a call
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT i, pglock.acquire('n' || i) FROM generate_series(1, 5) AS i;
FETCH 2 FROM c;
:mine;
FETCH BACKWARD 1 FROM c;
:mine;
CLOSE c;
DECLARE h CURSOR WITH HOLD FOR SELECT i, pglock.release('n' || i) FROM generate_series(1, 3) AS i;
COMMIT;
FETCH ALL FROM h;
CLOSE h;
:mine;

-- elsewhere in a statement
PREPARE p(text) AS SELECT pglock.acquire($1) AND pglock.release($1);
EXECUTE p('a');
EXPLAIN ANALYZE SELECT pglock.try('a') \g /dev/null
COPY (SELECT pglock.release('a')) TO STDOUT;
CREATE TABLE taken AS SELECT pglock.try('b') AS answer, pglock.release('b') AS released;
TABLE taken;
SELECT i FROM generate_series(1, 3) AS i WHERE pglock.try('n' || i) ORDER BY i;
SELECT (SELECT pglock.release('n' || i)) FROM generate_series(1, 4) AS i;
CREATE TABLE defaults (id integer, taken boolean DEFAULT pglock.try('default'));
INSERT INTO defaults VALUES (1), (2);
SELECT pglock.release_all();
DROP TABLE taken, defaults;

-- a temporary schema or a search_path of the user's does not get in the way
CREATE SCHEMA regress_pglock_hostile;
CREATE FUNCTION regress_pglock_hostile.pg_backend_pid() RETURNS integer LANGUAGE sql AS 'SELECT -1';
CREATE VIEW regress_pglock_hostile.pg_locks AS SELECT 1 AS nothing;
SET search_path = regress_pglock_hostile, pg_catalog, public;
SELECT pglock.try('a');
SELECT key, depth FROM pglock.locks;
SELECT pglock.release('a');
RESET search_path;
DROP SCHEMA regress_pglock_hostile CASCADE;

--
-- Parallel query. The setting has another name since PostgreSQL 16.
--
SELECT name AS parallel FROM pg_settings
WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET :parallel = on;
CREATE FUNCTION in_worker() RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
    RETURN pg_backend_pid() <> current_setting('regress.leader')::integer;
END $$;
SELECT set_config('regress.leader', pg_backend_pid()::text, false) IS NOT NULL;
-- the control: there is a worker
SELECT in_worker();
-- beside it, the functions run in the leader
SELECT pglock.acquire('a'), pglock.try('a'), pglock.acquire_all('{a,b}'), pglock.acquire('c', '1s');
SELECT pglock.try('a'), pglock.held('a'), pglock.is_free('a'),
       pglock.lock_id('a') = pglock.lock_id('A');
SELECT count(*) FROM pglock.holders('a');
:mine;
SELECT in_worker(), pglock.lock_id('a') > 0;
SELECT in_worker(), pglock.try('a'), pglock.held('a'), pglock.release('a');
CALL pglock.lock('a');
SELECT pglock.release('a'), pglock.release_all('{b,c}');
:mine;
-- the wait is taken by nobody: a lock that somebody else has, in a statement that could be parallel
BEGIN;
SELECT pglock.acquire('taken', scope => 'transaction');
PREPARE TRANSACTION 'regress_pglock_context';
SELECT pglock.acquire('taken', '10ms') FROM counter WHERE n = 8;
SELECT pglock.is_free('taken'), pglock.try('taken') FROM counter WHERE n = 8;
ROLLBACK PREPARED 'regress_pglock_context';

-- a function that is marked PARALLEL SAFE, and is not: an error, or the right answer
CREATE FUNCTION wrongly_marked(expression text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE 'SELECT ' || expression INTO answer;
    RETURN concat_ws(' ', answer, CASE WHEN in_worker() THEN 'in a worker' END);
END $$;
\set VERBOSITY sqlstate
SELECT wrongly_marked('pglock.lock_id(''x'')');
SELECT wrongly_marked('pglock.acquire(''x'')');
SELECT wrongly_marked('pglock.acquire(''x'', timeout => ''10ms'')');
SELECT wrongly_marked('pglock.acquire(''a'', shared => true)');
SELECT wrongly_marked('pglock.acquire_all(''{x,y}'')');
SELECT wrongly_marked('pglock.acquire_raw(1)');
SELECT wrongly_marked('pglock.try(''x'')');
SELECT wrongly_marked('pglock.try(''x'', scope => ''transaction'')');
SELECT wrongly_marked('pglock.acquire_slot(''x'', 2)');
SELECT wrongly_marked('pglock.acquire_slot(''x'', 1, ''10ms'', ''transaction'')');
SELECT wrongly_marked('pglock.try_slot(''x'', 2)');
SELECT wrongly_marked('pglock.acquire_lease(''x'')');
SELECT wrongly_marked('pglock.try_lease(''x'')');
SELECT wrongly_marked('pglock.is_free(''a'')');
SELECT wrongly_marked('pglock.is_free(''x'')');
SELECT wrongly_marked('count(*) FROM pglock.holders(''a'')');
-- a worker does not know what its leader holds
SELECT wrongly_marked('pglock.held(''a'')');
SELECT wrongly_marked('pglock.release(''a'')');
SELECT wrongly_marked('pglock.release_raw(pglock.lock_id(''a''))');
SELECT wrongly_marked('pglock.release_slot(''x'', 1)');
SELECT wrongly_marked('pglock.release_all()');
SELECT wrongly_marked('pglock.release_all(''{a}'')');
SELECT wrongly_marked('count(*) FROM pglock.session_holds()');
\set VERBOSITY default
:mine;
RESET :parallel;
SELECT pglock.release_all();

DROP TABLE counter;
DROP FUNCTION in_plpgsql, in_sql, in_sql_twice, in_sql_standard, in_definer, in_trigger, in_worker,
    wrongly_marked;
DROP PROCEDURE in_batches, nested;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';
