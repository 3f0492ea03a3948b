--
-- How long a lock is held: session scope, transaction scope, and what goes round us
--
\set mine 'SELECT key, mode, scope, depth FROM pglock.locks WHERE pid = pg_backend_pid() ORDER BY key, mode, scope'

-- session scope does not care for transactions
BEGIN;
SELECT pglock.acquire('committed');
COMMIT;
BEGIN;
SELECT pglock.acquire('rolled back');
ROLLBACK;
BEGIN;
SELECT pglock.acquire('before');
SAVEPOINT s;
SELECT pglock.acquire('after', shared => true);
ROLLBACK TO s;
:mine;
COMMIT AND CHAIN;
:mine;
ROLLBACK;
BEGIN\; SELECT pglock.acquire('one string')\; ROLLBACK;
-- nor for an error of a later command
BEGIN;
SELECT pglock.acquire('before the error');
SELECT 1 / 0;
ROLLBACK;
:mine;
SELECT pglock.release_all();

-- a release is not undone by a rollback
SELECT pglock.acquire('x');
BEGIN;
SELECT pglock.release('x');
ROLLBACK;
:mine;

-- transaction scope ends with the transaction, whichever way
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.try('x', scope => 'transaction'),
       pglock.try('y', shared => true, scope => 'transaction');
:mine;
COMMIT;
:mine;
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
COMMIT AND CHAIN;
:mine;
SELECT pglock.acquire('x', scope => 'transaction');
ROLLBACK;
:mine;
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
SELECT 1 / 0;
COMMIT;
:mine;
-- or with the savepoint it was taken after, when that is rolled back
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
SAVEPOINT a;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.acquire('y', scope => 'transaction');
SAVEPOINT b;
SELECT pglock.acquire('y', scope => 'transaction'), pglock.acquire('z', scope => 'transaction');
:mine;
RELEASE SAVEPOINT b;
:mine;
ROLLBACK TO a;
:mine;
SELECT pglock.held('x'), pglock.held('y'), pglock.held('z');
COMMIT;
:mine;
-- a block with an EXCEPTION clause is a savepoint
BEGIN;
DO $$
BEGIN
    PERFORM pglock.acquire('transaction', scope => 'transaction');
    PERFORM pglock.acquire('session');
    PERFORM 1 / 0;
EXCEPTION WHEN division_by_zero THEN
    NULL;
END $$;
:mine;
COMMIT;
SELECT pglock.release_all();

-- it can't be given back by hand; the answer is false, and a warning says why
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
SELECT pglock.release('x');
SELECT pglock.release('x', shared => false);
-- nothing is held in that mode
SELECT pglock.release('x', shared => true);
SELECT pglock.release_raw(pglock.lock_id('x'));
SELECT pglock.release_all(), pglock.release_all('{x}');
:mine;
COMMIT;

-- both scopes of one lock count apart
BEGIN;
SELECT pglock.acquire('x'), pglock.acquire('x', scope => 'transaction'), pglock.acquire('x');
:mine;
SELECT pglock.release('x'), pglock.release('x');
:mine;
SELECT pglock.release('x');
SELECT pglock.acquire('x');
COMMIT;
:mine;
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.release_all();
:mine;
ROLLBACK;
:mine;

-- two-phase commit: transaction scope goes on in the prepared transaction, session scope here
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction'), pglock.acquire('y');
PREPARE TRANSACTION 'regress_pglock_scope';
:mine;
SELECT pglock.held('x'), pglock.is_free('x'), pglock.try('x'), pglock.release('x');
SELECT pglock.held('y'), pglock.release('y');
COMMIT PREPARED 'regress_pglock_scope';
SELECT pglock.held('x'), pglock.is_free('x'), pglock.try('x'), pglock.release('x');
-- both scopes of one lock can't be told apart by the server, which refuses that; nothing is left
-- of the transaction's level, and the session's goes on
SELECT pglock.acquire('x');
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
PREPARE TRANSACTION 'regress_pglock_scope';
:mine;
SELECT pglock.release('x'), pglock.release('x');

