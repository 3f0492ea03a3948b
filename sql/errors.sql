--
-- What is refused, and with which SQLSTATE; nothing is held after it, and the session goes on
--
CREATE PROCEDURE refused(command text) LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    BEGIN
        EXECUTE command;
        RAISE NOTICE '% is NOT refused', command;
    EXCEPTION WHEN others THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        IF sqlstate = '42883' THEN -- is not our error, and not told in the same words by all versions
            detail = '';
            hint = '';
        END IF;
        RAISE NOTICE E'%\n=> % %', btrim(command), sqlstate,
            concat_ws(E'\n', sqlerrm, nullif(detail, ''), nullif(hint, ''));
    END;
    IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory') THEN
        RAISE NOTICE 'something is held after %', command;
    END IF;
END $$;

-- NULL is never taken for an answer: 22004
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('SELECT pglock.%s(NULL::%s)', f, t)
        FROM unnest('{acquire,try,release,held,is_free,holders}'::text[]) AS f,
             unnest('{text,bigint,uuid}'::text[]) AS t
        UNION ALL
        SELECT format('CALL pglock.lock(NULL::%s)', t) FROM unnest('{text,bigint,uuid}'::text[]) AS t
        UNION ALL
        SELECT format('SELECT pglock.%s(NULL)', f)
        FROM unnest('{acquire_raw,try_raw,release_raw,acquire_all,release_all}'::text[]) AS f
        UNION ALL
        SELECT format('SELECT pglock.%s(1, shared => NULL)', f)
        FROM unnest('{acquire,try,acquire_raw,try_raw}'::text[]) AS f
        UNION ALL
        SELECT format('SELECT pglock.%s(1, scope => NULL)', f)
        FROM unnest('{acquire,try,acquire_raw,try_raw}'::text[]) AS f
    LOOP
        CALL refused(command);
    END LOOP;
END $$;
CALL refused($$ CALL pglock.lock_raw(NULL) $$);
CALL refused($$ SELECT pglock.held(NULL) $$);
CALL refused($$ SELECT pglock.acquire_all('{a,NULL}') $$);
CALL refused($$ SELECT pglock.release_all('{a,NULL}') $$);
CALL refused($$ SELECT pglock.acquire_all('{a}', shared => NULL) $$);
CALL refused($$ SELECT pglock.acquire_all('{a}', scope => NULL) $$);
CALL refused($$ CALL pglock.lock('a', shared => NULL) $$);
CALL refused($$ CALL pglock.lock_raw(1, shared => NULL) $$);

-- scopes that there are not: 22023, with the value and what is allowed
CALL refused($$ SELECT pglock.acquire('a', scope => 'sessions') $$);
CALL refused($$ SELECT pglock.try('a', scope => '') $$);
CALL refused($$ SELECT pglock.acquire_all('{a}', scope => 'Session') $$);
CALL refused($$ SELECT pglock.try_raw(1, scope => 'transaction ') $$);
CALL refused($$ SELECT length(pglock.acquire('a', scope => repeat('s', 1000000))::text) $$);

-- timeouts: negative, or over 2147483647 ms
CALL refused($$ SELECT pglock.acquire('a', '-1 microsecond') $$);
CALL refused($$ SELECT pglock.acquire('a', '-1s') $$);
CALL refused($$ CALL pglock.lock('a', '-1s') $$);
CALL refused($$ SELECT pglock.acquire_all('{a}', '-1s') $$);
CALL refused($$ SELECT pglock.acquire_raw(1, '-1s') $$);
CALL refused($$ CALL pglock.lock_raw(1, '-1s') $$);
CALL refused($$ SELECT pglock.acquire('a', '2147483648 milliseconds') $$);
CALL refused($$ SELECT pglock.acquire('a', '2147483647001 microseconds') $$);
CALL refused($$ SELECT pglock.acquire('a', '1 month') $$);
-- with fields of both signs it is the sum that counts
CALL refused($$ SELECT pglock.acquire('a', '1 day -25 hours') $$);
CALL refused($$ SELECT pglock.acquire('a', '-1 month 29 days') $$);
CALL refused($$ SELECT pglock.acquire('a', '1 month -30 days -1 second') $$);
SELECT pglock.acquire('a', '1 month -30 days'), pglock.acquire('a', '-1 day 24 hours'),
       pglock.acquire('a', '-1 month 30 days 1 second'), pglock.release_all();
-- what overflows 64 bits is no small number
CALL refused($$ SELECT pglock.acquire('a', '178000000 years') $$);
CALL refused($$ SELECT pglock.acquire('a', make_interval(months => 2147483647, days => 2147483647)) $$);
CALL refused($$ SELECT pglock.acquire('a', make_interval(months => -2147483648)) $$);
CALL refused($$ SELECT pglock.acquire('a', '-9223372036854775807 microseconds') $$);
CALL refused($$ SELECT pglock.acquire('a', '9223372036854775807 microseconds') $$);
-- what is no interval does not get as far as here
CALL refused($$ SELECT pglock.acquire('a', 'soon') $$);
CALL refused($$ SELECT pglock.acquire('a', 5) $$);
CALL refused($$ SELECT pglock.acquire('a', timeout => 0.5) $$);

