--
-- Slots, with one session: what the functions answer, what they refuse, and how long a slot is held
--
-- which slot is free is chosen at random, so what is shown does not depend on it
\set mine 'SELECT key, slot, mode, scope, granted, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, slot, scope'

--
-- A slot has a number from 1 to the number of slots, and nobody gets one that is held, not even its holder
--

SELECT pglock.acquire_slot('a', 1), pglock.try_slot('a', 1) IS NULL AS taken, pglock.acquire_slot('a', 1, '0') IS NULL AS taken;
SELECT array_agg(slot ORDER BY slot) FROM (SELECT pglock.acquire_slot('b', 4) AS slot FROM generate_series(1, 4)) AS taken;
SELECT pglock.try_slot('b', 4) IS NULL AS taken, pglock.acquire_slot('b', 4, '0') IS NULL AS taken, pglock.try_slot('b', 3) IS NULL AS taken;
-- who asks for more slots gets one that there was not before, who asks for fewer one within those
SELECT pglock.try_slot('b', 5), pglock.release_slot('b', 4), pglock.try_slot('b', 3) IS NULL AS taken;
SELECT pglock.try_slot('b', 5), pglock.release_slot('b', 2), pglock.acquire_slot('b', 2);
:mine;
-- each is released once
SELECT pglock.release_slot('b', 1), pglock.release_slot('b', 1);
SELECT pglock.release_slot('b', 16000);
SELECT pglock.release_all(), pglock.release_all();
:mine;

-- a key is text, a bigint or a uuid
SELECT pglock.acquire_slot(42, 1), pglock.try_slot('42', 1) IS NULL AS taken, pglock.try_slot(42, 1) IS NULL AS taken,
       pglock.release_slot(42, 1), pglock.try_slot('42', 1), pglock.release_slot('42', 1);
