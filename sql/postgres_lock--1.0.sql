/* sql/postgres_lock--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION postgres_lock" to load this file. \quit

-- Anybody may take locks, as with pg_advisory_lock: functions can be executed by PUBLIC unless
-- that is revoked, but a schema can't be used unless that is granted.
GRANT USAGE ON SCHEMA @extschema@ TO PUBLIC;

COMMENT ON SCHEMA @extschema@ IS
'Named locks. acquire, try and CALL lock take one by its name; release gives it back; the view locks
shows who holds and who waits.';

--
-- Lock ids
--

CREATE FUNCTION lock_id(key text) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_lock_id_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION lock_id(text) IS
'The advisory lock id of a key: the first 18 decimal digits of the SHA-1 of its UTF-8 bytes, read
as one big-endian number (the mapping of the Python library postgres-lock).
pg_advisory_lock(lock_id(key)) and acquire(key) take the same lock. NULL for NULL.';

CREATE FUNCTION lock_id(key bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_lock_id_bigint' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION lock_id(bigint) IS
'As lock_id(text), for the text of the bigint.';

CREATE FUNCTION lock_id(key uuid) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_lock_id_uuid' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION lock_id(uuid) IS
'As lock_id(text), for the text of the uuid.';


--
-- Taking locks
--

CREATE FUNCTION acquire(key text, timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_acquire_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire(text, timeout interval, shared boolean, scope text) IS
'Takes a lock and waits for it: true, it is held; false, the timeout passed and nothing was taken.
timeout: NULL waits for ever, 0 does not wait, at most 2147483647 ms. shared: many sessions may hold
it shared, one exclusively. scope: ''session'' (until released) or ''transaction'' (until its end, or
the rollback of a savepoint set before). Errors: 22004, 22023, 25006 on a standby, 40P01, 53200,
54000 over pglock.max_holds, 55000 with pglock.session_scope off; 55P03 and 57014 only for
lock_timeout, statement_timeout and cancels. None leaves anything taken.';

CREATE FUNCTION acquire(key bigint, timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_acquire_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire(bigint, timeout interval, shared boolean, scope text) IS
'As acquire(text, ...), for the text of the bigint.';

CREATE FUNCTION acquire(key uuid, timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_acquire_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire(uuid, timeout interval, shared boolean, scope text) IS
'As acquire(text, ...), for the text of the uuid.';

CREATE FUNCTION acquire_raw(lock_id bigint, timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_acquire_raw' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_raw(bigint, timeout interval, shared boolean, scope text) IS
'As acquire(text, ...), for the advisory lock id itself, as the pg_advisory functions take it.';

CREATE FUNCTION try(key text, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_try_text' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION try(text, shared boolean, scope text) IS
'Takes a lock if it is to be had at once: true, it is held; false, it is not. Never waits.
shared, scope and errors as for acquire.';

CREATE FUNCTION try(key bigint, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_try_bigint' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION try(bigint, shared boolean, scope text) IS
'As try(text, ...), for the text of the bigint.';

CREATE FUNCTION try(key uuid, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_try_uuid' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION try(uuid, shared boolean, scope text) IS
'As try(text, ...), for the text of the uuid.';

CREATE FUNCTION try_raw(lock_id bigint, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_try_raw' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION try_raw(bigint, shared boolean, scope text) IS
'As try(text, ...), for the advisory lock id itself, as the pg_advisory functions take it.';

CREATE PROCEDURE lock(key text, timeout interval = NULL, shared boolean = false)
AS 'MODULE_PATHNAME', 'pglock_lock_text' LANGUAGE C;

COMMENT ON PROCEDURE lock(text, timeout interval, shared boolean) IS
'Takes a lock at session scope, waiting as acquire does, but a passed timeout is error 55P03. As a
statement of its own, outside a transaction block, it waits without a snapshot, so that VACUUM and
CREATE INDEX CONCURRENTLY need not wait for this session. Anywhere else it waits as acquire does,
with a warning. It never commits work of the caller. Errors as for acquire.';

CREATE PROCEDURE lock(key bigint, timeout interval = NULL, shared boolean = false)
AS 'MODULE_PATHNAME', 'pglock_lock_bigint' LANGUAGE C;

COMMENT ON PROCEDURE lock(bigint, timeout interval, shared boolean) IS
'As lock(text, ...), for the text of the bigint.';

CREATE PROCEDURE lock(key uuid, timeout interval = NULL, shared boolean = false)
AS 'MODULE_PATHNAME', 'pglock_lock_uuid' LANGUAGE C;

COMMENT ON PROCEDURE lock(uuid, timeout interval, shared boolean) IS
'As lock(text, ...), for the text of the uuid.';

CREATE PROCEDURE lock_raw(lock_id bigint, timeout interval = NULL, shared boolean = false)
AS 'MODULE_PATHNAME', 'pglock_lock_raw' LANGUAGE C;

COMMENT ON PROCEDURE lock_raw(bigint, timeout interval, shared boolean) IS
'As lock(text, ...), for the advisory lock id itself, as the pg_advisory functions take it.';

CREATE FUNCTION acquire_all(keys text[], timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_acquire_all' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_all(text[], timeout interval, shared boolean, scope text) IS
'Takes all the locks or none: true, all are held; false, the timeout passed and none was taken. They
are taken in the order of their lock ids, so callers that hold nothing else cannot deadlock on each
other. A key that is there twice counts once. One timeout for all of them. Errors as for acquire.';


--
-- Giving locks back
--

CREATE FUNCTION release(key text, shared boolean = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_text' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION release(text, shared boolean) IS
'Gives back one level of this session''s session-scope hold: the newest, or with shared given the
newest in that mode. true: given back; false: nothing to give back. An acquire needs its release.
Release after COMMIT: with uncommitted writes it warns. Error 22004.';

CREATE FUNCTION release(key bigint, shared boolean = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_bigint' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION release(bigint, shared boolean) IS
'As release(text, ...), for the text of the bigint.';

CREATE FUNCTION release(key uuid, shared boolean = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_uuid' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION release(uuid, shared boolean) IS
'As release(text, ...), for the text of the uuid.';

CREATE FUNCTION release_raw(lock_id bigint, shared boolean = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_raw' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION release_raw(bigint, shared boolean) IS
'As release(text, ...), for the advisory lock id itself, as the pg_advisory functions take it.';

CREATE FUNCTION release_all()
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_release_all' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION release_all() IS
'Gives back every session-scope level that this session took through this extension, and says how
many they were.';

CREATE FUNCTION release_all(keys text[])
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_release_all_keys' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION release_all(text[]) IS
'Gives back every session-scope level of those keys that this session took through this extension,
and says how many they were. Error 22004.';


--
-- Asking
--

CREATE FUNCTION held(key text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_held_text' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION held(text) IS
'Does this session hold the lock, in any mode or scope. Error 22004.';

CREATE FUNCTION held(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_held_bigint' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION held(bigint) IS
'As held(text), for the text of the bigint.';

CREATE FUNCTION held(key uuid)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_held_uuid' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION held(uuid) IS
'As held(text), for the text of the uuid.';

CREATE FUNCTION is_free(key text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_is_free_text' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION is_free(text) IS
'Would an exclusive try by a session that holds nothing succeed now. Takes nothing. Error 22004.';

CREATE FUNCTION is_free(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_is_free_bigint' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION is_free(bigint) IS
'As is_free(text), for the text of the bigint.';

CREATE FUNCTION is_free(key uuid)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_is_free_uuid' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION is_free(uuid) IS
'As is_free(text), for the text of the uuid.';

CREATE FUNCTION holders(key text)
RETURNS SETOF integer
AS 'MODULE_PATHNAME', 'pglock_holders_text' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION holders(text) IS
'The process ids of the sessions that hold the lock; 0 for a prepared transaction, as in
pg_blocking_pids. Error 22004.';

CREATE FUNCTION holders(key bigint)
RETURNS SETOF integer
AS 'MODULE_PATHNAME', 'pglock_holders_bigint' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION holders(bigint) IS
'As holders(text), for the text of the bigint.';

CREATE FUNCTION holders(key uuid)
RETURNS SETOF integer
AS 'MODULE_PATHNAME', 'pglock_holders_uuid' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION holders(uuid) IS
'As holders(text), for the text of the uuid.';


--
-- Views
--
CREATE FUNCTION session_holds(
    OUT lock_id bigint,
    OUT key text,
    OUT mode text,
    OUT scope text,
    OUT depth bigint,
    OUT held_since timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_session_holds' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION session_holds() IS
'What this session took through this extension and still holds. The view locks has it, too.';

CREATE VIEW locks AS
WITH own AS MATERIALIZED (SELECT * FROM @extschema@.session_holds()),
     named AS (SELECT lock_id, max(key) AS key FROM own GROUP BY lock_id)
SELECT named.key,
       lock.lock_id,
       lock.mode,
       own.scope,
       lock.granted,
       own.depth,
       lock.pid,
       session.usename,
       session.application_name,
       session.client_addr,
       own.held_since,
       lock.waitstart AS waiting_since,
       CASE WHEN NOT lock.granted THEN pg_catalog.pg_blocking_pids(lock.pid) END AS blocked_by
FROM (SELECT CASE WHEN objsubid = 1
                  THEN (classid::bigint << 32) | objid::bigint END AS lock_id,
             CASE mode WHEN 'ExclusiveLock' THEN 'exclusive' ELSE 'shared' END AS mode,
             granted, pid, waitstart
      FROM pg_catalog.pg_locks
      WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_catalog.pg_database
                        WHERE datname = pg_catalog.current_database())) AS lock
LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = lock.pid
LEFT JOIN named ON named.lock_id = lock.lock_id
LEFT JOIN own ON lock.pid = pg_catalog.pg_backend_pid() AND lock.granted
                 AND own.lock_id = lock.lock_id AND own.mode = lock.mode;
GRANT SELECT ON locks TO PUBLIC;
COMMENT ON VIEW locks IS
'Every advisory lock of this database that is held or waited for, and by whom. lock_id is NULL for
locks with two integers as their key. key is the name of a lock that this session holds, whoever holds
or waits for it in that row; scope, depth and held_since are known for what this session took through
this extension. They are NULL for all others.';
