--
-- A command that fails leaves nothing behind of what it took
--
\set mine 'SELECT key, mode, scope, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, mode, scope'
-- volatile, unlike 1 / 0, which fails before anything is called
CREATE FUNCTION fail() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'failed'; END $$;
\set SHOW_CONTEXT never

-- the control: the built-in's lock stays, though the client was told of a failure
SELECT pg_advisory_lock(1), fail();
SELECT lock_id FROM pglock.locks;
SELECT pg_advisory_unlock(1);

-- in autocommit
SELECT pglock.acquire('x'), fail();
SELECT pglock.try('x', shared => true), fail();
SELECT pglock.acquire('x', scope => 'transaction'), fail();
SELECT pglock.acquire_all('{x,y,z}'), fail();
SELECT pglock.acquire_raw(1), pglock.try_raw(1), fail();
SELECT pglock.acquire('x'), pglock.acquire('x', shared => true), pglock.acquire('x'),
       pglock.acquire('y'), pglock.release('y'), fail();
SELECT pglock.acquire('n' || i), CASE WHEN i = 500 THEN fail() END
FROM generate_series(1, 1000) AS i;
:mine;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

-- what an earlier command took stays, level by level and mode by mode
SELECT pglock.acquire('x'), pglock.acquire('x'), pglock.acquire('y', shared => true);
SELECT pglock.acquire('x'), pglock.acquire('x'), pglock.acquire('x', shared => true),
       pglock.acquire('y'), fail();
:mine;
-- the newest is still the newest
SELECT pglock.acquire('x', shared => true);
SELECT pglock.acquire('x'), fail();
SELECT pglock.release('x');
:mine;
-- what it gave back itself is not taken back, neither what it took nor what it found
SELECT pglock.acquire('x'), pglock.release('x'), fail();
:mine;
SELECT pglock.release('x'), pglock.acquire('x'), fail();
:mine;
SELECT pglock.release('x'), fail();
:mine;
-- nor is a level of a built-in
SELECT pg_advisory_lock(pglock.lock_id('x')), pglock.acquire('x'), fail();
SELECT pglock.release('x'), pglock.release('x');
-- and what went round us in the command is not given back twice
SELECT pglock.acquire('x'), pg_advisory_unlock(pglock.lock_id('x')), fail();
SELECT pglock.acquire('x'), pg_advisory_unlock_all(), pglock.acquire('y'), fail();
:mine;

