--
-- Taking several locks: all or none
--
\set mine 'SELECT key, mode, scope, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, mode, scope'

SELECT pglock.acquire_all('{c,a,b}');
:mine;
-- re-entrant, and in the other mode
SELECT pglock.acquire_all('{c,d}', shared => true), pglock.acquire_all('{a,d}', timeout => '0');
:mine;
SELECT pglock.release('a'), pglock.release('a'), pglock.release('a'), pglock.release_all();

-- a key that is there twice counts once
SELECT pglock.acquire_all('{a,b,a,a}');
:mine;
SELECT pglock.release_all('{a,a,b,b}');

-- nothing to take is taken
SELECT pglock.acquire_all('{}'), pglock.acquire_all('{}', '0'),
       pglock.acquire_all('{}', '1s', true, 'transaction');
:mine;
-- arguments are looked at even so
SELECT pglock.acquire_all('{}', scope => 'none');
SELECT pglock.acquire_all('{}', timeout => '-1s');

-- NULLs are refused before anything is taken
SELECT pglock.acquire_all(NULL);
SELECT pglock.acquire_all('{NULL}');
SELECT pglock.acquire_all('{a,NULL,b}');
SELECT pglock.release_all('{a,NULL}');
SELECT pglock.release_all(NULL);
:mine;

-- arrays of any shape, and of what becomes text
SELECT pglock.acquire_all('{{a,b},{c,a}}'), pglock.acquire_all(ARRAY['d'::varchar]),
       pglock.acquire_all('[5:6]={e,f}');
:mine;
SELECT pglock.release_all();
SELECT pglock.acquire_all(array_agg('n' || i)) FROM generate_series(1, 1000) AS i;
SELECT count(*), min(depth), max(depth) FROM pglock.locks;
SELECT pglock.release_all();

-- at transaction scope
BEGIN;
SELECT pglock.acquire_all('{a,b}', scope => 'transaction'), pglock.acquire_all('{b,c}', '1s');
:mine;
ROLLBACK;
:mine;
SELECT pglock.release_all();
BEGIN;
SAVEPOINT s;
SELECT pglock.acquire_all('{a,b}', shared => true, scope => 'transaction');
ROLLBACK TO s;
:mine;
COMMIT;

-- one of them is taken: first, in the middle, last in the order of the ids; nothing is kept, and
-- what was held before is
SELECT key FROM unnest('{p,q,r}'::text[]) AS key ORDER BY pglock.lock_id(key);
CREATE PROCEDURE refused(key text) LANGUAGE plpgsql AS $$
DECLARE
    before text;
    answers boolean[];
BEGIN
    SELECT string_agg(concat_ws(' ', h.key, mode, scope, depth), ', ' ORDER BY h.key, mode, scope)
    INTO before FROM pglock.session_holds() AS h;
    answers = ARRAY[pglock.acquire_all('{p,q,r}', '0'),
                    pglock.acquire_all('{p,q,r}', '10ms'),
                    pglock.acquire_all('{p,q,r}', '0', scope => 'transaction'),
                    pglock.acquire_all('{p,q,r}', '10ms', scope => 'transaction'),
                    pglock.acquire_all('{p,q,r}', '0', shared => true),
                    pglock.acquire_all('{p,q,r}', '10ms', shared => true)];
    RAISE NOTICE '% is taken: %', key, answers;
    RAISE NOTICE 'unchanged: %', before =
        (SELECT string_agg(concat_ws(' ', h.key, mode, scope, depth), ', ' ORDER BY h.key, mode, scope)
         FROM pglock.session_holds() AS h);
    RAISE NOTICE 'locks: %',
        (SELECT string_agg(mode, ' ') FROM pg_locks
         WHERE locktype = 'advisory' AND pid = pg_backend_pid());
END $$;
SELECT pglock.acquire('other');
BEGIN; SELECT pglock.acquire('p', scope => 'transaction'); PREPARE TRANSACTION 'regress_pglock_all';
CALL refused('p');
ROLLBACK PREPARED 'regress_pglock_all';
BEGIN; SELECT pglock.acquire('q', scope => 'transaction'); PREPARE TRANSACTION 'regress_pglock_all';
CALL refused('q');
ROLLBACK PREPARED 'regress_pglock_all';
BEGIN; SELECT pglock.acquire('r', scope => 'transaction'); PREPARE TRANSACTION 'regress_pglock_all';
CALL refused('r');
-- inside a savepoint, with levels of all kinds below: they are as they were
BEGIN;
SELECT pglock.acquire('p'), pglock.acquire('q', scope => 'transaction');
SAVEPOINT s;
SELECT pglock.acquire('p', scope => 'transaction'), pglock.acquire('q', shared => true);
:mine;
SELECT pglock.acquire_all('{p,q,r}', '10ms'),
       pglock.acquire_all('{p,q,r}', '10ms', scope => 'transaction');
:mine;
ROLLBACK TO s;
SELECT pglock.acquire_all('{p,q,r}', '10ms', scope => 'transaction');
:mine;
COMMIT;
:mine;

-- an error half way gives back what came before it, also when somebody catches the error
SET lock_timeout = '10ms';
\set SHOW_CONTEXT never
SELECT pglock.acquire_all('{p,q,r}');
BEGIN;
SAVEPOINT s;
SELECT pglock.acquire_all('{p,q,r}', scope => 'transaction');
ROLLBACK TO s;
\unset SHOW_CONTEXT
:mine;
COMMIT;
RESET lock_timeout;
:mine;
-- the SQLSTATE, and at which lock
CREATE FUNCTION caught(scope text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    context text;
BEGIN
    RETURN pglock.acquire_all('{p,q,r}', scope => scope);
EXCEPTION WHEN lock_not_available OR program_limit_exceeded THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RETURN concat_ws(' ', sqlstate, substring(context FROM 'acquiring lock "([^"]*)"'));
END $$;
SET lock_timeout = '10ms';
BEGIN;
SELECT caught('session'), caught('transaction');
:mine;
COMMIT;
RESET lock_timeout;
ROLLBACK PREPARED 'regress_pglock_all';
SELECT pglock.release_all();
SET pglock.max_holds = 2;
SELECT pglock.acquire_all('{p,q,r}');
BEGIN;
SELECT caught('session'), caught('transaction');
:mine;
COMMIT;
-- those that are held already need no room
SELECT pglock.acquire_all('{p,q}'), pglock.acquire_all('{p,q,p}');
:mine;
RESET pglock.max_holds;
SELECT pglock.release_all();

DROP PROCEDURE refused;
DROP FUNCTION caught;
