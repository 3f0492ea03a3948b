--
-- Warnings, where a lock can't protect what it seems to; and none where it can
--

-- transaction scope outside a transaction block, from the top level
SELECT pglock.acquire('a', scope => 'transaction');
SELECT pglock.try('a', scope => 'transaction');
SELECT pglock.acquire_all('{a,b}', scope => 'transaction');
SELECT pglock.acquire_raw(1, scope => 'transaction');
SELECT pglock.try_raw(1, scope => 'transaction');
PREPARE p AS SELECT pglock.acquire($1, scope => 'transaction');
EXECUTE p('a');
-- SQLSTATE as that of SET LOCAL
\set VERBOSITY sqlstate
SET LOCAL work_mem = '1MB';
SELECT pglock.acquire('a', scope => 'transaction');
\set VERBOSITY default
-- a function may hold it for as long as it runs
CREATE FUNCTION acquiring(key text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN pglock.acquire(key, scope => 'transaction') AND pglock.held(key);
END $$;
SELECT acquiring('a');
DO $$ BEGIN PERFORM pglock.acquire('a', scope => 'transaction'); END $$;
DO $$ BEGIN EXECUTE 'SELECT pglock.acquire($1, scope => $2)' USING 'a', 'transaction'; END $$;
-- in a block it is what it should be, in an implicit one, too
BEGIN;
SELECT pglock.acquire('a', scope => 'transaction'),
       pglock.acquire_all('{a,b}', scope => 'transaction');
SAVEPOINT s;
SELECT pglock.acquire('a', scope => 'transaction');
COMMIT;
EXECUTE p('a')\; SELECT pglock.held('a');
DEALLOCATE p;
-- session scope may be taken anywhere
SELECT pglock.acquire('a'), pglock.release('a');
-- nothing is taken, nothing is warned of
SELECT pglock.acquire_all('{}', scope => 'transaction');

-- a session's lock released by a transaction that has written: the next holder can't see it
CREATE TABLE written (n integer);
SELECT count(pglock.acquire('a')) FROM generate_series(1, 10);
SELECT pglock.acquire('b'), pglock.acquire('c', shared => true);
BEGIN;
SELECT count(*) FROM written;
SELECT pglock.release('a');
INSERT INTO written VALUES (1);
-- not before the last level
SELECT pglock.acquire('d'), pglock.acquire('d'), pglock.release('d');
SELECT pglock.release('d');
SELECT pglock.release('b');
SELECT pglock.release('c', shared => true);
SELECT pglock.release('b');
SELECT pglock.release_all('{a}');
SELECT pglock.release_all('{a}');
SELECT pglock.acquire_raw(1), pglock.release_raw(1);
SELECT pglock.release_all();
SELECT pglock.acquire('a'), pglock.acquire('b');
SELECT pglock.release_all();
COMMIT;
-- a statement that writes and releases at once is no better
SELECT pglock.acquire('a');
WITH one AS (INSERT INTO written VALUES (2) RETURNING n)
SELECT pglock.release('a') FROM one;
-- in a savepoint, and after one has been rolled back, which leaves nothing written
SELECT pglock.acquire('a'), pglock.acquire('b');
BEGIN;
SAVEPOINT s;
INSERT INTO written VALUES (3);
SELECT pglock.release('a');
ROLLBACK TO s;
COMMIT;
-- after COMMIT it is right
BEGIN;
INSERT INTO written VALUES (4);
COMMIT;
SELECT pglock.release('b');

-- what is held at transaction scope is not released by hand
BEGIN;
SELECT pglock.acquire('a', scope => 'transaction');
SELECT pglock.release('a');
SELECT pglock.release('unknown');
COMMIT;

-- lock where it must not end the transaction: a warning, but only if it has to wait
BEGIN;
CALL pglock.lock('a');
COMMIT;
DO $$ BEGIN CALL pglock.lock('a'); END $$;
CALL pglock.lock('a')\; CALL pglock.lock('a');
SELECT pglock.release_all();
BEGIN;
SELECT pglock.acquire('taken', scope => 'transaction');
PREPARE TRANSACTION 'regress_pglock_warnings';
-- by itself it waits without a snapshot, with nothing to warn of
CALL pglock.lock('taken', '10ms');
-- it does not wait: nothing to warn of
BEGIN;
CALL pglock.lock('taken', '0');
ROLLBACK;
-- it waits
BEGIN;
CALL pglock.lock('taken', '10ms');
ROLLBACK;
DO $$ BEGIN CALL pglock.lock('taken', '10ms'); END $$;
SELECT 1\; CALL pglock.lock('taken', '10ms');
CALL pglock.lock('taken', '10ms')\; SELECT 1;
CREATE PROCEDURE locking() LANGUAGE plpgsql AS $$ BEGIN CALL pglock.lock('taken', '10ms'); END $$;
CALL locking();
CREATE FUNCTION writing() RETURNS text LANGUAGE plpgsql AS $$
BEGIN INSERT INTO written VALUES (5); RETURN 'taken'; END $$;
CALL pglock.lock(writing(), '10ms');
-- acquire makes no such promise
SELECT pglock.acquire('taken', '10ms');

-- a wait in a transaction that reads from the snapshot it took before
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM written WHERE n = 0;
SELECT pglock.acquire('free'), pglock.try('taken'), pglock.acquire('taken', '0');
SELECT pglock.acquire('taken', '10ms');
SELECT pglock.acquire('taken', '10ms', scope => 'transaction', shared => true);
SELECT pglock.acquire_all('{free,taken}', '10ms');
CALL pglock.lock('taken', '10ms');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pglock.acquire('taken', '10ms');
ROLLBACK;
-- no snapshot before the wait: nothing is stale
SET default_transaction_isolation = 'repeatable read';
CALL pglock.lock('taken', '10ms');
RESET default_transaction_isolation;
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT count(*) FROM written WHERE n = 0;
SELECT pglock.acquire('taken', '10ms');
ROLLBACK;
SELECT pglock.release_all();

-- all of them are silent when they should be
SET pglock.warnings = off;
SELECT pglock.acquire('a', scope => 'transaction');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pglock.acquire('a', scope => 'transaction'), pglock.release('a');
SELECT pglock.acquire('b'), pglock.acquire('c');
INSERT INTO written VALUES (6);
SELECT pglock.release('b'), pglock.release_all();
SELECT pglock.acquire('taken', '10ms');
CALL pglock.lock('taken', '10ms');
ROLLBACK;
RESET pglock.warnings;

ROLLBACK PREPARED 'regress_pglock_warnings';
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';
DROP TABLE written;
DROP FUNCTION acquiring, writing;
DROP PROCEDURE locking;
