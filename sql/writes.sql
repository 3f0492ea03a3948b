--
-- A lock that is released before what the transaction wrote can be seen: what counts as written
--
CREATE TABLE written (n int PRIMARY KEY);
INSERT INTO written VALUES (1), (2);
CREATE TABLE empty ();
CREATE SEQUENCE numbers;
CREATE FUNCTION written() RETURNS int LANGUAGE sql AS 'INSERT INTO written VALUES (3) RETURNING n';

-- Takes a lock, runs the commands in a transaction, and releases the lock before it ends.
CREATE PROCEDURE release_after(command text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pglock.acquire('k');
    EXECUTE command;
    PERFORM pglock.release('k');
END $$;

-- what others would not see
CALL release_after($$ INSERT INTO written VALUES (4) $$);
CALL release_after($$ UPDATE written SET n = 5 WHERE n = 4 $$);
CALL release_after($$ DELETE FROM written WHERE n = 5 $$);
CALL release_after($$ MERGE INTO written USING (VALUES (6)) AS new (n) ON written.n = new.n WHEN NOT MATCHED THEN INSERT VALUES (new.n) $$);
CALL release_after($$ WITH gone AS (DELETE FROM written WHERE n = 6 RETURNING n) SELECT FROM gone $$);
CALL release_after($$ SELECT written() $$);
CALL release_after($$ TRUNCATE empty $$);
CALL release_after($$ COMMENT ON TABLE written IS 'written' $$);
CALL release_after($$ CREATE TABLE another () $$);
CALL release_after($$ DROP TABLE another $$);
CALL release_after($$ SELECT lo_create(4711) $$);
CALL release_after($$ SELECT lo_unlink(4711) $$);
CALL release_after($$ DO 'BEGIN INSERT INTO written VALUES (7); PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN UPDATE written SET n = 8 WHERE n = 1; END' $$);
-- nor hear of
CALL release_after($$ NOTIFY written $$);
CALL release_after($$ SELECT pg_notify('written', 'now') $$);
CALL release_after($$ DO 'BEGIN NOTIFY written; END' $$);

-- what is nothing to them
CALL release_after($$ SELECT FROM written $$);
CALL release_after($$ SELECT FROM written FOR UPDATE $$);
CALL release_after($$ SELECT FROM written FOR KEY SHARE $$);
CALL release_after($$ LOCK TABLE written $$);
CALL release_after($$ SELECT nextval('numbers'), setval('numbers', 5) $$);
CALL release_after($$ SELECT pg_current_xact_id() IS NOT NULL $$);
CALL release_after($$ UPDATE written SET n = 9 WHERE n = 9 $$);
CALL release_after($$ LISTEN written $$);
CALL release_after($$ UNLISTEN written $$);
CALL release_after($$ CREATE TEMP TABLE mine (n int) $$);
CALL release_after($$ INSERT INTO mine VALUES (1) $$);
CALL release_after($$ CREATE TEMP TABLE mine_too AS SELECT FROM written $$);
CALL release_after($$ DROP TABLE mine, mine_too $$);
CALL release_after($$ DO 'BEGIN INSERT INTO written VALUES (9); NOTIFY written; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END' $$);
-- but for rows beside the temporary ones
CALL release_after($$ DO 'BEGIN CREATE TEMP TABLE mine (); INSERT INTO written VALUES (10); END' $$);

-- rolled back to a savepoint: what was written before it counts, what was written after it does not
SELECT pglock.acquire('k'), pglock.acquire('k'), pglock.acquire('k');
BEGIN;
SAVEPOINT a;
INSERT INTO written VALUES (11);
NOTIFY written;
SELECT pg_notify('written', 'now') IS NULL;
ROLLBACK TO a;
SELECT pglock.release('k'), pglock.release('k'), pglock.release('k');
COMMIT;
SELECT pglock.acquire('k');
BEGIN;
INSERT INTO written VALUES (12);
SAVEPOINT a;
INSERT INTO written VALUES (13);
ROLLBACK TO a;
SELECT pglock.release('k');
COMMIT;
SELECT pglock.acquire('k');
BEGIN;
SAVEPOINT a;
NOTIFY written;
RELEASE a;
SAVEPOINT b;
ROLLBACK TO b;
SELECT pglock.release('k');
ROLLBACK;
-- with the transaction that sent it a notification is forgotten
SELECT pglock.acquire('k'), pglock.release('k');

-- what is written after the release is the writer's to know
SELECT pglock.acquire('k');
BEGIN;
SELECT pglock.release('k');
INSERT INTO written VALUES (14);
COMMIT;

-- without the counts it goes by the transaction's id
SET track_counts = off;
CALL release_after($$ SELECT FROM written FOR UPDATE $$);
CALL release_after($$ SELECT FROM written $$);
RESET track_counts;
-- also when they are counted again at the release
CALL release_after($$ DO 'BEGIN SET LOCAL track_counts = off; INSERT INTO written VALUES (15); SET LOCAL track_counts = on; END' $$);
CALL release_after($$ SELECT FROM written FOR UPDATE $$);
SELECT pglock.acquire('k');
BEGIN;
SET LOCAL track_counts = off;
COPY written FROM stdin;
16
\.
SET LOCAL track_counts = on;
SELECT pglock.release('k');
COMMIT;

DROP PROCEDURE release_after;
DROP FUNCTION written();
DROP SEQUENCE numbers;
DROP TABLE written, empty;
