--
-- What is in the extension, and who may use it
--
SELECT pg_describe_object(classid, objid, objsubid) COLLATE "C" AS "not a function"
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'postgres_lock')
  AND classid NOT IN ('pg_proc'::regclass, 'pg_type'::regclass)
ORDER BY 1;

CREATE VIEW ours AS
SELECT p.*, p.oid::regprocedure AS name
FROM pg_proc AS p JOIN pg_depend AS d
  ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
WHERE d.refclassid = 'pg_extension'::regclass
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'postgres_lock');

-- kind: f, a function; p, a procedure
SELECT prokind AS kind, proname AS name, pg_get_function_arguments(oid) AS arguments,
       pg_get_function_result(oid) AS result
FROM ours
ORDER BY proname COLLATE "C", pg_get_function_arguments(oid) COLLATE "C";

-- volatility and the parallel mark of the functions; only lock_id and
-- server_of may be folded, or skipped for NULL
SELECT provolatile AS volatile, proparallel AS parallel, proisstrict AS strict,
       string_agg(DISTINCT proname::text, ' ' ORDER BY proname::text) AS functions
FROM ours WHERE prokind = 'f'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- a procedure with SET or SECURITY DEFINER could not wait without a snapshot
SELECT name FROM ours WHERE prosecdef OR proconfig IS NOT NULL;

-- a numeric timeout would make short calls ambiguous
SELECT name FROM ours
WHERE proargnames[2] = 'timeout' AND proargtypes[1] <> 'interval'::regtype;

-- each has its comment
SELECT name FROM ours WHERE obj_description(oid, 'pg_proc') IS NULL;
SELECT obj_description('pglock.locks'::regclass, 'pg_class') IS NOT NULL AS locks,
       obj_description('pglock.contention'::regclass, 'pg_class') IS NOT NULL AS contention,
       obj_description('pglock.contention_histogram'::regclass, 'pg_class') IS NOT NULL AS contention_histogram,
       obj_description('pglock.contention_info'::regclass, 'pg_class') IS NOT NULL AS contention_info,
       obj_description('pglock.leases'::regclass, 'pg_class') IS NOT NULL AS leases,
       obj_description('pglock.lease_rows'::regclass, 'pg_class') IS NOT NULL AS lease_rows,
       obj_description('pglock.tokens'::regclass, 'pg_class') IS NOT NULL AS tokens,
       obj_description('pglock'::regnamespace, 'pg_namespace') IS NOT NULL AS schema,
       obj_description(oid, 'pg_extension') IS NOT NULL AS extension
FROM pg_extension WHERE extname = 'postgres_lock';

SELECT attname AS column, format_type(atttypid, atttypmod) AS type
FROM pg_attribute WHERE attrelid = 'pglock.locks'::regclass AND attnum > 0
ORDER BY attnum;
SELECT attname AS column, format_type(atttypid, atttypmod) AS type
FROM pg_attribute WHERE attrelid = 'pglock.contention'::regclass AND attnum > 0
ORDER BY attnum;
SELECT attname AS column, format_type(atttypid, atttypmod) AS type
FROM pg_attribute WHERE attrelid = 'pglock.leases'::regclass AND attnum > 0
ORDER BY attnum;

-- anybody may take locks, as with the built-ins, and see what there is of them
SELECT name FROM ours WHERE NOT has_function_privilege('public', oid, 'EXECUTE');
SELECT has_schema_privilege('public', 'pglock', 'USAGE') AS usage,
       has_schema_privilege('public', 'pglock', 'CREATE') AS create,
       has_table_privilege('public', 'pglock.locks', 'SELECT') AS locks,
       has_table_privilege('public', 'pglock.contention', 'SELECT') AS contention,
       has_table_privilege('public', 'pglock.contention_histogram', 'SELECT') AS contention_histogram,
       has_table_privilege('public', 'pglock.contention_info', 'SELECT') AS contention_info,
       has_table_privilege('public', 'pglock.leases', 'SELECT') AS leases,
       has_table_privilege('public', 'pglock.lease_rows', 'SELECT, INSERT, UPDATE, DELETE') AS lease_rows,
       has_sequence_privilege('public', 'pglock.tokens', 'SELECT') AS tokens,
       has_sequence_privilege('public', 'pglock.tokens', 'USAGE, UPDATE') AS change_tokens;

CREATE ROLE regress_pglock_anybody;
SET ROLE regress_pglock_anybody;
SELECT pglock.acquire('anybody');
SELECT key, mode, depth FROM pglock.locks WHERE pid = pg_backend_pid();
SELECT pglock.release('anybody');
CALL pglock.lock('anybody');
SELECT pglock.release_all();
SELECT pglock.try_lease('anybody') AS token \gset
SELECT key, usename FROM pglock.leases;
SELECT pglock.release_lease('anybody', :token);
RESET ROLE;

-- DROP takes all but the schema with it, and CREATE brings it back; the schema is fixed
DROP VIEW ours;
DROP EXTENSION postgres_lock;
SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = n.oid) AS functions,
       (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid) AS relations
FROM pg_namespace AS n WHERE nspname = 'pglock';
CREATE SCHEMA elsewhere;
CREATE EXTENSION postgres_lock SCHEMA elsewhere;
DROP SCHEMA elsewhere;
-- the same session goes on with the library it has loaded
CREATE EXTENSION postgres_lock;
SELECT pglock.try('again'), pglock.release('again');
ALTER EXTENSION postgres_lock SET SCHEMA public;

DROP ROLE regress_pglock_anybody;
