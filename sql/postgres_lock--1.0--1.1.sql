/* sql/postgres_lock--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION postgres_lock UPDATE TO '1.1'" to load this file. \quit

--
-- What is replaced
--

-- A new parameter or column is a new function. The old ones make room, and hand their privileges on.
ALTER PROCEDURE lock(text, interval, boolean) RENAME TO lock_of_1_0;
ALTER PROCEDURE lock(bigint, interval, boolean) RENAME TO lock_of_1_0;
ALTER PROCEDURE lock(uuid, interval, boolean) RENAME TO lock_of_1_0;
ALTER PROCEDURE lock_raw(bigint, interval, boolean) RENAME TO lock_raw_of_1_0;
ALTER FUNCTION session_holds() RENAME TO session_holds_of_1_0;
ALTER FUNCTION lock_status() RENAME TO lock_status_of_1_0;
ALTER FUNCTION contention_status() RENAME TO contention_status_of_1_0;

--
-- CALL lock at transaction scope
--

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

--
-- What is shown of slots
--

CREATE FUNCTION session_holds(
    OUT lock_id bigint,
    OUT key text,
    OUT mode text,
    OUT scope text,
    OUT depth bigint,
    OUT held_since timestamptz,
    OUT slot integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_session_holds' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

CREATE FUNCTION lock_status(
    OUT key text,
    OUT lock_id bigint,
    OUT mode text,
    OUT scope text,
    OUT granted boolean,
    OUT depth bigint,
    OUT pid integer,
    OUT usename name,
    OUT application_name text,
    OUT client_addr inet,
    OUT held_since timestamptz,
    OUT waiting_since timestamptz,
    OUT blocked_by integer[],
    OUT token bigint,
    OUT slot integer,
    OUT holder text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_lock_status_1_1' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

CREATE OR REPLACE VIEW locks AS
SELECT * FROM @extschema@.lock_status();

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
    OUT stats_since timestamptz,
    OUT of_slots boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_contention_status' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION contention_status() IS
'What the view contention shows.';

CREATE OR REPLACE VIEW contention AS
SELECT * FROM @extschema@.contention_status();

-- Whom they belong to, and what was granted and revoked, is not the extension's own: pg_dump has to dump it.
-- (Whoever may create in the extension's schema must not be able to stand in for the catalog's functions, nor
-- to have functions of his own taken for the extension's.)
SET LOCAL search_path TO pg_catalog, pg_temp;

WITH successor AS (
    SELECT old.oid AS old, named.new, old.proowner, old.proacl
    FROM (VALUES
        ('@extschema@.lock_of_1_0(text, interval, boolean)'::regprocedure,
         '@extschema@.lock(text, interval, boolean, text)'::regprocedure),
        ('@extschema@.lock_of_1_0(bigint, interval, boolean)', '@extschema@.lock(bigint, interval, boolean, text)'),
        ('@extschema@.lock_of_1_0(uuid, interval, boolean)', '@extschema@.lock(uuid, interval, boolean, text)'),
        ('@extschema@.lock_raw_of_1_0(bigint, interval, boolean)', '@extschema@.lock_raw(bigint, interval, boolean, text)'),
        ('@extschema@.session_holds_of_1_0()', '@extschema@.session_holds()'),
        ('@extschema@.lock_status_of_1_0()', '@extschema@.lock_status()'),
        ('@extschema@.contention_status_of_1_0()', '@extschema@.contention_status()')
    ) AS named (old, new) JOIN pg_proc AS old ON old.oid = named.old
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

DROP PROCEDURE lock_of_1_0(text, interval, boolean);
DROP PROCEDURE lock_of_1_0(bigint, interval, boolean);
DROP PROCEDURE lock_of_1_0(uuid, interval, boolean);
DROP PROCEDURE lock_raw_of_1_0(bigint, interval, boolean);
DROP FUNCTION session_holds_of_1_0();
DROP FUNCTION lock_status_of_1_0();
DROP FUNCTION contention_status_of_1_0();

--
-- Keys on many servers
--

CREATE FUNCTION server_of(key text, servers integer) RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_server_of_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION server_of(text, servers integer) IS
'Which of that many servers, numbered from 0, has the locks, slots and leases of a key: lock_id(key) %
servers. Clients that choose a server by this rule agree. NULL for NULL. Error: 22023 for less than 1
server.';

CREATE FUNCTION server_of(key bigint, servers integer) RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_server_of_bigint' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION server_of(bigint, servers integer) IS
'As server_of(text, ...), for the text of the bigint.';

CREATE FUNCTION server_of(key uuid, servers integer) RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_server_of_uuid' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION server_of(uuid, servers integer) IS
'As server_of(text, ...), for the text of the uuid.';

--
-- Slots
--

CREATE FUNCTION acquire_slot(key text, slots integer, timeout interval = NULL, scope text = 'session')
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_acquire_slot_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_slot(text, slots integer, timeout interval, scope text) IS
'Waits for one of the slots of a key and takes it. Returns its number, from 1 to slots; NULL: the timeout
passed and nothing was taken. No two sessions hold the same slot, so that at most slots of them hold one
at a time. A session may hold several, each taken by a call of its own. Where callers say different
numbers, each gets one within its own. Whoever waited longest comes first. Deadlocks among those who wait
for one of several slots are not detected: use a timeout. Slots, locks and leases of one name have nothing
to do with each other. timeout and scope as for acquire. Errors as for acquire, and 55000 if this session
holds all of the slots itself.';

CREATE FUNCTION acquire_slot(key bigint, slots integer, timeout interval = NULL, scope text = 'session')
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_acquire_slot_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_slot(bigint, slots integer, timeout interval, scope text) IS
'As acquire_slot(text, ...), for the text of the bigint.';

CREATE FUNCTION acquire_slot(key uuid, slots integer, timeout interval = NULL, scope text = 'session')
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_acquire_slot_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_slot(uuid, slots integer, timeout interval, scope text) IS
'As acquire_slot(text, ...), for the text of the uuid.';

CREATE FUNCTION try_slot(key text, slots integer, scope text = 'session')
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_try_slot_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION try_slot(text, slots integer, scope text) IS
'Takes one of the slots of a key if that is possible at once. Returns its number; NULL: all are taken, or
others wait for one. Never waits for another session. slots, scope and errors as for acquire_slot.';

CREATE FUNCTION try_slot(key bigint, slots integer, scope text = 'session')
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_try_slot_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION try_slot(bigint, slots integer, scope text) IS
'As try_slot(text, ...), for the text of the bigint.';

CREATE FUNCTION try_slot(key uuid, slots integer, scope text = 'session')
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_try_slot_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION try_slot(uuid, slots integer, scope text) IS
'As try_slot(text, ...), for the text of the uuid.';

CREATE PROCEDURE slot(key text, slots integer, timeout interval = NULL, scope text = 'session', INOUT slot integer = NULL)
AS 'MODULE_PATHNAME', 'pglock_slot_text' LANGUAGE C;

COMMENT ON PROCEDURE slot(text, slots integer, timeout interval, scope text, INOUT slot integer) IS
'Takes a slot as acquire_slot does, but a timeout that passes is error 55P03, whose DETAIL names the
holders. The number comes back in the parameter slot. At session scope, as a statement of its own outside
a transaction block, it waits without a snapshot, as CALL lock does; elsewhere at session scope it warns
of that. Errors as for acquire_slot.';

CREATE PROCEDURE slot(key bigint, slots integer, timeout interval = NULL, scope text = 'session', INOUT slot integer = NULL)
AS 'MODULE_PATHNAME', 'pglock_slot_bigint' LANGUAGE C;

COMMENT ON PROCEDURE slot(bigint, slots integer, timeout interval, scope text, INOUT slot integer) IS
'As slot(text, ...), for the text of the bigint.';

CREATE PROCEDURE slot(key uuid, slots integer, timeout interval = NULL, scope text = 'session', INOUT slot integer = NULL)
AS 'MODULE_PATHNAME', 'pglock_slot_uuid' LANGUAGE C;

COMMENT ON PROCEDURE slot(uuid, slots integer, timeout interval, scope text, INOUT slot integer) IS
'As slot(text, ...), for the text of the uuid.';

CREATE FUNCTION release_slot(key text, slot integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_slot_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION release_slot(text, slot integer) IS
'Releases a slot that this session holds at session scope. true: released; false: it does not hold it.
Release after COMMIT: with uncommitted writes it warns. Errors: 22004, 22023; 25006 instead of false on a
standby, unless pglock.allow_on_standby is on.';

CREATE FUNCTION release_slot(key bigint, slot integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_slot_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION release_slot(bigint, slot integer) IS
'As release_slot(text, ...), for the text of the bigint.';

CREATE FUNCTION release_slot(key uuid, slot integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_slot_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION release_slot(uuid, slot integer) IS
'As release_slot(text, ...), for the text of the uuid.';

--
-- Leases
--

-- Where they are kept. A materialized view, of a query that fails: so that nothing but the functions for
-- leases can write to it, and that it is no part of a publication FOR ALL TABLES. It must be a heap.
CREATE FUNCTION lease_columns(
    OUT key_id bigint,
    OUT token bigint,
    OUT expires bigint,
    OUT ttl bigint,
    OUT run bigint,
    OUT acquired_at timestamptz,
    OUT renewed_at timestamptz,
    OUT database oid,
    OUT role oid,
    OUT slot integer,
    OUT key text,
    OUT holder text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_lease_columns' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION lease_columns() IS
'The columns of lease_rows. Always raises 55000: leases come from nowhere but acquire_lease.';

REVOKE EXECUTE ON FUNCTION lease_columns() FROM PUBLIC;

CREATE MATERIALIZED VIEW lease_rows USING heap AS
SELECT * FROM @extschema@.lease_columns() WITH NO DATA;

CREATE INDEX lease_rows_by_key ON lease_rows (key_id, slot, token);
CREATE INDEX lease_rows_by_token ON lease_rows (token);

COMMENT ON MATERIALIZED VIEW lease_rows IS
'Where leases are kept. Only the functions for leases read and write it; the view leases shows it.';

CREATE FUNCTION acquire_lease(key text, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_acquire_lease_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_lease(text, ttl interval, timeout interval, holder text, slots integer) IS
'Waits for a lease and takes it. Returns its token, with which any session of this role can renew, check
and release it; NULL: the timeout passed. It ends when it is released or revoked, or when another takes it
after it has expired. ttl: how long it lasts unless it is renewed, from 1 ms to 1 year. timeout: as for
acquire. holder: whom the view leases shows, by default what pglock.holder says. slots: how many may hold a
lease of the key at a time. Taken in a transaction that is rolled back, it never was. The token is a
fencing token, as that of token(). Errors: 22004, 22023, 25006 on a standby and in a read-only
transaction, 40P01, 53200, 57014, 55P03 only for lock_timeout.';

CREATE FUNCTION acquire_lease(key bigint, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_acquire_lease_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_lease(bigint, ttl interval, timeout interval, holder text, slots integer) IS
'As acquire_lease(text, ...), for the text of the bigint.';

CREATE FUNCTION acquire_lease(key uuid, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_acquire_lease_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION acquire_lease(uuid, ttl interval, timeout interval, holder text, slots integer) IS
'As acquire_lease(text, ...), for the text of the uuid.';

CREATE FUNCTION try_lease(key text, ttl interval = '30s', holder text = NULL, slots integer = 1)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_try_lease_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION try_lease(text, ttl interval, holder text, slots integer) IS
'Takes a lease if that is possible at once. Returns its token; NULL: it is taken, or others wait for it.
Never waits for a lease. ttl, holder, slots and errors as for acquire_lease.';

CREATE FUNCTION try_lease(key bigint, ttl interval = '30s', holder text = NULL, slots integer = 1)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_try_lease_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION try_lease(bigint, ttl interval, holder text, slots integer) IS
'As try_lease(text, ...), for the text of the bigint.';

CREATE FUNCTION try_lease(key uuid, ttl interval = '30s', holder text = NULL, slots integer = 1)
RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_try_lease_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION try_lease(uuid, ttl interval, holder text, slots integer) IS
'As try_lease(text, ...), for the text of the uuid.';

CREATE PROCEDURE lease(key text, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1, INOUT token bigint = NULL)
AS 'MODULE_PATHNAME', 'pglock_lease_text' LANGUAGE C;

COMMENT ON PROCEDURE lease(text, ttl interval, timeout interval, holder text, slots integer, INOUT token bigint) IS
'Takes a lease as acquire_lease does, but a timeout that passes is error 55P03, whose DETAIL names the
holders. The token comes back in the parameter of that name. As a statement of its own outside a
transaction block it waits without a snapshot, so that VACUUM and CREATE INDEX CONCURRENTLY need not wait
for this session; elsewhere it warns of that. Errors as for acquire_lease.';

CREATE PROCEDURE lease(key bigint, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1, INOUT token bigint = NULL)
AS 'MODULE_PATHNAME', 'pglock_lease_bigint' LANGUAGE C;

COMMENT ON PROCEDURE lease(bigint, ttl interval, timeout interval, holder text, slots integer, INOUT token bigint) IS
'As lease(text, ...), for the text of the bigint.';

CREATE PROCEDURE lease(key uuid, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1, INOUT token bigint = NULL)
AS 'MODULE_PATHNAME', 'pglock_lease_uuid' LANGUAGE C;

COMMENT ON PROCEDURE lease(uuid, ttl interval, timeout interval, holder text, slots integer, INOUT token bigint) IS
'As lease(text, ...), for the text of the uuid.';

CREATE FUNCTION renew_lease(key text, token bigint, ttl interval = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_renew_lease_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION renew_lease(text, token bigint, ttl interval) IS
'Renews a lease: from now on it lasts for ttl; NULL: for the one it had. true also if it had expired and
nobody has taken it over; false: it was taken over, released or revoked. Takes effect at once and is not
undone by a rollback. Writes no row version and needs no transaction id. Errors: 22004, 22023, 25006 on a
standby and in a read-only transaction, 42501 if another role took it.';

CREATE FUNCTION renew_lease(key bigint, token bigint, ttl interval = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_renew_lease_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION renew_lease(bigint, token bigint, ttl interval) IS
'As renew_lease(text, ...), for the text of the bigint.';

CREATE FUNCTION renew_lease(key uuid, token bigint, ttl interval = NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_renew_lease_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION renew_lease(uuid, token bigint, ttl interval) IS
'As renew_lease(text, ...), for the text of the uuid.';

CREATE FUNCTION renew_leases(tokens bigint[], ttl interval = NULL)
RETURNS SETOF bigint
AS 'MODULE_PATHNAME', 'pglock_renew_leases' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION renew_leases(bigint[], ttl interval) IS
'Renews many leases as renew_lease does, and returns the tokens of those that are still held. Errors as
for renew_lease.';

CREATE FUNCTION release_lease(key text, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_lease_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION release_lease(text, token bigint) IS
'Ends a lease. true: it is free when this transaction commits; false: it was released or revoked before,
or had expired and was taken over. From any session of the role that took it. Errors: 22004, 25006 on a
standby and in a read-only transaction, 42501 if another role took it, 57014.';

CREATE FUNCTION release_lease(key bigint, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_lease_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION release_lease(bigint, token bigint) IS
'As release_lease(text, ...), for the text of the bigint.';

CREATE FUNCTION release_lease(key uuid, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_release_lease_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION release_lease(uuid, token bigint) IS
'As release_lease(text, ...), for the text of the uuid.';

CREATE FUNCTION check_lease(key text, token bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'pglock_check_lease_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION check_lease(text, token bigint) IS
'For the transaction that writes what a lease protects: until it ends nobody can take the lease over, even
if it expires. Raises 55000 if it was taken over, released or revoked. Other errors: 22004, 25006 on a
standby, 40P01, 42501 if another role took it, 53200, 55P03 only for lock_timeout, 57014.';

CREATE FUNCTION check_lease(key bigint, token bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'pglock_check_lease_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION check_lease(bigint, token bigint) IS
'As check_lease(text, ...), for the text of the bigint.';

CREATE FUNCTION check_lease(key uuid, token bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'pglock_check_lease_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION check_lease(uuid, token bigint) IS
'As check_lease(text, ...), for the text of the uuid.';

CREATE FUNCTION holds_lease(key text, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_holds_lease_text' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION holds_lease(text, token bigint) IS
'Whether the lease is held with that token now, and has not expired. For a guarantee that lasts until COMMIT,
call check_lease. Errors: 22004, 25006 on a standby, 42501 if another role took it.';

CREATE FUNCTION holds_lease(key bigint, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_holds_lease_bigint' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION holds_lease(bigint, token bigint) IS
'As holds_lease(text, ...), for the text of the bigint.';

CREATE FUNCTION holds_lease(key uuid, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pglock_holds_lease_uuid' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION holds_lease(uuid, token bigint) IS
'As holds_lease(text, ...), for the text of the uuid.';

CREATE FUNCTION revoke_lease(key text)
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_revoke_lease_text' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION revoke_lease(text) IS
'Ends all leases of the key, and returns how many had not expired. Their holders find out when they renew
or check them. For the role that took them and its members, members of pg_signal_backend
(unless a superuser took them) and superusers. Errors: 22004, 25006 on a standby and in a read-only
transaction, 42501, 57014.';

CREATE FUNCTION revoke_lease(key bigint)
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_revoke_lease_bigint' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION revoke_lease(bigint) IS
'As revoke_lease(text), for the text of the bigint.';

CREATE FUNCTION revoke_lease(key uuid)
RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_revoke_lease_uuid' LANGUAGE C
VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION revoke_lease(uuid) IS
'As revoke_lease(text), for the text of the uuid.';

CREATE FUNCTION lease_status(
    OUT key text,
    OUT slot integer,
    OUT token bigint,
    OUT holder text,
    OUT role oid,
    OUT acquired_at timestamptz,
    OUT renewed_at timestamptz,
    OUT expires_at timestamptz,
    OUT ttl interval,
    OUT waiters integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_lease_status' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION lease_status() IS
'What the view leases shows, except the name of the role.';

CREATE VIEW leases AS
SELECT lease.key,
       lease.slot,
       lease.token,
       lease.holder,
       role.rolname AS usename,
       lease.acquired_at,
       lease.renewed_at,
       lease.expires_at,
       lease.ttl,
       lease.waiters
FROM @extschema@.lease_status() AS lease
LEFT JOIN pg_catalog.pg_roles AS role ON role.oid = lease.role;

GRANT SELECT ON leases TO PUBLIC;

COMMENT ON VIEW leases IS
'Every lease of this database that has not expired: slot (1 unless more than one may hold the key), token,
holder as its taker named it, the role that took it, when it was taken and last renewed and when it
expires by the clock of the server, and how many sessions wait for a lease of that key. Of leases that
other roles took only members of pg_read_all_stats see key and holder; everybody else sees
<insufficient privilege> and NULL. Error 25006 on a standby.';

--
-- How full the statistics of waits are
--

CREATE FUNCTION contention_histogram(
    OUT key text,
    OUT lock_id bigint,
    OUT of_slots boolean,
    OUT le double precision,
    OUT waits bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pglock_contention_histogram' LANGUAGE C
VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION contention_histogram() IS
'What the view contention_histogram shows.';

CREATE VIEW contention_histogram AS
SELECT * FROM @extschema@.contention_histogram();

GRANT SELECT ON contention_histogram TO PUBLIC;

COMMENT ON VIEW contention_histogram IS
'How long the waits took that the view contention counts: for each of its rows, how many took at most le
milliseconds, whatever their outcome. le is 1, 3, 10 and so on up to 300000, and Infinity, whose row has
all of the waits. key, lock_id and of_slots are those of contention.';

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
locks shows who holds it and who waits for it. acquire_slot takes one of several slots of a key,
acquire_lease a lease, which belongs to a token instead of a session.';

COMMENT ON FUNCTION acquire(text, timeout interval, shared boolean, scope text) IS
'Waits for a lock and takes it. true: it is held; false: the timeout passed and nothing was taken.
timeout: NULL waits for ever, 0 does not wait, the maximum is 2147483647 ms. shared: any number of
sessions may hold a lock shared, only one exclusively. scope: ''session'' (until it is released) or
''transaction'' (until the transaction ends, or a savepoint set before is rolled back to). Errors: 22004,
22023, 25006 on a standby, 40P01, 53200, 54000 above pglock.max_holds, 55000 with pglock.session_scope
off; 55P03 because of lock_timeout, 57014 because of statement_timeout or a cancel request. With
pglock.synchronous_acquire, also 55P03 if no synchronous standby confirms the lock in time, and 55000 if it
is strict and there is no such standby. After an error nothing new is held.';

COMMENT ON FUNCTION try(text, shared boolean, scope text) IS
'Takes a lock if that is possible at once. true: it is held; false: nothing was taken. Never waits
for another session. shared, scope and errors as for acquire.';

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
'Releases every session-scope level that this session took through this extension, slots included.
Returns how many levels that was.';

COMMENT ON FUNCTION release_all(text[]) IS
'Releases every session-scope level of the locks of those keys that this session took through this
extension. Returns how many levels that was. Error 22004.';

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
database, also after a crash, a restore, and a failover that loses less of the log than
pglock.token_margin, whatever the clocks say. It looks like a timestamp in microseconds. Pass it along
with whatever the holder writes; the place that is written to should refuse tokens smaller than one it
has seen. Errors: 22004, 25006 on a standby and in a
read-only transaction, 55000 without an exclusive hold, 57014.';

COMMENT ON FUNCTION session_holds() IS
'What this session took through this extension and still holds. The view locks shows it, too.';

COMMENT ON FUNCTION lock_status() IS
'What the view locks shows.';

COMMENT ON VIEW locks IS
'Every advisory lock of this database that is held or waited for, and by whom, including those of the
built-in functions. Who holds and who waits comes from the lock manager at the moment of reading. A lock
that a session holds in two modes, or took through this extension at two scopes, has a row for each.
lock_id is NULL for locks with two integers as their key, pid for prepared transactions. key, scope,
depth, held_since and token are published by the sessions, and NULL for what was taken only through the
built-in functions. slot is the number of a slot, 0 for whoever waits for any slot of the key, and NULL
for a lock. holder is what the session has set pglock.holder to, NULL for nothing. For sessions of other
roles only members of pg_read_all_stats see them; everybody else sees <insufficient privilege> as the key,
and NULL. Error 25006 on a standby, which does not know the locks of the primary, unless
pglock.allow_on_standby is on. Before PostgreSQL 17 other sessions publish nothing unless postgres_lock is
in shared_preload_libraries.';

COMMENT ON VIEW contention IS
'One row for each key of this database that sessions had to wait for through this extension: how often,
how long in total and at most (in milliseconds), and how often in vain. A lock_timeout counts as a
timeout; statement_timeout, the end of the session and the like count as cancels. last_wait_at is the end
of the last wait, stats_since that of the first one that is counted. of_slots: these are the waits for
slots of the key, not for its lock. There is room for
pglock.max_contended_keys keys; when it is full, the key waited for least recently is dropped. key is
<insufficient privilege> for roles that may see none of the last four roles that waited, as in
pg_stat_activity. Before PostgreSQL 17 it is empty unless postgres_lock is in shared_preload_libraries.';

COMMENT ON FUNCTION contention_reset() IS
'Empties the view contention for this database. For superusers, and roles that EXECUTE is granted to.';

COMMENT ON FUNCTION registry_size() IS
'How many bytes of shared memory hold what sessions publish of their locks. NULL if nothing is published:
before PostgreSQL 17 postgres_lock must be in shared_preload_libraries.';
