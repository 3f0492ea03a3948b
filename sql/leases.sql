--
-- Leases, with one session: what the functions answer, what they refuse, and who may do what.
-- Tokens and times differ from run to run, and are not shown.
--
CREATE PROCEDURE refused(command text) LANGUAGE plpgsql AS $$
DECLARE
    shown text := regexp_replace(command, '\m\d{16}\M', 'TOKEN', 'g');
    detail text;
BEGIN
    EXECUTE command;
    RAISE NOTICE '% is NOT refused', shown;
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE E'%\n=> % %', shown, sqlstate,
        regexp_replace(regexp_replace(concat_ws(E'\n', sqlerrm, nullif(detail, '')), '\m\d{16}\M', 'TOKEN', 'g'), 'since [^)]*', 'since TIME');
END $$;

--
-- A key is text, a bigint or a uuid
--

SELECT pglock.acquire_lease('a') AS token \gset
SELECT :token > 1700000000000000 AS "like a time", pglock.try_lease('a') IS NULL AS taken,
       pglock.acquire_lease('a', timeout => '0') IS NULL AS taken, pglock.acquire_lease('a', timeout => '1ms') IS NULL AS "in vain";
SELECT pglock.renew_lease('a', :token), pglock.renew_lease('a', :token, '1h'), pglock.holds_lease('a', :token);
SELECT pglock.check_lease('a', :token);
SELECT array_agg(renewed) = ARRAY[:token] AS renewed FROM pglock.renew_leases(ARRAY[:token, 1]) AS renewed;
SELECT key, slot, token = :token AS token, holder, usename = current_user AS role, renewed_at > acquired_at AS renewed,
       expires_at BETWEEN now() + '59min' AND now() + '61min' AS expires, ttl, waiters
FROM pglock.leases;
SELECT pglock.release_lease('a', :token);
SELECT pglock.release_lease('a', :token), pglock.renew_lease('a', :token), pglock.holds_lease('a', :token);
SELECT count(*) FROM pglock.renew_leases(ARRAY[:token]);
CALL refused('SELECT pglock.check_lease(''a'', 1)');
SELECT count(*) FROM pglock.leases;

SELECT pglock.try_lease(42) AS token \gset
SELECT pglock.try_lease('42') IS NULL AS "one lease", pglock.try_lease(42) IS NULL AS taken,
       pglock.acquire_lease(42::bigint, timeout => '0') IS NULL AS taken;
SELECT pglock.renew_lease(42, :token), pglock.renew_lease('42', :token), pglock.holds_lease(42, :token), pglock.check_lease(42, :token);
SELECT pglock.release_lease(42, :token), pglock.acquire_lease(42, '1h', '1s', 'number') > :token AS "a greater token";
SELECT key, holder, ttl FROM pglock.leases;
SELECT pglock.revoke_lease(42), pglock.revoke_lease(42);