-- the scope may be closed for a role, a database or a session: 55000, and the way out
SET pglock.session_scope = off;
CALL refused($$ SELECT pglock.acquire('a') $$);
CALL refused($$ SELECT pglock.try('a', shared => true) $$);
CALL refused($$ SELECT pglock.acquire_all('{a}') $$);
CALL refused($$ CALL pglock.lock('a') $$);
CALL refused($$ SELECT pglock.acquire_raw(1) $$);
CALL refused($$ CALL pglock.lock_raw(1) $$);
BEGIN;
SELECT pglock.acquire('a', scope => 'transaction'),
       pglock.acquire_all('{b}', scope => 'transaction'),
       pglock.try_raw(1, scope => 'transaction');
COMMIT;
RESET pglock.session_scope;
-- never for a release
SELECT pglock.acquire('a'), pglock.acquire('b'), pglock.acquire('c'), pglock.acquire_raw(1);
SET pglock.session_scope = off;
SELECT pglock.release('a'), pglock.release_raw(1), pglock.release_all('{b}'), pglock.release_all();
RESET pglock.session_scope;

-- a limit for the locks of one session: 54000
SET pglock.max_holds = 1;
BEGIN;
SELECT pglock.acquire('held', scope => 'transaction');
SELECT pglock.try('more');
ROLLBACK;
SELECT pglock.acquire('held');
SELECT pglock.acquire('more');
SELECT pglock.try('more');
SELECT pglock.acquire('more', shared => true);
SELECT pglock.acquire_raw(1);
SELECT pglock.acquire_all('{more}');
CALL pglock.lock('more');
BEGIN;
SELECT pglock.acquire('more', scope => 'transaction');
ROLLBACK;
-- more levels are no more locks, in either mode and scope
BEGIN;
SELECT pglock.acquire('held'), pglock.try('held', shared => true),
       pglock.acquire('held', scope => 'transaction');
COMMIT;
SELECT key, mode, depth FROM pglock.locks ORDER BY mode;
-- what is given back makes room; a lower limit takes nothing away
SELECT pglock.release_all(), pglock.acquire('more');
SET pglock.max_holds = 3;
SELECT pglock.acquire('b'), pglock.acquire('c');
SET pglock.max_holds = 2;
SELECT pglock.acquire('d');
SELECT pglock.release('b'), pglock.try('c');
SELECT pglock.try('d');
SELECT pglock.release_all();
-- what a built-in took does not count, though the books know of it since a token was drawn
SET pglock.max_holds = 1;
SELECT pg_advisory_lock(pglock.lock_id('b')), pglock.token('b') > 0 AS drawn;
SELECT pglock.try('c');
SELECT pglock.try('d');
SELECT pglock.release_all(), pg_advisory_unlock(pglock.lock_id('b'));
RESET pglock.max_holds;
SET pglock.max_holds = -1;
SET pglock.unknown = 1;

-- who may set what
SELECT name, setting, context FROM pg_settings WHERE name LIKE 'pglock.%' ORDER BY name;
CREATE ROLE regress_pglock_limited;
ALTER ROLE regress_pglock_limited SET pglock.session_scope = off;
ALTER ROLE regress_pglock_limited SET pglock.max_holds = 1;
SET SESSION AUTHORIZATION regress_pglock_limited;
SET pglock.max_holds = 0;
SET pglock.session_scope = on;
ALTER ROLE regress_pglock_limited SET pglock.max_holds = 0;
ALTER ROLE regress_pglock_limited SET pglock.session_scope = on;
SELECT set_config('pglock.max_holds', '0', true);
RESET pglock.max_holds;
SET pglock.warnings = off;
SET pglock.allow_on_standby = on;
RESET ALL;
RESET SESSION AUTHORIZATION;
-- the settings of a role hold from the first call on, which loads the library
SELECT current_user AS home \gset
ALTER ROLE regress_pglock_limited LOGIN;
\c - regress_pglock_limited
SELECT pglock.acquire('a');
BEGIN;
SELECT pglock.acquire('a', scope => 'transaction');
SELECT pglock.acquire('b', scope => 'transaction');
ROLLBACK;
SET pglock.max_holds = 0;
SHOW pglock.max_holds;
SHOW pglock.session_scope;
-- nor can they be set before the library is there to refuse it
\c - regress_pglock_limited
SET pglock.session_scope = on;
SET pglock.max_holds = 0;
SELECT pglock.acquire('a');
BEGIN;
SELECT pglock.acquire('a', scope => 'transaction');
SELECT pglock.acquire('b', scope => 'transaction');
ROLLBACK;
\c - :home
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

-- the SQLSTATEs as a client sees them
\set VERBOSITY sqlstate
SELECT pglock.acquire(NULL);
SELECT pglock.acquire('a', scope => 'none');
SELECT pglock.acquire('a', '-1s');
BEGIN; SELECT pglock.acquire('taken', scope => 'transaction');
PREPARE TRANSACTION 'regress_pglock_errors';
CALL pglock.lock('taken', '0');
CALL pglock.lock('taken', '10ms');
SET lock_timeout = '10ms';
SELECT pglock.acquire('taken');
CALL pglock.lock('taken');
RESET lock_timeout;
SET statement_timeout = '50ms';
SELECT pglock.acquire('taken');
SELECT pglock.acquire('taken', '10min');
CALL pglock.lock('taken');
RESET statement_timeout;
SET pglock.max_holds = 1;
SELECT pglock.acquire_all('{a,b}');
RESET pglock.max_holds;
SET pglock.session_scope = off;
SELECT pglock.acquire('a');
RESET pglock.session_scope;
BEGIN; SELECT 1 / 0;
SELECT pglock.acquire('a');
ROLLBACK;
ROLLBACK PREPARED 'regress_pglock_errors';
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

DROP PROCEDURE refused;
DROP ROLE regress_pglock_limited;