--
-- The built-ins and DISCARD ALL go round us: no phantom stays, and the answers are right
--
SELECT pglock.acquire('x'), pglock.acquire('x'), pglock.acquire('y', shared => true);
DISCARD ALL;
:mine;
SELECT count(*) FROM pglock.session_holds();
SELECT pglock.held('x'), pglock.release('x'), pglock.release('y', true), pglock.release_all();
SELECT pglock.acquire('x');
:mine;
SELECT pg_advisory_unlock_all();
:mine;
SELECT count(*) FROM pglock.session_holds();
SELECT pglock.held('x'), pglock.release_all('{x}'), pglock.release_all(), pglock.release('x');

-- one level less
SELECT pglock.acquire('x'), pglock.acquire('x'), pglock.acquire('x');
SELECT pg_advisory_unlock(pglock.lock_id('x'));
:mine;
SELECT pglock.release('x');
:mine;
SELECT pg_advisory_unlock(pglock.lock_id('x'));
:mine;
SELECT pglock.release('x'), pglock.release_all();
-- in the middle of several modes
SELECT pglock.acquire('x'), pglock.acquire('x', shared => true), pglock.acquire('x'),
       pglock.acquire('x', shared => true);
SELECT pg_advisory_unlock_shared(pglock.lock_id('x')),
       pg_advisory_unlock_shared(pglock.lock_id('x'));
:mine;
SELECT pglock.release('x', shared => true), pglock.release('x'), pglock.release('x'),
       pglock.release('x');

-- taken again by a built-in: the session holds it, but not through us
SELECT pglock.acquire('x'), pglock.acquire('x');
SELECT pg_advisory_unlock_all();
SELECT pg_advisory_lock(pglock.lock_id('x'));
SELECT scope, depth, held_since, lock_id = pglock.lock_id('x') AS x FROM pglock.locks;
SELECT count(*) FROM pglock.session_holds();
SELECT pglock.release_all(), pglock.release_all('{x}'), pglock.held('x');
-- taken by us on top: the depth is that of the session
SELECT pglock.acquire('x');
:mine;
-- and given back: the built-in's level is nothing of ours
SELECT pglock.release_all();
SELECT count(*) FROM pglock.session_holds();
SELECT pglock.release('x'), pglock.release('x');
-- a release without a mode gives back our level before that of a built-in
SELECT pg_advisory_lock(pglock.lock_id('x')), pglock.acquire('x', shared => true);
SELECT pglock.release('x');
SELECT mode FROM pglock.locks;
SELECT pglock.release('x'), pglock.release('x');

-- at transaction scope, by a built-in: neither can be given back
BEGIN;
SELECT pg_advisory_xact_lock(pglock.lock_id('x'));
SELECT pglock.held('x'), pglock.release('x');
SELECT pglock.acquire('x', scope => 'transaction');
SELECT scope, depth FROM pglock.locks;
ROLLBACK;
:mine;
-- broken between: ours, then a built-in's, then ours again in another scope
BEGIN;
SELECT pglock.acquire('x');
SELECT pg_advisory_unlock(pglock.lock_id('x'));
SELECT pg_advisory_lock(pglock.lock_id('x'));
SELECT pglock.acquire('x', scope => 'transaction');
:mine;
COMMIT;
SELECT count(*) FROM pglock.session_holds();
SELECT pglock.release('x'), pglock.release('x'), pglock.release_all();

-- what is gone does not count as held
SET pglock.max_holds = 1;
SELECT pglock.acquire('x');
SELECT pg_advisory_unlock_all();
SELECT pglock.acquire('y'), pglock.release('y');
BEGIN;
SELECT pglock.acquire('x', scope => 'transaction');
COMMIT;
SELECT pglock.acquire('y'), pglock.release('y');
RESET pglock.max_holds;

-- many at once
SELECT count(pglock.acquire('n' || i)) FROM generate_series(1, 1000) AS i;
SELECT count(pg_advisory_unlock(pglock.lock_id('n' || i))) FROM generate_series(1, 1000, 2) AS i;
SELECT count(*), sum(depth) FROM pglock.locks;
SELECT pglock.release_all();
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';