\set uuid '''6C2E8A55-8D5C-4C5E-9E75-2F1E5C1B9B0A''::uuid'
SELECT pglock.acquire_lease(:uuid) AS token \gset
SELECT pglock.try_lease('6c2e8a55-8d5c-4c5e-9e75-2f1e5c1b9b0a') IS NULL AS "one lease", pglock.try_lease(:uuid) IS NULL AS taken;
SELECT pglock.renew_lease(:uuid, :token), pglock.holds_lease(:uuid, :token), pglock.check_lease(:uuid, :token),
       pglock.release_lease(:uuid, :token), pglock.revoke_lease(:uuid);

-- a bare parameter is text, a lock of that name is another thing
PREPARE acquire AS SELECT pglock.acquire_lease($1, ttl => $2, holder => $3) > 0 AS acquired;
EXECUTE acquire('bare', '1h', NULL);
SELECT pglock.try('bare'), pglock.release('bare'), pglock.revoke_lease('bare');

-- named notation, and the procedure
SELECT pglock.acquire_lease(key => 'named', ttl => '1h', timeout => NULL, holder => 'me', slots => 1) > 0 AS acquired,
       pglock.try_lease(key => 'named 2', ttl => '1h', holder => 'me', slots => 1) > 0 AS tried;
SELECT token FROM pglock.leases WHERE key = 'named' \gset
SELECT pglock.renew_lease(key => 'named', token => :token, ttl => '2h'), pglock.holds_lease(key => 'named', token => :token),
       pglock.check_lease(key => 'named', token => :token), pglock.release_lease(key => 'named', token => :token),
       pglock.revoke_lease(key => 'named 2');
SELECT * FROM pglock.renew_leases(tokens => '{}', ttl => '1h');
CALL pglock.lease('a', token => NULL) \gset
SELECT pglock.holds_lease('a', :token);
CALL refused('CALL pglock.lease(''a'', timeout => ''0'')');
CALL refused('CALL pglock.lease(''a'', timeout => ''1ms'')');
SELECT pglock.release_lease('a', :token);
CALL pglock.lease(43, ttl => '1h', holder => 'number') \gset
SELECT pglock.release_lease('43', :token);
CALL pglock.lease(:uuid, '1h', '1s', 'uuid', 2) \gset
SELECT pglock.release_lease(:uuid, :token);
DO $$
DECLARE
    token bigint;
BEGIN
    CALL pglock.lease('in PL/pgSQL', token => token);
    RAISE NOTICE 'held: %, released: %', pglock.holds_lease('in PL/pgSQL', token), pglock.release_lease('in PL/pgSQL', token);
END $$;

-- an expired lease is not held, but its holder can renew it until another takes it over, or it is revoked
SELECT pglock.acquire_lease('a', '1ms') AS token, pglock.acquire_lease('revoked', '1ms') AS revoked \gset
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pglock.leases) LOOP END LOOP;
END $$;
SELECT pglock.revoke_lease('revoked') AS "that had not expired", pglock.renew_lease('revoked', :revoked);
SELECT pglock.holds_lease('a', :token);
SELECT pglock.check_lease('a', :token);
SELECT pglock.renew_lease('a', :token, '1h'), pglock.holds_lease('a', :token), pglock.try_lease('a') IS NULL AS taken;
SELECT pglock.renew_lease('a', :token, '1ms');
SELECT pglock.acquire_lease('a', timeout => '1h') AS next \gset
SELECT :next > :token AS greater, pglock.renew_lease('a', :token), pglock.release_lease('a', :token), pglock.holds_lease('a', :token),
       pglock.release_lease('a', :next);

-- the transaction that is rolled back has done nothing, except that it renewed
BEGIN;
SELECT pglock.acquire_lease('rolled back') > 0 AS acquired;
SAVEPOINT here;
SELECT pglock.acquire_lease('to the savepoint') > 0 AS acquired;
ROLLBACK TO here;
SELECT key FROM pglock.leases;
ROLLBACK;
SELECT key FROM pglock.leases;
SELECT pglock.acquire_lease('a', '1h') AS token \gset
BEGIN;
SELECT pglock.release_lease('a', :token), pglock.holds_lease('a', :token), pglock.try_lease('a') > :token AS "acquired again";
ROLLBACK;
SELECT pglock.holds_lease('a', :token);
BEGIN;
SELECT pglock.renew_lease('a', :token, '2h');
ROLLBACK;
SELECT ttl FROM pglock.leases;
SELECT pglock.release_lease('a', :token);
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM pg_class WHERE false;
SELECT pglock.acquire_lease('a') AS token \gset
SELECT pglock.renew_lease('a', :token), pglock.check_lease('a', :token), pglock.release_lease('a', :token);
COMMIT;

--
-- Slots
--

SELECT pglock.acquire_lease('s', '1h', slots => 3) AS one, pglock.acquire_lease('s', '1h', slots => 3) AS two,
       pglock.try_lease('s', '1h', slots => 3) AS three \gset
SELECT slot, token IN (:one, :two, :three) AS ours FROM pglock.leases WHERE key = 's' ORDER BY slot;
SELECT pglock.try_lease('s', slots => 3) IS NULL AS "no fourth", pglock.acquire_lease('s', slots => 3, timeout => '1ms') IS NULL AS "no fourth";
SELECT pglock.release_lease('s', :two), pglock.holds_lease('s', :one), pglock.holds_lease('s', :three);
SELECT pglock.try_lease('s', '1h', slots => 3) > 0 AS "that one is free", pglock.try_lease('s', slots => 3) IS NULL AS "no fourth";
SELECT slot FROM pglock.leases WHERE key = 's' ORDER BY slot;
SELECT pglock.revoke_lease('s'), pglock.revoke_lease('s');
SELECT pglock.acquire_lease('s', slots => 16000) > 0 AS acquired, pglock.revoke_lease('s');

--
-- What is refused
--

-- NULL: 22004
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('SELECT pglock.%s(NULL::%s)', f, t)
        FROM unnest('{acquire_lease,try_lease,revoke_lease}'::text[]) AS f, unnest('{text,bigint,uuid}'::text[]) AS t
        UNION ALL
        SELECT format('SELECT pglock.%s(NULL::%s, 1)', f, t)
        FROM unnest('{renew_lease,release_lease,check_lease,holds_lease}'::text[]) AS f, unnest('{text,bigint,uuid}'::text[]) AS t
        UNION ALL
        SELECT format('SELECT pglock.%s(''a'', NULL)', f) FROM unnest('{renew_lease,release_lease,check_lease,holds_lease}'::text[]) AS f
        UNION ALL
        SELECT format('CALL pglock.lease(NULL::%s)', t) FROM unnest('{text,bigint,uuid}'::text[]) AS t
        UNION ALL
        SELECT format('SELECT pglock.%s(1, %s => NULL)', f, a)
        FROM unnest('{acquire_lease,try_lease}'::text[]) AS f, unnest('{ttl,slots}'::text[]) AS a
        UNION ALL
        SELECT format('CALL pglock.lease(1, %s => NULL)', a) FROM unnest('{ttl,slots}'::text[]) AS a
        UNION ALL
        SELECT 'SELECT pglock.renew_leases(NULL)'
        UNION ALL
        SELECT 'SELECT pglock.renew_leases(''{1,NULL}'')'
    LOOP
        CALL refused(command);
    END LOOP;
END $$;

-- a ttl below 1 ms or above a year, a timeout that is none, slots that are not 1 to 16,000: 22023
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('SELECT pglock.acquire_lease(''a'', ttl => %L)', ttl)
        FROM unnest('{0,-1s,999 microseconds,366 days 1 microsecond,1000 years,-178000000 years,1 day -25 hours}'::text[]) AS ttl
        UNION ALL
        SELECT format('SELECT pglock.acquire_lease(''a'', timeout => %L)', timeout) FROM unnest('{-1s,1 month}'::text[]) AS timeout
        UNION ALL
        SELECT format('SELECT pglock.acquire_lease(''a'', slots => %s)', slots)
        FROM unnest('{0,-1,16001,2147483647,-2147483648}'::int[]) AS slots
        UNION ALL
        SELECT unnest(ARRAY[
            'SELECT pglock.try_lease(''a'', ttl => ''0'')',
            'SELECT pglock.try_lease(''a'', slots => 0)',
            'CALL pglock.lease(''a'', ttl => ''0'')',
            'CALL pglock.lease(''a'', timeout => ''-1s'')',
            'CALL pglock.lease(''a'', slots => 16001)',
            'SELECT pglock.renew_lease(''a'', 1, ''0'')',
            'SELECT pglock.renew_leases(''{}'', ''2 years'')'])
    LOOP
        CALL refused(command);
    END LOOP;
END $$;
-- infinite intervals came with PostgreSQL 17: before, the text is none
DO $$
DECLARE
    ttl text;
BEGIN
    FOREACH ttl IN ARRAY '{infinity,-infinity}'::text[] LOOP
        BEGIN
            PERFORM pglock.acquire_lease('a', ttl => ttl::interval);
            RAISE NOTICE '% is NOT refused', ttl;
        EXCEPTION WHEN invalid_parameter_value OR invalid_datetime_format THEN
            RAISE NOTICE '% is refused', ttl;
        END;
    END LOOP;
END $$;
SELECT count(pglock.acquire_lease('ttl ' || ttl, ttl::interval)) AS "shortest and longest"
FROM unnest('{1ms,1 year,366 days,1 day -23 hours}'::text[]) AS ttl;
SELECT key, ttl FROM pglock.leases WHERE ttl > '1 s' ORDER BY key COLLATE "C";
SELECT sum(pglock.revoke_lease(key)) FROM pglock.leases WHERE ttl > '1 s';

-- tokens that there never were, and those of another key
SELECT pglock.acquire_lease('a', '1h') AS token \gset
SELECT pglock.renew_lease('a', token), pglock.release_lease('a', token), pglock.holds_lease('a', token)
FROM unnest('{0,-1,1,9223372036854775807,-9223372036854775808}'::bigint[]) AS token;
SELECT pglock.renew_lease('b', :token), pglock.release_lease('b', :token), pglock.holds_lease('b', :token);
CALL refused('SELECT pglock.check_lease(''b'', 1)');
CALL refused(format('SELECT pglock.check_lease(''b'', %s)', :token));
SELECT * FROM pglock.renew_leases('{0,-1,1,9223372036854775807}');
SELECT pglock.holds_lease('a', :token), pglock.release_lease('a', :token);

-- a session that may only read does not write a lease
BEGIN READ ONLY;
SELECT pglock.holds_lease('a', 1);
CALL refused('SELECT pglock.acquire_lease(''a'')');
CALL refused('SELECT pglock.try_lease(''a'')');
CALL refused('CALL pglock.lease(''a'')');
CALL refused('SELECT pglock.renew_lease(''a'', 1)');
CALL refused('SELECT pglock.renew_leases(''{1}'')');
CALL refused('SELECT pglock.release_lease(''a'', 1)');
CALL refused('SELECT pglock.revoke_lease(''a'')');
ROLLBACK;

-- hostile names, also as the holder
SELECT current_database() AS home \gset
CREATE DATABASE regress_pglock_leases TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_pglock_leases
\encoding UTF8
CREATE EXTENSION postgres_lock;
CREATE TABLE hostile (name text);
INSERT INTO hostile VALUES (''), (' '), (''''), ('"'), ('\'), (E'a\nb\tc\r'), ('%s%n%d'), ('$1'), ('''; DROP TABLE hostile; --'),
    (U&'\20AC \65E5\672C\8A9E \+01F512'), (repeat('x', 1000000)), (repeat(U&'\+01F512', 100000));
