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
-- Fencing tokens
--

CREATE SEQUENCE tokens;

-- pg_dump reads it, whoever runs it; only token() changes it
GRANT SELECT ON SEQUENCE tokens TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tokens', '');

COMMENT ON SEQUENCE tokens IS
'A bound that no fencing token which was given out exceeds, in microseconds since 1970. token() keeps
it ahead of the clock; see there. Not to be changed by hand.';

CREATE FUNCTION token(key text) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_token_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION token(text) IS
'The fencing token of this session''s exclusive hold of the lock: drawn by the first call in the hold,
the same until the hold ends or is broken. Greater than every token drawn before in this database, also
after a crash, a restore, and a failover to a server whose clock is not behind. In microseconds since
1970, unless the clock was set back. What must not be done by a holder that lost the lock without
noticing refuses tokens less than one it has seen. Errors: 22004, 25006 on a standby and in a read-only
transaction, 55000 without an exclusive hold, 57014.';

CREATE FUNCTION token(key bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_token_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION token(bigint) IS
'As token(text), for the text of the bigint.';

CREATE FUNCTION token(key uuid) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_token_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION token(uuid) IS
'As token(text), for the text of the uuid.';


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

CREATE FUNCTION lock_status(
    OUT key text,
    OUT lock_id bigint,
    OUT mode text,
    OUT scope text,
    OUT granted boolean,
    OUT depth bigint,
    OUT pid integer,
    OUT held_since timestamptz,
    OUT waiting_since timestamptz,
    OUT blocked_by integer[],
    OUT token bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_lock_status' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION lock_status() IS
'What the view locks shows, but for the columns it has from pg_stat_activity.';

CREATE VIEW locks AS
SELECT lock.key,
       lock.lock_id,
       lock.mode,
       lock.scope,
       lock.granted,
       lock.depth,
       lock.pid,
       session.usename,
       session.application_name,
       session.client_addr,
       lock.held_since,
       lock.waiting_since,
       lock.blocked_by,
       lock.token
FROM @extschema@.lock_status() AS lock
LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = lock.pid;

GRANT SELECT ON locks TO PUBLIC;

COMMENT ON VIEW locks IS
'Every advisory lock of this database that is held or waited for, and by whom; also those of the
built-in functions. Who holds and who waits is what the lock manager says at that moment. A lock that a
session holds in two modes, or took through this extension at two scopes, has a row for each. lock_id is NULL for locks with two integers as their key, pid for
prepared transactions. key, scope, depth, held_since and token are what the sessions publish; NULL
for what was only taken by the built-ins. Of the sessions of other roles they are shown to members of
pg_read_all_stats: to all others key is <insufficient privilege>, the rest NULL. Before PostgreSQL 17
other sessions publish nothing unless shared_preload_libraries has postgres_lock in it, and the server was
restarted.';

CREATE FUNCTION contention_status(
    OUT key text,
    OUT lock_id bigint,
    OUT waits bigint,
    OUT total_wait_time double precision,
    OUT max_wait_time double precision,
    OUT timeouts bigint,
    OUT deadlocks bigint,
    OUT cancels bigint,
    OUT last_wait_at timestamptz,
    OUT stats_since timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_contention_status' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION contention_status() IS
'What the view contention shows.';

CREATE VIEW contention AS
SELECT * FROM @extschema@.contention_status();

GRANT SELECT ON contention TO PUBLIC;

COMMENT ON VIEW contention IS
'For each key of this database that sessions had to wait for, through this extension: how often, how
long in all and at most (in milliseconds), and how often in vain: timeouts (lock_timeout, too), deadlocks, and
cancels (of all other kinds, statement_timeout and the end of the session, too). Times are of the end
of the last wait, and of the first since the key is in the statistics. There is room for
pglock.max_contended_keys keys; the one that was waited for longest ago makes room for another. key is
<insufficient privilege> to whom may not see the sessions of the four roles that waited last, as in
pg_stat_activity. Before PostgreSQL 17 there is nothing in it unless shared_preload_libraries has
postgres_lock in it, and the server was restarted.';

CREATE FUNCTION contention_reset() RETURNS void
AS 'MODULE_PATHNAME', 'pglock_contention_reset' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

REVOKE ALL ON FUNCTION contention_reset() FROM PUBLIC;

COMMENT ON FUNCTION contention_reset() IS
'Empties the view contention, for this database. For superusers, and those it is granted to.';

CREATE FUNCTION registry_size() RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_registry_size' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION registry_size() IS
'How many bytes of shared memory there are for what sessions publish of their locks. NULL: none, so
that they publish nothing: before PostgreSQL 17 shared_preload_libraries has to have postgres_lock in it.';