\set uuid '''6C2E8A55-8D5C-4C5E-9E75-2F1E5C1B9B0A''::uuid'
SELECT pglock.acquire_slot(:uuid, 1), pglock.try_slot('6c2e8a55-8d5c-4c5e-9e75-2f1e5c1b9b0a', 1) IS NULL AS taken,
       pglock.try_slot(:uuid, 1) IS NULL AS taken, pglock.release_slot(:uuid, 1);
-- named notation, bare parameters and the procedure
SELECT pglock.acquire_slot(key => 'named', slots => 1, timeout => '1s', scope => 'session'),
       pglock.try_slot(key => 'tried', slots => 1, scope => 'session'), pglock.release_slot(key => 'tried', slot => 1);
PREPARE acquire AS SELECT pglock.acquire_slot($1, $2, $3);
EXECUTE acquire('bare', 1, NULL);
CALL pglock.slot('called', 1);
CALL pglock.slot('called', slots => 1, timeout => '0');
CALL pglock.slot(42, 1);
CALL pglock.slot(:uuid, 1, scope => 'session', slot => 0);
DO $$
DECLARE
    mine integer;
BEGIN
    CALL pglock.slot('in PL/pgSQL', 1, slot => mine);
    RAISE NOTICE 'slot %', mine;
END $$;
SELECT count(*) FROM pglock.session_holds() WHERE slot = 1;
SELECT pglock.release_all();

-- the largest number of slots
SELECT pglock.acquire_slot('many', 16000) BETWEEN 1 AND 16000 AS acquired;
SELECT count(DISTINCT pglock.acquire_slot('many', 1000)) FROM generate_series(1, 900);
SELECT count(*) FROM pglock.locks WHERE slot BETWEEN 1 AND 16000;
SELECT pglock.release_all();

-- a lock, a lease and a slot of one name are three things, and an advisory lock of that id is the lock
SELECT pglock.acquire_slot('name', 1), pglock.try('name'), pglock.try_lease('name') IS NOT NULL AS lease,
       pg_try_advisory_lock(pglock.lock_id('name'));
SELECT key, lock_id = pglock.lock_id('name') AS "same id", slot, depth FROM pglock.locks ORDER BY slot;
SELECT pglock.held('name'), pglock.release('name'), pglock.release('name'), pglock.held('name'), pglock.release_all('{name}');
:mine;
SELECT pglock.is_free('name'), pglock.release_all(), pglock.revoke_lease('name');

--
-- How long it is held
--

-- at transaction scope until the transaction ends, or a savepoint is rolled back to
BEGIN;
SELECT pglock.acquire_slot('outer', 1, scope => 'transaction');
SAVEPOINT s;
SELECT pglock.acquire_slot('inner', 1, scope => 'transaction'), pglock.try_slot('session', 1);
CALL pglock.slot('called', 1, scope => 'transaction');
:mine;
ROLLBACK TO s;
:mine;
SELECT pglock.release_slot('outer', 1);
COMMIT;
:mine;
SELECT pglock.acquire_slot('statement', 1, scope => 'transaction');
SELECT pglock.release_all();

-- at session scope until it is released; what a failed command took it gives back
SELECT pglock.acquire_slot('failed', 2), 1 / 0;
BEGIN;
SELECT pglock.acquire_slot('kept', 1);
ROLLBACK;
DO $$
BEGIN
    PERFORM pglock.acquire_slot('caught', 1);
    PERFORM 1 / 0;
EXCEPTION WHEN division_by_zero THEN
END $$;
:mine;
CREATE TABLE written (n integer);
BEGIN;
INSERT INTO written VALUES (1);
SELECT pglock.release_slot('kept', 1);
COMMIT;
DROP TABLE written;
-- what goes round us takes them, too
SELECT pglock.try_slot('caught', 1) IS NULL AS taken;
SELECT pg_advisory_unlock_all();
:mine;
SELECT pglock.try_slot('caught', 1);
DISCARD ALL;
:mine;
\set mine 'SELECT key, slot, mode, scope, granted, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, slot, scope'

--
-- What is refused
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
        RAISE NOTICE E'%\n=> % %', command, sqlstate, concat_ws(E'\n', sqlerrm, nullif(detail, ''), nullif(hint, ''));
    END;
END $$;

DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format(f, t)
        FROM unnest('{"SELECT pglock.acquire_slot(NULL::%s, 1)","SELECT pglock.try_slot(NULL::%s, 1)",
                      "SELECT pglock.release_slot(NULL::%s, 1)","CALL pglock.slot(NULL::%s, 1)"}'::text[]) AS f,
             unnest('{text,bigint,uuid}'::text[]) AS t
        UNION ALL
        SELECT format(f, n)
        FROM unnest('{"SELECT pglock.acquire_slot(''a'', %s)","SELECT pglock.try_slot(''a'', %s)",
                      "SELECT pglock.release_slot(''a'', %s)","CALL pglock.slot(''a'', %s)"}'::text[]) AS f,
             unnest('{"NULL",0,-1,16001,2147483647}'::text[]) AS n
    LOOP
        CALL refused(command);
    END LOOP;
END $$;
CALL refused($$ SELECT pglock.acquire_slot('a', 1, '-1s') $$);
CALL refused($$ SELECT pglock.acquire_slot('a', 1, scope => 'sessions') $$);
CALL refused($$ SELECT pglock.try_slot('a', 1, NULL) $$);
CALL refused($$ CALL pglock.slot('a', 1, scope => NULL) $$);
CALL refused($$ CALL pglock.slot('a', 1, '-1s') $$);

-- to wait for oneself
SELECT pglock.acquire_slot('a', 1), array(SELECT pglock.acquire_slot('b', 2) FROM generate_series(1, 2)) @> '{1,2}' AS both;
CALL refused($$ SELECT pglock.acquire_slot('a', 1) $$);
CALL refused($$ SELECT pglock.acquire_slot('b', 2, '1h') $$);
CALL refused($$ CALL pglock.slot('b', 2) $$);
CALL refused($$ CALL pglock.slot('b', 1, '1h') $$);
CALL refused($$ CALL pglock.slot('b', 2, '0') $$);
SELECT pglock.release_all();

-- the settings that limit locks
SET pglock.session_scope = off;
CALL refused($$ SELECT pglock.acquire_slot('a', 2) $$);
CALL refused($$ SELECT pglock.try_slot('a', 2) $$);
CALL refused($$ CALL pglock.slot('a', 2) $$);
RESET pglock.session_scope;
SET pglock.max_holds = 2;
SELECT count(pglock.acquire_slot('a', 3)) FROM generate_series(1, 2);
CALL refused($$ SELECT pglock.acquire_slot('a', 3) $$);
CALL refused($$ SELECT pglock.try_slot('a', 3) $$);
CALL refused($$ CALL pglock.slot('a', 3) $$);
RESET pglock.max_holds;
SELECT pglock.release_all();

-- what another holds, in time; a prepared transaction can hold slots
BEGIN;
SELECT pglock.acquire_slot('taken', 1, scope => 'transaction');
SELECT count(pglock.try_slot('both taken', 2, scope => 'transaction')) FROM generate_series(1, 2);
PREPARE TRANSACTION 'regress_pglock_slots';
SELECT pglock.try_slot('taken', 1), pglock.acquire_slot('taken', 1, '1ms'), pglock.acquire_slot('both taken', 2, '1ms');
CALL refused($$ CALL pglock.slot('taken', 1, '1ms', 'transaction') $$);
CALL refused($$ CALL pglock.slot('both taken', 2, '1ms', 'transaction') $$);
CALL refused($$ CALL pglock.slot('both taken', 2, '0', 'transaction') $$);
SELECT pglock.release_slot('taken', 1);
SET lock_timeout = '1ms';
CALL refused($$ SELECT pglock.acquire_slot('taken', 1) $$);
CALL refused($$ SELECT pglock.acquire_slot('both taken', 2) $$);
RESET lock_timeout;
SET statement_timeout = '10ms';
SELECT pglock.acquire_slot('both taken', 2);
RESET statement_timeout;
-- our own timeout leaves the transaction as it was
BEGIN;
SELECT pglock.acquire_slot('both taken', 2, '1ms', 'transaction'), pglock.acquire_slot('both taken', 3, '1ms', 'transaction');
COMMIT;
SELECT key, slot, pid FROM pglock.locks ORDER BY slot, lock_id;
ROLLBACK PREPARED 'regress_pglock_slots';
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

-- above READ COMMITTED, before a wait
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(pglock.acquire_slot('snapshot', 2)) FROM generate_series(1, 3);
ROLLBACK;
SELECT pglock.release_all();

DROP PROCEDURE refused;