SELECT count(pglock.acquire_lease(name, '1h', holder => name)) AS acquired, count(pglock.try_lease(name)) AS taken FROM hostile;
SELECT left(lease.key, 12) AS key, octet_length(lease.key) AS bytes, lease.holder = lease.key AS holder,
       pglock.renew_lease(hostile.name, token) AS renewed, pglock.release_lease(hostile.name, token) AS released
FROM hostile JOIN pglock.leases AS lease ON left(hostile.name, 60) = left(lease.key, 60)
ORDER BY lease.key COLLATE "C";
-- one that other encodings do not have
SET client_encoding = 'LATIN1';
SELECT pglock.acquire_lease(U&'\65E5', '1h', holder => U&'\65E5') > 0 AS acquired, pglock.revoke_lease(U&'\65E5');
RESET client_encoding;
SELECT count(*) FROM pglock.leases;
\c :home
DROP DATABASE regress_pglock_leases;

--
-- Who may do what
--

CREATE ROLE regress_pglock_taker;
CREATE ROLE regress_pglock_member IN ROLE regress_pglock_taker;
CREATE ROLE regress_pglock_stats IN ROLE pg_read_all_stats;
CREATE ROLE regress_pglock_signals IN ROLE pg_signal_backend;
CREATE ROLE regress_pglock_other;

