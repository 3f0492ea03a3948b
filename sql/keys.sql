--
-- From keys to lock ids: one name is one lock, whatever its type and the database's encoding
--
SET client_min_messages = warning;
SELECT current_database() AS home \gset
CREATE DATABASE regress_pglock_utf8
    TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_pglock_latin1
    TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_pglock_win1251
    TEMPLATE template0 ENCODING 'WIN1251' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_pglock_win1252
    TEMPLATE template0 ENCODING 'WIN1252' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_pglock_euc_jp
    TEMPLATE template0 ENCODING 'EUC_JP' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_pglock_sql_ascii
    TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';

\c regress_pglock_utf8
\encoding UTF8
CREATE EXTENSION postgres_lock;

-- the ids that the Python library postgres-lock takes, too
SELECT left(key, 20) AS key, pglock.lock_id(key), pglock.lock_id(key) = expected AS right
FROM (VALUES ('', 124584541093122799),
             ('shared-identifier', 142468548502040132),
             ('5', 983116577831777608),
             ('café', 139380260014773691),
             ('ключ', 102429466556242682),
             ('日本語', 110257677333192328),
             (repeat('a', 1000), 234751096138639621)) AS vector(key, expected);

-- hashes that are short numbers, or have zeros where the number is cut
SELECT key, pglock.lock_id(key), pglock.lock_id(key) = expected AS right
FROM (VALUES ('16055', 747672210289579483),
             ('94248', 159786833307055509),
             ('23818', 875239850720000067)) AS vector(key, expected);

-- a number or a uuid means its text
SELECT pglock.lock_id(5) = pglock.lock_id('5') AS integer,
       pglock.lock_id(5::smallint) = pglock.lock_id('5') AS smallint,
       pglock.lock_id(5::bigint) = pglock.lock_id('5') AS bigint,
       pglock.lock_id((-9223372036854775808)::bigint) = 558652550596602973 AS least,
       pglock.lock_id('x'::varchar) = pglock.lock_id('x') AS varchar,
       pglock.lock_id('x'::name) = pglock.lock_id('x') AS name;
