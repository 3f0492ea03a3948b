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

-- What was granted and revoked is not the extension's own: pg_dump has to dump it.
DO $$
DECLARE
	handed record;
	new regprocedure;
	privilege record;
BEGIN
	FOR handed IN
		SELECT p.oid::regprocedure AS old, p.proacl, p.proargtypes[0]::regtype AS key_type,
			   replace(p.proname, '_of_session', '') AS name
		FROM pg_catalog.pg_proc AS p
		WHERE p.pronamespace = '@extschema@'::regnamespace
		  AND p.proname IN ('lock_of_session', 'lock_raw_of_session') AND p.proacl IS NOT NULL
	LOOP
		new := format('@extschema@.%I(%s, interval, boolean, text)', handed.name, handed.key_type);
		EXECUTE format('REVOKE ALL ON PROCEDURE %s FROM PUBLIC', new);
		FOR privilege IN
			SELECT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role, is_grantable
			FROM pg_catalog.aclexplode(handed.proacl)
		LOOP
			EXECUTE format('GRANT EXECUTE ON PROCEDURE %s TO %s%s', new, privilege.role,
						   CASE WHEN privilege.is_grantable THEN ' WITH GRANT OPTION' END);
		END LOOP;
		DELETE FROM pg_catalog.pg_init_privs
		WHERE classoid = 'pg_catalog.pg_proc'::regclass AND objoid = new;
	END LOOP;
END
$$;

DROP PROCEDURE lock_of_session(text, interval, boolean);
DROP PROCEDURE lock_of_session(bigint, interval, boolean);
DROP PROCEDURE lock_of_session(uuid, interval, boolean);
DROP PROCEDURE lock_raw_of_session(bigint, interval, boolean);