-- what each of them may do with a lease of the first
CREATE PROCEDURE use_lease(as_role name, key text, held bigint) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', as_role);
    RAISE NOTICE '%', (SELECT format('sees key %s, slot %s, token %s, holder %s, role %s, times %s, ttl %s, waiters %s', lease.key, slot,
        token = held, holder, usename, num_nonnulls(acquired_at, renewed_at, expires_at), ttl, waiters)
        FROM pglock.leases AS lease);
    CALL refused(format('SELECT pglock.renew_lease(%L, %s)', key, held));
    CALL refused(format('SELECT pglock.renew_leases(ARRAY[%s])', held));
    CALL refused(format('SELECT pglock.check_lease(%L, %s)', key, held));
    CALL refused(format('SELECT pglock.holds_lease(%L, %s)', key, held));
    CALL refused(format('SELECT pglock.release_lease(%L, %s)', key, held));
    CALL refused(format('CALL pglock.lease(%L, timeout => ''0'')', key));
    RESET ROLE;
END $$;
DO $$
DECLARE
    role name;
    held bigint;
BEGIN
    FOREACH role IN ARRAY ARRAY['regress_pglock_taker', 'regress_pglock_member', 'regress_pglock_stats', 'regress_pglock_signals',
        'regress_pglock_other', current_user]::name[]
    LOOP
        SET LOCAL ROLE regress_pglock_taker;
        held := pglock.acquire_lease('theirs', '1h', holder => 'taker');
        RESET ROLE;
        RAISE NOTICE '--- %', replace(role, current_user, 'superuser');
        CALL use_lease(role, 'theirs', held);
        PERFORM pglock.revoke_lease('theirs');
    END LOOP;
END $$;

-- to revoke: operators, too, but not what a superuser has taken
DO $$
DECLARE
    taker name;
    role name;
BEGIN
    FOREACH taker IN ARRAY ARRAY['regress_pglock_taker', current_user]::name[] LOOP
        FOREACH role IN ARRAY ARRAY['regress_pglock_taker', 'regress_pglock_member', 'regress_pglock_stats', 'regress_pglock_signals',
            'regress_pglock_other', current_user]::name[]
        LOOP
            EXECUTE format('SET LOCAL ROLE %I', taker);
            PERFORM pglock.acquire_lease('theirs', '1h');
            EXECUTE format('SET LOCAL ROLE %I', role);
            RAISE NOTICE '--- % of what % has taken', replace(role, session_user, 'superuser'), replace(taker, session_user, 'superuser');
            CALL refused('SELECT pglock.revoke_lease(''theirs'')');
            RESET ROLE;
            PERFORM pglock.revoke_lease('theirs');
        END LOOP;
    END LOOP;