SELECT pglock.lock_id('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid) = 109433930813134025 AS uuid,
       pglock.lock_id('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11') = 109433930813134025 AS text;
SELECT pglock.lock_id(NULL::text), pglock.lock_id(NULL::bigint), pglock.lock_id(NULL::uuid);
-- other numbers are not keys, nor is there a cast that would make them one
\set VERBOSITY terse
SELECT pglock.lock_id(5.0);
\unset VERBOSITY

-- which of so many servers has a key: with what clients are tested, too
CREATE TABLE vectors (key text, lock_id bigint, servers integer, server integer);
\copy vectors FROM PROGRAM 'cat "$PG_ABS_SRCDIR"/test/server_of.tsv' WITH (HEADER)
SELECT count(*), count(DISTINCT key) AS keys, min(servers) AS least, max(servers) AS most,
       bool_and(pglock.lock_id(key) = lock_id) AS ids,
       bool_and(pglock.server_of(key, servers) = server) AS servers
FROM vectors;
SELECT key FROM vectors
WHERE pglock.lock_id(key) <> lock_id OR pglock.server_of(key, servers) <> server;
SELECT pglock.server_of(5, 16) = pglock.server_of('5', 16) AS bigint,
       pglock.server_of((-9223372036854775808)::bigint, 16) = 13 AS least,
       pglock.server_of('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid, 16) = 9 AS uuid,
       pglock.server_of('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 16) = 9 AS text;
-- a power of two takes the low bits of the id; each server has its share of keys
SELECT bool_and(pglock.server_of(i, 8) = pglock.lock_id(i) & 7) AS low_bits FROM generate_series(1, 999) AS i;
SELECT bool_and(keys BETWEEN 1900 AND 2100) AS even
FROM (SELECT count(*) AS keys FROM generate_series(1, 10000) AS i GROUP BY pglock.server_of('order:' || i, 5)) AS counts;
SELECT pglock.server_of(NULL::text, 4), pglock.server_of('x', NULL), pglock.server_of(NULL::bigint, 4),
       pglock.server_of(NULL::uuid, 4);
SELECT pglock.server_of('x', 0);
SELECT pglock.server_of('x', -4);

-- every function takes the three types, and they meet
SELECT pglock.acquire(42), pglock.try('42'), pglock.acquire('42', shared => true);
SELECT pglock.held(42) AS bigint, pglock.held('42') AS text, pglock.held(42::smallint) AS smallint;
CALL pglock.lock(42);
SELECT key, lock_id = pglock.lock_id('42') AS same, mode, depth FROM pglock.locks ORDER BY mode;
SELECT pglock.is_free(42), (SELECT count(*) FROM pglock.holders(42));
SELECT pglock.release('42'), pglock.release(42), pglock.release('42'), pglock.release(42),
       pglock.release('42');
\set uuid '\'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\''
SELECT pglock.acquire(:uuid::uuid), pglock.try(:uuid::uuid), pglock.held(:uuid);
CALL pglock.lock(upper(:uuid)::uuid);
SELECT pglock.is_free(:uuid::uuid), (SELECT count(*) FROM pglock.holders(:uuid::uuid));
SELECT key, depth FROM pglock.locks;
SELECT pglock.release(:uuid::uuid), pglock.release(:uuid), pglock.release_all(ARRAY[:uuid]);

-- a parameter of no type is text, in every call and in named notation
PREPARE untyped_acquire AS SELECT pglock.acquire($1, timeout => '5s');
PREPARE untyped_all AS
    SELECT pglock.acquire_all($1, timeout => $2, shared => $3, scope => $4);
PREPARE untyped_try AS SELECT pglock.try($1), pglock.try(key => $1, shared => true);
PREPARE untyped_ask AS
    SELECT pglock.held($1), pglock.is_free($1), count(*) FROM pglock.holders($1);
PREPARE untyped_id AS SELECT pglock.lock_id($1);
PREPARE untyped_release AS SELECT pglock.release($1), pglock.release($1, shared => $2);
PREPARE untyped_release_all AS SELECT pglock.release_all($1);
PREPARE untyped_raw AS SELECT pglock.acquire_raw($1, $2, $3, $4), pglock.release_raw($1);
PREPARE typed_acquire(bigint) AS SELECT pglock.acquire($1, timeout => '5s');
SELECT name, parameter_types FROM pg_prepared_statements ORDER BY name;
EXECUTE untyped_acquire('9');
EXECUTE typed_acquire(9);
EXECUTE untyped_try('9');
EXECUTE untyped_ask('9');
EXECUTE untyped_release('9', true);
EXECUTE untyped_release_all('{9}');
EXECUTE untyped_all('{9}', '0', false, 'session');
EXECUTE untyped_release_all('{9}');
EXECUTE untyped_raw(9, '0', false, 'session');
DEALLOCATE ALL;

SELECT pglock.acquire(key => 'named', scope => 'session', shared => true, timeout => '1s'),
       pglock.try(shared => true, key => 'named'),
       pglock.acquire_all(keys => '{named}', shared => true),
       pglock.acquire_raw(lock_id => 1, shared => true),
       pglock.release_raw(shared => true, lock_id => 1);
CALL pglock.lock(timeout => '1s', key => 'named', shared => true);
CALL pglock.lock_raw(lock_id => 2, timeout => '1s');
SELECT pglock.release(key => 'named', shared => true), pglock.release_all(keys => '{named}'),
       pglock.release_all();

-- the lock of an id is the lock of pg_advisory_lock, both ways
SELECT pg_advisory_lock(pglock.lock_id('x'));
SELECT pglock.held('x'), pglock.is_free('x'), (SELECT count(*) FROM pglock.holders('x'));
SELECT pglock.release('x'), pg_try_advisory_lock(1), pglock.release_raw(1), pglock.held('x');
SELECT pglock.acquire('x'), pglock.try('y', shared => true);
SELECT objsubid, mode, (classid::bigint << 32) | objid::bigint = pglock.lock_id('x') AS x
FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY mode;
SELECT pg_advisory_unlock(pglock.lock_id('x')), pg_advisory_unlock_shared(pglock.lock_id('y'));
SELECT pglock.held('x'), pglock.held('y'), pglock.release('x'), pglock.release('y');
SELECT id, pglock.acquire_raw(id), pg_advisory_unlock(id), pg_try_advisory_lock(id),
       pglock.release_raw(id)
FROM (VALUES (0), (42), (-1), (9223372036854775807), (-9223372036854775808)) AS raw(id);
-- the two-integer ids are another space
SELECT pglock.acquire_raw(1), pg_try_advisory_lock(0, 1), pglock.release_raw(1),
       pglock.release_raw(1);
SELECT lock_id, key, mode, scope, depth FROM pglock.locks;
SELECT pg_advisory_unlock(0, 1);

-- hostile names
CREATE TABLE hostile (nr serial, name text);
INSERT INTO hostile (name) VALUES
    (''), (' '), ('"'), ('it''s'), (E'a\nb'), (E'\x01\r\t\x7f'), ('%s%n%d'), ('\'), ('''); --'),
    ('NULL'), ('日本語'), (repeat('x', 1024 * 1024)), (repeat('é', 200)), ('e' || repeat('é', 200));
SELECT nr, length(name), pglock.acquire(name) AS acquired,
       pglock.try(name, shared => true) AS shared, pglock.held(name) AS held,
       pglock.release(name) AS released, pglock.release(name) AS again,
       pglock.release(name) AS no_more
FROM hostile ORDER BY nr;
SELECT pglock.lock_id('it''s') = 694975302087561137 AS quote,
       pglock.lock_id(E'a\nb') = 144333001435926821 AS newline,
       pglock.lock_id('"') = 244380168817868615 AS double_quote,
       pglock.lock_id(repeat('x', 1024 * 1024)) = 129877983853386549 AS megabyte;
-- all at once; what is shown of a long name is a whole number of characters
SELECT pglock.acquire_all(array_agg(name)) FROM hostile;
SELECT nr, depth, length(key) AS shown, octet_length(key) AS bytes, name = key AS whole,
       right(key, 4) AS ends, starts_with(name, left(key, -3)) AS starts
FROM pglock.locks JOIN hostile ON lock_id = pglock.lock_id(name) ORDER BY nr;
SELECT pglock.release_all();
-- names of every length, each beside one that differs in its last byte only
SELECT count(*) FILTER (WHERE pglock.acquire(repeat('n', i) || 'a')
AND pglock.try(repeat('n', i) || 'b')
                              AND pglock.acquire(repeat('n', i) || 'a', shared => true)) AS acquired
FROM generate_series(0, 300) AS i;
SELECT count(*), count(DISTINCT key), count(*) FILTER (WHERE depth = 1) AS depth_1,
       count(*) FILTER (WHERE pglock.lock_id(key) = lock_id) AS whole,
       count(*) FILTER (WHERE right(key, 3) = '...') AS shortened
FROM pglock.locks WHERE mode = 'exclusive';
SELECT count(*) FILTER (WHERE pglock.release(repeat('n', i) || 'b')
AND NOT pglock.held(repeat('n', i) || 'b')
                              AND pglock.release(repeat('n', i) || 'a')) AS released,
       count(*) FILTER (WHERE pglock.held(repeat('n', i) || 'a')) AS still_held
FROM generate_series(0, 300) AS i;
SELECT pglock.release_all();
-- names are not cut before they are hashed
SELECT count(DISTINCT pglock.lock_id(repeat('x', 250 + n))) FROM generate_series(0, 9) AS n;
-- a name in a message is shortened, too, and is not taken for a format
SELECT pglock.acquire(repeat('é', 1024 * 1024), scope => 'transaction');
SELECT pglock.acquire('100%s of "all"', scope => 'transaction');
-- bytes that are no text do not get as far as a name
SELECT pglock.acquire(E'\xff');
SELECT pglock.acquire(convert_from('\xc328', 'UTF8'));
SELECT count(*) FROM pglock.locks;

-- one name is one lock in every encoding that has it
\c regress_pglock_latin1
\encoding UTF8
CREATE EXTENSION postgres_lock;
SHOW server_encoding;
SELECT octet_length('café') AS bytes, pglock.lock_id('café') = 139380260014773691 AS "café",
       pglock.lock_id('') = 124584541093122799 AS "empty",
       pglock.lock_id('shared-identifier') = 142468548502040132 AS "shared-identifier",
       pglock.lock_id(5) = 983116577831777608 AS "5",
       pglock.lock_id(repeat('a', 1000)) = 234751096138639621 AS "1000 a";
-- whatever the client speaks
\encoding LATIN1
SELECT pglock.lock_id(E'caf\351') = 139380260014773691 AS "latin1";
\encoding UTF8
SELECT pglock.acquire('café'), pglock.acquire('café'), pglock.acquire(repeat('é', 1024 * 1024));
SELECT left(key, 5) AS key, length(key), depth FROM pglock.locks ORDER BY depth;
SELECT pglock.release('café'), pglock.release('café'), pglock.release('café'),
       pglock.release_all();

\c regress_pglock_win1251
\encoding UTF8
CREATE EXTENSION postgres_lock;
SHOW server_encoding;
SELECT octet_length('ключ') AS bytes, pglock.lock_id('ключ') = 102429466556242682 AS "ключ";

\c regress_pglock_euc_jp
\encoding UTF8
CREATE EXTENSION postgres_lock;
SHOW server_encoding;
SELECT octet_length('日本語') AS bytes, pglock.lock_id('日本語') = 110257677333192328 AS "日本語";

\c regress_pglock_win1252
\encoding UTF8
CREATE EXTENSION postgres_lock;
SHOW server_encoding;
SELECT octet_length('café') AS bytes, pglock.lock_id('café') = 139380260014773691 AS "café";
-- byte 0x81 is no character in WIN1252: no UTF-8, no lock
SELECT pglock.lock_id(E'a\201b');
SELECT pglock.acquire(E'a\201b');
SELECT pglock.acquire_all(ARRAY['a', E'a\201b', 'b']);
CALL pglock.lock(E'a\201b');
SELECT pglock.release(E'a\201b');
SELECT count(*) FROM pglock.locks;
SELECT pglock.try('a'), pglock.release('a');

-- SQL_ASCII has no encoding: its bytes are taken as they are
\c regress_pglock_sql_ascii
\encoding UTF8
CREATE EXTENSION postgres_lock;
SHOW server_encoding;
SELECT pglock.lock_id(E'caf\303\251') = 139380260014773691 AS utf8,
       pglock.lock_id(E'caf\351') = 120435555705589897 AS latin1,
       pglock.lock_id(E'\377') = 764407037535646966 AS neither,
       pglock.lock_id(E'\346\227\245\346\234\254\350\252\236') = 110257677333192328 AS japanese;
SELECT pglock.acquire(E'\377\376'), pglock.held(E'\377\376'), pglock.release(E'\377\376');
-- shortened where a character ends, if it is UTF-8
SELECT pglock.acquire(repeat('é', 200));
SELECT key = repeat('é', 127) || '...' AS "at its end" FROM pglock.locks;
SELECT pglock.acquire(repeat(E'\377', 300)), pglock.release_all();

\c :home
DROP DATABASE regress_pglock_utf8;
DROP DATABASE regress_pglock_latin1;
DROP DATABASE regress_pglock_win1251;
DROP DATABASE regress_pglock_win1252;
DROP DATABASE regress_pglock_euc_jp;
DROP DATABASE regress_pglock_sql_ascii;
