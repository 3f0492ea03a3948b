--
-- Taking one lock and giving it back
--

-- what this session holds, as the view shows it
\set mine 'SELECT key, mode, scope, granted, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, mode, scope'

SELECT pglock.held('x'), pglock.is_free('x'), (SELECT count(*) FROM pglock.holders('x'));
SELECT pglock.acquire('x');
SELECT pglock.held('x'), pglock.is_free('x'),
       (SELECT array_agg(pid) = ARRAY[pg_backend_pid()] FROM pglock.holders('x') AS pid) AS by_me;
:mine;
SELECT pid = pg_backend_pid() AS me, usename = current_user AS usename,
       application_name = current_setting('application_name') AS application_name,
       lock_id = pglock.lock_id('x') AS lock_id,
       held_since BETWEEN pg_postmaster_start_time() AND clock_timestamp() AS held_since,
       waiting_since, blocked_by
FROM pglock.locks;
SELECT pglock.release('x');
SELECT pglock.held('x'), pglock.is_free('x'), (SELECT count(*) FROM pglock.holders('x'));
:mine;

-- nothing to give back is no error
SELECT pglock.release('x'), pglock.release('x', true), pglock.release_all(),
       pglock.release_all('{x}');

-- asking takes nothing
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

-- try
SELECT pglock.try('x'), pglock.try('x'), pglock.release('x'), pglock.release('x'),
       pglock.release('x');

-- lock
CALL pglock.lock('x');
CALL pglock.lock('x', '1s', true);
:mine;
SELECT pglock.release_all();

-- each acquire wants its release; held_since is of the first
SELECT pglock.acquire('x') AND pglock.acquire('x') AND pglock.try('x');
SELECT held_since AS first_since FROM pglock.locks \gset
CALL pglock.lock('x');
:mine;
SELECT held_since = :'first_since' AS unchanged FROM pglock.locks;
SELECT pglock.release('x'), pglock.release('x'), pglock.release('x'), pglock.held('x');
SELECT pglock.release('x'), pglock.held('x'), pglock.release('x');

-- shared, by itself: another reader could come, a writer not
SELECT pglock.acquire('x', shared => true);
SELECT pglock.held('x'), pglock.is_free('x'), (SELECT count(*) FROM pglock.holders('x'));
:mine;
-- from shared to exclusive: nobody else reads, so it is had at once
SELECT pglock.try('x');
-- one session has both modes, and is one holder
:mine;
SELECT count(*) FROM pglock.holders('x');
-- the newest comes back first, whatever its mode
SELECT pglock.release('x');
:mine;
SELECT pglock.acquire('x'), pglock.acquire('x', shared => true);
SELECT pglock.release('x');
:mine;
-- a mode may be asked for; there is nothing to give back in the other
SELECT pglock.release('x', shared => true), pglock.release('x', shared => true);
:mine;
SELECT pglock.release('x', shared => false), pglock.release('x', shared => false);
:mine;

-- modes taken in turn, ten times: the newest level first, however many turns there were
SELECT count(pglock.acquire('x', shared => i % 2 = 0)) FROM generate_series(1, 10) AS i;
:mine;
SELECT count(pglock.release('x')) FROM generate_series(1, 5);
:mine;
-- 1 3 5 exclusive, 2 4 shared; the exclusive 5 goes, and 4 is the newest
SELECT pglock.release('x', shared => false);
:mine;
SELECT pglock.release('x');
:mine;
SELECT pglock.release('x');
:mine;
-- and again: what is left is 1 and 2
SELECT count(pglock.acquire('x', shared => i % 3 = 0)) FROM generate_series(1, 100) AS i;
:mine;
SELECT pglock.release_all('{x}');
:mine;

-- many levels, many locks
SELECT count(*) FILTER (WHERE pglock.acquire('deep')) FROM generate_series(1, 10000);
:mine;
SELECT pglock.release_all();
SELECT count(*) FILTER (WHERE pglock.acquire('n' || i)) FROM generate_series(1, 1000) AS i;
SELECT count(*), count(DISTINCT key), sum(depth) FROM pglock.locks;
SELECT count(*) FILTER (WHERE pglock.release('n' || i)) FROM generate_series(1, 500) AS i;
SELECT pglock.held('n500'), pglock.held('n501'), pglock.release_all();
:mine;

-- timeouts of a lock that is free, and of one that is held by the session itself
SELECT pglock.acquire('x', NULL), pglock.acquire('x', '0'), pglock.acquire('x', '5s'),
       pglock.acquire('x', '1 microsecond'), pglock.acquire('x', '24 days'),
       pglock.acquire('x', '2147483647 milliseconds'), pglock.acquire('x', '1 mon -10 days'),
       pglock.acquire('x', '-1 day 25 hours');
CALL pglock.lock('x', '0');
CALL pglock.lock('x', '2147483647 milliseconds');
:mine;
SELECT pglock.release_all();

-- a lock that nobody will give back while we wait: it belongs to a prepared transaction
BEGIN;
SELECT pglock.acquire('taken', scope => 'transaction'),
       pglock.acquire('read', shared => true, scope => 'transaction');