END $$;

-- the relation and its columns are nobody else's business
SET ROLE regress_pglock_other;
CALL refused('TABLE pglock.lease_rows');
CALL refused('SELECT pglock.lease_columns()');
SELECT count(*) FROM pglock.leases;
RESET ROLE;
DROP ROLE regress_pglock_taker, regress_pglock_member, regress_pglock_stats, regress_pglock_signals, regress_pglock_other;

--
-- The relation is not written to but by the functions
--

SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'pglock.leases'::regclass AND attnum > 0 ORDER BY attnum;
SELECT pglock.acquire_lease('a', '1h') AS token \gset
CALL refused('REFRESH MATERIALIZED VIEW pglock.lease_rows');
CALL refused('INSERT INTO pglock.lease_rows DEFAULT VALUES');
CALL refused('UPDATE pglock.lease_rows SET token = 1');
CALL refused('DELETE FROM pglock.lease_rows');
CALL refused('TRUNCATE pglock.lease_rows');
CALL refused('COPY pglock.lease_rows FROM PROGRAM ''true''');
CALL refused('TABLE pglock.lease_rows');
CALL refused('SELECT * FROM pglock.lease_columns()');
VACUUM pglock.lease_rows;
VACUUM (FULL, FREEZE) pglock.lease_rows;
-- (PostgreSQL 18 forgets to close the index of what it skips, and warns of that)
SET client_min_messages = error;
CLUSTER pglock.lease_rows USING lease_rows_by_key;
RESET client_min_messages;
REINDEX TABLE pglock.lease_rows;
REINDEX TABLE CONCURRENTLY pglock.lease_rows;
ANALYZE pglock.lease_rows;
SELECT pglock.holds_lease('a', :token), pglock.renew_lease('a', :token), pglock.release_lease('a', :token);

-- what its owner can do as with any other: all leases are gone, and others can be taken
SELECT pglock.acquire_lease('a', '1h') AS token \gset
REFRESH MATERIALIZED VIEW pglock.lease_rows WITH NO DATA;
SELECT pglock.holds_lease('a', :token), pglock.acquire_lease('a') > :token AS acquired, pglock.revoke_lease('a');

-- one that expired long ago is removed when any other is acquired: all are on one page now
REFRESH MATERIALIZED VIEW pglock.lease_rows WITH NO DATA;
SHOW pglock.lease_retention;
CREATE PROCEDURE wait_for_expiry() LANGUAGE plpgsql AS $$ BEGIN
    WHILE EXISTS (SELECT FROM pglock.leases) LOOP END LOOP;
END $$;
SELECT pglock.acquire_lease('old', '1ms') AS token \gset
CALL wait_for_expiry();
SELECT pglock.acquire_lease('other', '1ms') > :token AS acquired;
SELECT pglock.renew_lease('old', :token) AS "is still there";
CALL wait_for_expiry();
SET pglock.lease_retention = 0;
BEGIN;
SELECT pglock.acquire_lease('other') > :token AS acquired;
ROLLBACK;
SELECT pglock.renew_lease('old', :token) AS "is still there";
CALL wait_for_expiry();
SELECT pglock.acquire_lease('other') > :token AS acquired;
SELECT pglock.renew_lease('old', :token) AS "is still there", pglock.revoke_lease('other');
-- without the relation nothing is removed, and nothing fails
SELECT pglock.try_lease('old', '1ms') AS token \gset
CALL wait_for_expiry();
BEGIN;
SELECT pglock.acquire_lease('other') > :token AS acquired;
ALTER EXTENSION postgres_lock DROP MATERIALIZED VIEW pglock.lease_rows;
ALTER MATERIALIZED VIEW pglock.lease_rows RENAME TO lease_rows_gone;
COMMIT;
ALTER MATERIALIZED VIEW pglock.lease_rows_gone RENAME TO lease_rows;
ALTER EXTENSION postgres_lock ADD MATERIALIZED VIEW pglock.lease_rows;
SELECT pglock.renew_lease('old', :token, '1h') AS "is still there", pglock.revoke_lease('old'), pglock.revoke_lease('other');
RESET pglock.lease_retention;

-- nothing is held of any of this
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';
DROP PROCEDURE use_lease, refused, wait_for_expiry;