-- in a transaction block: its earlier commands have not failed
BEGIN;
SELECT pglock.acquire('before'), pglock.acquire('t', scope => 'transaction');
SELECT pglock.acquire('x'), pglock.acquire('before'), fail();
SELECT 'refused: the transaction is aborted' FROM pglock.acquire('x');
ROLLBACK;
:mine;
SELECT pglock.release_all();
-- at a failing COMMIT there is nothing that this command took
CREATE TABLE checked (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO checked VALUES (1), (1);
SELECT pglock.acquire('before');
COMMIT;
:mine;
SELECT pglock.release_all();
-- but there is when the commit is the command's own
CREATE FUNCTION acquiring_insert() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO checked VALUES (1), (1);
    RETURN pglock.acquire('x');
END $$;
SELECT acquiring_insert();
:mine;

-- a trigger at the end of the transaction is part of the command, too: what it takes and catches
-- is kept, with what was taken before it
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM pglock.acquire('caught ' || new.n);
        PERFORM fail();
    EXCEPTION WHEN raise_exception THEN
        NULL;
    END;
    IF new.n < 0 THEN
        PERFORM fail();
    END IF;
    RETURN NULL;
END $$;
CREATE TABLE watched (n integer);
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON watched INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_commit();
WITH one AS (INSERT INTO watched VALUES (1) RETURNING n) SELECT pglock.acquire('x') FROM one;
BEGIN;
INSERT INTO watched VALUES (2);
COMMIT;
:mine;
SELECT pglock.release_all();
WITH one AS (INSERT INTO watched VALUES (-1) RETURNING n) SELECT pglock.acquire('x') FROM one;
BEGIN;
INSERT INTO watched VALUES (-2);
SELECT pglock.acquire('before');
COMMIT;
:mine;
SELECT pglock.release_all();

-- in a savepoint
BEGIN;
SELECT pglock.acquire('before');
SAVEPOINT s;
SELECT pglock.acquire('after');
SELECT pglock.acquire('x'), pglock.acquire('after'), pglock.acquire('before', shared => true),
       fail();
ROLLBACK TO s;
:mine;
SELECT pglock.acquire('y');
SELECT pglock.acquire('y'), fail();
ROLLBACK TO s;
COMMIT;
:mine;
SELECT pglock.release_all();

-- a string of several statements is one command: the client gets one answer
SELECT pglock.acquire('x')\; SELECT fail();
:mine;
SELECT pglock.acquire('x')\; SELECT fail()\; SELECT pglock.acquire('y');
:mine;
BEGIN\; SELECT pglock.acquire('x')\; SELECT fail();
ROLLBACK;
:mine;
BEGIN\; SELECT pglock.acquire('x')\; COMMIT\; SELECT fail();
:mine;
BEGIN;
SELECT pglock.acquire('before');
SELECT pglock.acquire('x')\; SAVEPOINT s\; SELECT pglock.acquire('y')\; SELECT fail();
ROLLBACK;
:mine;
SELECT pglock.release_all();
-- one that asks for a rollback has not failed
BEGIN\; SELECT pglock.acquire('x')\; ROLLBACK;
BEGIN\; SAVEPOINT s\; SELECT pglock.acquire('y')\; ROLLBACK TO s\; COMMIT;
BEGIN\; SELECT pglock.acquire('z')\; ROLLBACK AND CHAIN\; ROLLBACK;
:mine;
SELECT pglock.release_all();

-- in a DO block, also after a COMMIT or ROLLBACK of its own
DO $$ BEGIN PERFORM pglock.acquire('x'); PERFORM fail(); END $$;
DO $$ BEGIN PERFORM pglock.acquire('x'); COMMIT; PERFORM fail(); END $$;
DO $$ BEGIN PERFORM pglock.acquire('x'); ROLLBACK; PERFORM fail(); END $$;
DO $$ BEGIN CALL pglock.lock('x'); CALL pglock.lock_raw(1); PERFORM fail(); END $$;
:mine;
-- a procedure that ends its transactions as it likes, and succeeds
DO $$
BEGIN
    PERFORM pglock.acquire('x'); COMMIT;
    PERFORM pglock.acquire('y'); ROLLBACK;
END $$;
:mine;
SELECT pglock.release_all();
-- what the command caught itself is no failure: the lock is kept
DO $$
BEGIN
    PERFORM pglock.acquire('before');
    BEGIN
        PERFORM pglock.acquire('caught');
        PERFORM pglock.acquire('t', scope => 'transaction');
        PERFORM fail();
    EXCEPTION WHEN raise_exception THEN
        PERFORM pglock.acquire('in the handler');
    END;
END $$;
:mine;
SELECT pglock.release_all();
-- as long as the command does not fail after all
DO $$
BEGIN
    BEGIN
        PERFORM pglock.acquire('caught');
        PERFORM fail();
    EXCEPTION WHEN raise_exception THEN
        PERFORM pglock.acquire('in the handler');
    END;
    PERFORM fail();
END $$;
DO $$
BEGIN
    PERFORM pglock.acquire('caught');
    PERFORM fail();
EXCEPTION WHEN raise_exception THEN
    PERFORM pglock.acquire('in the handler');
    RAISE;
END $$;
:mine;

-- a cursor: what an earlier FETCH took stays
BEGIN;
DECLARE c CURSOR FOR
    SELECT pglock.acquire('n' || i), CASE WHEN i = 3 THEN fail() END FROM generate_series(1, 5) AS i;
FETCH 1 FROM c;
FETCH ALL FROM c;
ROLLBACK;
:mine;
SELECT pglock.release_all();

-- CALL lock as the client's own command
CALL pglock.lock('x');
CALL pglock.lock('x', timeout => '-1s');
CALL pglock.lock('y')\; SELECT fail();
:mine;
-- after a failure of the same kind as its own the session goes on as if nothing had been
SELECT pglock.acquire('x'), fail();
SELECT pglock.acquire('x');
:mine;
SELECT pglock.release('x'), pglock.release('x'), pglock.release('x');

-- a cancel that is on its way when a lock is to be released finds it held, and it stays so
\set VERBOSITY terse
SELECT pglock.acquire('x'), pglock.acquire_slot('x', 1);
SELECT pg_cancel_backend(pg_backend_pid()) AND pglock.release('x');
SELECT pg_cancel_backend(pg_backend_pid()) AND pglock.release_slot('x', 1);
SELECT key, slot, depth FROM pglock.locks ORDER BY slot;
SELECT pglock.release('x'), pglock.release_slot('x', 1);
-- ... and keeps many from being taken, here before the lock table is full
SELECT array_agg('n' || i) AS many FROM generate_series(1, 100000) AS i \gset
SELECT pg_cancel_backend(pg_backend_pid()) AND pglock.acquire_all(:'many');
:mine;
\set VERBOSITY default

-- PREPARE TRANSACTION, failing: nothing of its own, and the transaction's levels go
BEGIN;
SELECT pglock.acquire('x'), pglock.acquire('x', scope => 'transaction');
PREPARE TRANSACTION 'regress_pglock_failure';
:mine;
SELECT pglock.release_all();

DROP TABLE checked, watched;
DROP FUNCTION acquiring_insert, at_commit, fail;
