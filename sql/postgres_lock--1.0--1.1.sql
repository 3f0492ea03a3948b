/* sql/postgres_lock--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION postgres_lock UPDATE TO '1.1'" to load this file. \quit

--
-- CALL lock at transaction scope
--

-- A new parameter is a new procedure. The old ones make room, and hand their privileges on.
ALTER PROCEDURE lock(text, interval, boolean) RENAME TO lock_of_session;
ALTER PROCEDURE lock(bigint, interval, boolean) RENAME TO lock_of_session;
ALTER PROCEDURE lock(uuid, interval, boolean) RENAME TO lock_of_session;
ALTER PROCEDURE lock_raw(bigint, interval, boolean) RENAME TO lock_raw_of_session;

CREATE PROCEDURE lock(key text, timeout interval = NULL, shared boolean = false, scope text = 'session')
AS 'MODULE_PATHNAME', 'pglock_lock_text' LANGUAGE C;

COMMENT ON PROCEDURE lock(text, timeout interval, shared boolean, scope text) IS
'Takes a lock as acquire does, but a timeout that passes is error 55P03, whose DETAIL names the holders.
At session scope, as a statement of its own outside a transaction block, it waits without a snapshot, so
that VACUUM and CREATE INDEX CONCURRENTLY need not wait for this session. Elsewhere it waits as acquire
does, and warns of that at session scope. It never commits work of the caller. Errors as for acquire.';

CREATE PROCEDURE lock(key bigint, timeout interval = NULL, shared boolean = false, scope text = 'session')
AS 'MODULE_PATHNAME', 'pglock_lock_bigint' LANGUAGE C;

COMMENT ON PROCEDURE lock(bigint, timeout interval, shared boolean, scope text) IS
'As lock(text, ...), for the text of the bigint.';

CREATE PROCEDURE lock(key uuid, timeout interval = NULL, shared boolean = false, scope text = 'session')
AS 'MODULE_PATHNAME', 'pglock_lock_uuid' LANGUAGE C;

COMMENT ON PROCEDURE lock(uuid, timeout interval, shared boolean, scope text) IS
'As lock(text, ...), for the text of the uuid.';

CREATE PROCEDURE lock_raw(lock_id bigint, timeout interval = NULL, shared boolean = false, scope text = 'session')
AS 'MODULE_PATHNAME', 'pglock_lock_raw' LANGUAGE C;

COMMENT ON PROCEDURE lock_raw(bigint, timeout interval, shared boolean, scope text) IS
'As lock(text, ...), for the advisory lock id itself, as the pg_advisory functions take it.';

-- Whom they belong to, and what was granted and revoked, is not the extension's own: pg_dump has to dump it.
-- (Whoever may create in the extension's schema must not be able to stand in for the catalog's functions.)
SET LOCAL search_path TO pg_catalog, pg_temp;

WITH successor AS (
    SELECT old.oid AS old, new.oid AS new, old.proowner, old.proacl
    FROM pg_proc AS old JOIN pg_proc AS new
      ON new.pronamespace = old.pronamespace AND new.proargtypes[0] = old.proargtypes[0]
         AND new.proname = replace(old.proname, '_of_session', '')
    WHERE old.pronamespace = '@extschema@'::regnamespace
      AND old.proname IN ('lock_of_session', 'lock_raw_of_session')
), database AS (
    SELECT oid FROM pg_database WHERE datname = current_database()
), forgotten AS (
    DELETE FROM pg_shdepend USING successor
    WHERE classid = 'pg_proc'::regclass AND objid = new AND dbid = (SELECT oid FROM database)
), remembered AS (
    INSERT INTO pg_shdepend
    SELECT dbid, classid, new, objsubid, refclassid, refobjid, deptype
    FROM pg_shdepend JOIN successor ON objid = old
    WHERE classid = 'pg_proc'::regclass AND dbid = (SELECT oid FROM database)
)
UPDATE pg_proc SET proowner = successor.proowner, proacl = successor.proacl
FROM successor WHERE oid = new;

SET LOCAL search_path TO @extschema@, pg_temp;

DROP PROCEDURE lock_of_session(text, interval, boolean);
DROP PROCEDURE lock_of_session(bigint, interval, boolean);
DROP PROCEDURE lock_of_session(uuid, interval, boolean);
DROP PROCEDURE lock_raw_of_session(bigint, interval, boolean);

--
-- How full the statistics of waits are
--

CREATE FUNCTION contention_info(
    OUT keys integer,
    OUT max_keys integer,
    OUT evictions bigint,
    OUT last_eviction_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_contention_info' LANGUAGE C
VOLATILE PARALLEL RESTRICTED ROWS 1;

COMMENT ON FUNCTION contention_info() IS
'What the view contention_info shows.';

CREATE VIEW contention_info AS
SELECT * FROM @extschema@.contention_info();

GRANT SELECT ON contention_info TO PUBLIC;

COMMENT ON VIEW contention_info IS
'How full the view contention is: keys in all databases, and how many there is room for
(pglock.max_contended_keys); how many keys were dropped to make room for others since the server started,
so that their counts were lost, and when that happened last. No row if there are no such statistics:
pglock.max_contended_keys is 0, or before PostgreSQL 17 postgres_lock is not in shared_preload_libraries.';

--
-- Comments
--

COMMENT ON SCHEMA @extschema@ IS
'Named locks. acquire, try and CALL lock take a lock by its name, release gives it back, and the view
locks shows who holds it and who waits for it.';

COMMENT ON FUNCTION acquire(text, timeout interval, shared boolean, scope text) IS
'Waits for a lock and takes it. true: it is held; false: the timeout passed and nothing was taken.
timeout: NULL waits for ever, 0 does not wait, the maximum is 2147483647 ms. shared: any number of
sessions may hold a lock shared, only one exclusively. scope: ''session'' (until it is released) or
''transaction'' (until the transaction ends, or a savepoint set before is rolled back to). Errors: 22004,
22023, 25006 on a standby, 40P01, 53200, 54000 above pglock.max_holds, 55000 with pglock.session_scope
off; 55P03 only because of lock_timeout, 57014 only because of statement_timeout or a cancel request.
After an error nothing new is held.';

COMMENT ON FUNCTION try(text, shared boolean, scope text) IS
'Takes a lock if that is possible at once. true: it is held; false: nothing was taken. Never waits.
shared, scope and errors as for acquire.';

COMMENT ON FUNCTION acquire_all(text[], timeout interval, shared boolean, scope text) IS
'Takes all of the locks or none. true: all are held; false: the timeout passed and none was taken. They
are taken in the order of their lock ids, so callers that hold nothing else cannot deadlock on each
other. A repeated key counts once. One timeout covers all of them. Errors as for acquire.';

COMMENT ON FUNCTION release(text, shared boolean) IS
'Releases one level of this session''s session-scope hold: the newest, or with shared given the newest
in that mode. true: released; false: there was nothing to release. Each acquire needs its own release.
Release after COMMIT: with uncommitted writes it warns. Errors: 22004; 25006 instead of false on a
standby, unless pglock.allow_on_standby is on.';

COMMENT ON FUNCTION release_all() IS
'Releases every session-scope level that this session took through this extension. Returns how many
levels that was.';

COMMENT ON FUNCTION release_all(text[]) IS
'Releases every session-scope level of those keys that this session took through this extension.
Returns how many levels that was. Error 22004.';

COMMENT ON FUNCTION held(text) IS
'Whether this session holds the lock, in any mode or scope. Errors: 22004; 25006 instead of false on a
standby, unless pglock.allow_on_standby is on.';

COMMENT ON FUNCTION is_free(text) IS
'Whether an exclusive try by a session that holds nothing would succeed now. Takes nothing. Errors:
22004; 25006 on a standby, which does not know the locks of the primary, unless pglock.allow_on_standby
is on.';

COMMENT ON FUNCTION holders(text) IS
'The process ids of the sessions that hold the lock; 0 for a prepared transaction, as in
pg_blocking_pids. Errors: 22004; 25006 on a standby, which does not know the locks of the primary, unless
pglock.allow_on_standby is on.';

COMMENT ON SEQUENCE tokens IS
'An upper bound of all fencing tokens given out so far, in microseconds since 1970. token() keeps it
ahead of the clock. Do not change it by hand.';

COMMENT ON FUNCTION token(text) IS
'The fencing token of this session''s exclusive hold of the lock. The first call in a hold draws it, and
it stays the same until the hold ends or is broken. It is greater than every token drawn before in this
database, also after a crash, a restore, and a failover to a server whose clock is not behind. It looks
like a timestamp in microseconds. Pass it along with whatever the holder writes; the place that is
written to should refuse tokens smaller than one it has seen. Errors: 22004, 25006 on a standby and in a
read-only transaction, 55000 without an exclusive hold, 57014.';

COMMENT ON FUNCTION session_holds() IS
'What this session took through this extension and still holds. The view locks shows it, too.';

COMMENT ON FUNCTION lock_status() IS
'What the view locks shows, except the columns that it takes from pg_stat_activity.';

COMMENT ON VIEW locks IS
'Every advisory lock of this database that is held or waited for, and by whom, including those of the
built-in functions. Who holds and who waits comes from the lock manager at the moment of reading. A lock
that a session holds in two modes, or took through this extension at two scopes, has a row for each.
lock_id is NULL for locks with two integers as their key, pid for prepared transactions. key, scope,
depth, held_since and token are published by the sessions, and NULL for what was taken only through the
built-in functions. For sessions of other roles only members of pg_read_all_stats see them; everybody
else sees <insufficient privilege> as the key, and NULL. Error 25006 on a standby, which does not know the
locks of the primary, unless pglock.allow_on_standby is on. Before PostgreSQL 17 other sessions publish
nothing unless postgres_lock is in shared_preload_libraries.';

COMMENT ON VIEW contention IS
'One row for each key of this database that sessions had to wait for through this extension: how often,
how long in total and at most (in milliseconds), and how often in vain. A lock_timeout counts as a
timeout; statement_timeout, the end of the session and the like count as cancels. last_wait_at is the end
of the last wait, stats_since that of the first one that is counted. There is room for
pglock.max_contended_keys keys; when it is full, the key waited for least recently is dropped. key is
<insufficient privilege> for roles that may not see all of the last four roles that waited, as in
pg_stat_activity. Before PostgreSQL 17 it is empty unless postgres_lock is in shared_preload_libraries.';

COMMENT ON FUNCTION contention_reset() IS
'Empties the view contention for this database. For superusers, and roles that EXECUTE is granted to.';

COMMENT ON FUNCTION registry_size() IS
'How many bytes of shared memory hold what sessions publish of their locks. NULL if nothing is published:
before PostgreSQL 17 postgres_lock must be in shared_preload_libraries.';