PREPARE TRANSACTION 'regress_pglock_acquire';
SELECT pglock.held('taken'), pglock.is_free('taken'), pglock.is_free('read');
SELECT array_agg(pid) FROM pglock.holders('taken') AS pid;
SELECT key, lock_id = pglock.lock_id('taken') AS taken, mode, scope, granted, depth, pid
FROM pglock.locks ORDER BY mode;
SELECT pglock.try('taken'), pglock.try('taken', shared => true), pglock.try('read'),
       pglock.try('read', shared => true);
SELECT pglock.acquire('taken', '0'), pglock.acquire('taken', '1 microsecond'),
       pglock.acquire('taken', '10ms'), pglock.acquire('taken', '10ms', shared => true),
       pglock.acquire('read', '10ms'), pglock.acquire('read', '10ms', shared => true);
CALL pglock.lock('taken', '10ms');
CALL pglock.lock('taken', '0');
-- what was refused left nothing, what was granted is there
:mine;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT pglock.release('taken'), pglock.release('read'), pglock.release('read'),
       pglock.release('read');
-- a transaction goes on after a timeout of ours, and no setting has changed
BEGIN;
CREATE TEMP TABLE written (n integer) ON COMMIT DROP;
INSERT INTO written VALUES (1);
SELECT pglock.acquire('taken', '10ms'), pglock.acquire('taken', '10ms', scope => 'transaction');
INSERT INTO written VALUES (2);
SELECT count(*) FROM written;
SHOW lock_timeout;
SHOW statement_timeout;
COMMIT;
-- lock_timeout and statement_timeout are errors, with the lock's name, and leave nothing; the server may
-- have more to say of the wait, and statement_timeout may strike before it begins, on a slow machine
\set SHOW_CONTEXT never
SET lock_timeout = '10ms';
DO $$
DECLARE
    context text;
BEGIN
    PERFORM pglock.acquire('taken');
EXCEPTION WHEN lock_not_available THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE NOTICE '%', substring(context FROM 'while acquiring lock [^\n]*');
END $$;
SELECT pglock.acquire('taken');
SELECT pglock.acquire('taken', scope => 'transaction', shared => true, timeout => '10min');
CALL pglock.lock('taken');
RESET lock_timeout;
SET statement_timeout = '50ms';
SELECT pglock.acquire('taken');
SELECT pglock.acquire('taken', timeout => '10min');
CALL pglock.lock('taken', timeout => '10min');
RESET statement_timeout;
\unset SHOW_CONTEXT
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
ROLLBACK PREPARED 'regress_pglock_acquire';
SELECT pglock.try('taken'), pglock.release('taken');

-- the same for a raw id
SELECT pglock.acquire_raw(7), pglock.acquire_raw(7, '0', true), pglock.try_raw(7),
       pglock.try_raw(7, shared => true);
CALL pglock.lock_raw(7);
CALL pglock.lock_raw(7, '1s', true);
:mine;
SELECT pglock.release_raw(7), pglock.release_raw(7, false), pglock.release_raw(7, true),
       pglock.release_raw(7), pglock.release_raw(7), pglock.release_raw(7), pglock.release_raw(7);
-- a lock taken by name may be given back by its id, and the other way round
SELECT pglock.acquire('x'), pglock.release_raw(pglock.lock_id('x'));
SELECT pglock.acquire_raw(pglock.lock_id('x')), pglock.held('x'), pglock.release('x'),
       pglock.held('x');
-- whoever says the name is heard: the id has one from then on
SELECT pglock.acquire_raw(pglock.lock_id('x'));
SELECT key, depth FROM pglock.locks;
SELECT pglock.acquire('x');
SELECT key, depth FROM pglock.locks;

-- release_all: by key, each once, not what was not taken; then the rest
SELECT pglock.acquire('x'), pglock.acquire('y'), pglock.acquire('y', shared => true),
       pglock.acquire('z');
SELECT pglock.release_all('{y,y,unknown,x}');
:mine;
SELECT pglock.release_all('{}');
SELECT pglock.release_all(), pglock.release_all();
-- what the built-ins took stays
SELECT pg_advisory_lock(1), pg_advisory_lock(pglock.lock_id('x')), pglock.acquire('x');
SELECT pglock.release_all('{x}');
SELECT pglock.acquire('x');
SELECT pglock.release_all();
SELECT pg_advisory_unlock(1), pg_advisory_unlock(pglock.lock_id('x')),
       pg_advisory_unlock(pglock.lock_id('x'));

-- CALL lock at transaction scope raises where acquire answers
BEGIN;
CALL pglock.lock('x', scope => 'transaction');
CALL pglock.lock('x', '1s', true, 'transaction');
CALL pglock.lock_raw(7, scope => 'transaction');
:mine;
COMMIT;
:mine;
CALL pglock.lock('x', scope => 'transaction');
SELECT pglock.held('x');
CALL pglock.lock('x', scope => NULL);
CALL pglock.lock('x', scope => 'block');
