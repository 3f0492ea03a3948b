/* src/proxy/postgres_lock_proxy--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION postgres_lock_proxy CASCADE" to load this file. \quit

-- The functions of postgres_lock for clients of a database that has no locks of its own: each call goes to the one of
-- many servers that has the key, over connections that PL/Proxy keeps for the session.
--
-- Each server is a PL/Proxy cluster of its own, by CONNECT: PL/Proxy closes the connections of a named cluster, and
-- so ends its locks, when its definition changes, or when the session misses catalog changes while it waits.

-- Whoever may create in the schema of PL/Proxy must not be able to stand in for functions and operators of the catalog:
-- neither in this script nor in what it creates.
SET LOCAL search_path TO @extschema@, pg_temp;

GRANT USAGE ON SCHEMA @extschema@ TO PUBLIC;

--
-- Servers
--

CREATE TABLE servers (
    server integer PRIMARY KEY CHECK (server >= 0),
    connection text NOT NULL,
    state text NOT NULL DEFAULT 'joining' CHECK (state IN ('joining', 'settling', 'joined')));

GRANT SELECT ON servers TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.servers', '');

COMMENT ON TABLE servers IS
'The servers, by their numbers from 0. Those that have joined share the keys: server_of(key, how many have joined). While
others are joining, locks whose server will change are taken on both. When they are settling, locks are taken on the
new one alone, and released on both: some were taken before. Everybody can read the connection strings, so they must
contain no password. join_servers() sets the state, and nobody else can for a server that has joined.';

CREATE FUNCTION check_servers() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM @extschema@.servers
               HAVING max(server) <> count(*) - 1 OR count(DISTINCT state) FILTER (WHERE state <> 'joined') > 1
                   OR max(server) FILTER (WHERE state = 'joined') > min(server) FILTER (WHERE state <> 'joined')) THEN
        RAISE EXCEPTION 'servers must be numbered from 0 without a gap, those that have joined first'
            USING ERRCODE = 'check_violation', HINT = 'Servers cannot be added while others are settling.';
    END IF;
    IF TG_OP = 'DELETE' THEN
        -- the keys move to others than before: who has not seen that is waited for by what the rows tell of their age
        UPDATE @extschema@.servers SET state = state WHERE state = 'joining';
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION check_servers() IS 'The trigger of the table servers.';

CREATE TRIGGER check_servers AFTER INSERT OR UPDATE OR DELETE ON servers
FOR EACH STATEMENT EXECUTE FUNCTION check_servers();

-- STABLE: it does not see the rows before, of those that one statement inserts
CREATE FUNCTION keep_number() RETURNS trigger
LANGUAGE plpgsql STABLE AS $$
DECLARE
    changes boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        changes := NEW.server <> OLD.server OR NEW.state <> OLD.state;
    ELSIF TG_OP = 'DELETE' THEN
        changes := OLD.state <> 'joining';
    ELSE
        changes := EXISTS (SELECT FROM @extschema@.servers WHERE state <> 'joining');
        IF TG_OP = 'INSERT' THEN
            changes := changes AND NEW.state <> 'joining';
        END IF;
    END IF;
    IF changes THEN
        RAISE 'the number of servers that have joined cannot be changed by %', TG_OP
            USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'Locks that are held would be looked for on other servers.',
            HINT = 'Insert servers as "joining", and CALL @extschema@.join_servers(). To remove servers, release all locks, '
                'and disable the trigger keep_number meanwhile.';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

COMMENT ON FUNCTION keep_number() IS
'The trigger of the table servers that leaves it to the procedures to change the number of those that have joined.';

CREATE TRIGGER keep_number BEFORE INSERT OR UPDATE OR DELETE ON servers
FOR EACH ROW WHEN (current_setting('postgres_lock_proxy.settles', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION keep_number();

CREATE TRIGGER keep_number_truncate BEFORE TRUNCATE ON servers
FOR EACH STATEMENT EXECUTE FUNCTION keep_number();

CREATE FUNCTION lock_id(key text) RETURNS bigint
AS 'MODULE_PATHNAME', 'pglock_lock_id_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION lock_id(text) IS 'The advisory lock id of a key, on its server.';

CREATE FUNCTION server_of(key text, servers integer) RETURNS integer
AS 'MODULE_PATHNAME', 'pglock_server_of_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION server_of(text, servers integer) IS
'Which of so many servers has a key, from 0: the rule of the extension postgres_lock.';

CREATE FUNCTION connection(number integer) RETURNS SETOF text
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT connection FROM servers WHERE server = number;
END;

COMMENT ON FUNCTION connection(integer) IS 'The connection string of a server.';

CREATE FUNCTION places(key text, releasing boolean = false) RETURNS integer[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    joined integer;
    joining integer;
    servers integer;
    old integer;
    new integer;
BEGIN
    IF key IS NULL THEN
        RAISE 'key must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT count(*) FILTER (WHERE state = 'joined'), count(*) FILTER (WHERE state = 'joining'), count(*)
    INTO joined, joining, servers FROM @extschema@.servers;
    IF joined = 0 THEN
        RAISE 'no server has joined' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Insert servers into the table @extschema@.servers, and CALL @extschema@.join_servers().';
    END IF;
    old := @extschema@.server_of(key, joined);
    new := @extschema@.server_of(key, servers);
    RETURN CASE WHEN old <> new AND (releasing OR joining > 0) THEN ARRAY[old, new] ELSE ARRAY[new] END;
END $$;

COMMENT ON FUNCTION places(text, boolean) IS
'The servers on which the lock of a key is taken, or is to be released, in this order: one, or two while it moves.';

CREATE FUNCTION place(key text, taking boolean) RETURNS integer
LANGUAGE plpgsql STABLE AS $$
DECLARE
    places integer[] := @extschema@.places(key);
BEGIN
    IF taking AND cardinality(places) > 1 THEN
        RAISE 'key "%" is moving to another server', key USING ERRCODE = 'object_in_use',
            DETAIL = 'Its slots and leases, and several locks at once, cannot be taken meanwhile.',
            HINT = 'Try again when the servers that were added have joined.';
    END IF;
    RETURN places[1];
END $$;

COMMENT ON FUNCTION place(text, boolean) IS
'The one server that has a key. Error 55006 if anything is to be taken there while the key moves.';

CREATE FUNCTION check_scope(scope text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF scope = 'session' THEN
        RETURN;
    ELSIF scope = 'transaction' THEN
        RAISE 'locks at transaction scope are not possible through a proxy' USING ERRCODE = 'feature_not_supported',
            DETAIL = 'Each call is a transaction of its own on the server, so the lock would end with the call.',
            HINT = 'Take it at session scope and release it after COMMIT, or take a lease.';
    ELSIF scope IS NULL THEN
        RAISE 'scope must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    RAISE 'invalid scope: "%"', scope USING ERRCODE = 'invalid_parameter_value', HINT = 'Through a proxy it is "session".';
END $$;

COMMENT ON FUNCTION check_scope(text) IS 'Error 0A000 for transaction scope, 22023 and 22004 for what is no scope.';

CREATE FUNCTION raise_timeout(what text, key text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE 'could not acquire % "%" in time', what, key USING ERRCODE = 'lock_not_available',
        HINT = 'The views @extschema@.locks and @extschema@.leases show the holders.';
END $$;

COMMENT ON FUNCTION raise_timeout(text, text) IS 'Error 55P03 of the procedures.';

--
-- Calls to one server. Its number is the first argument, so nobody can have the proxy connect anywhere else.
--

DO $do$
DECLARE
    call record;
BEGIN
    FOR call IN SELECT * FROM (VALUES
        ('acquire', 'key text, timeout interval, shared boolean', 'boolean'),
        ('try', 'key text, shared boolean', 'boolean'),
        ('acquire_all', 'keys text[], timeout interval, shared boolean', 'boolean'),
        ('release', 'key text, shared boolean', 'boolean'),
        ('release_all', '', 'integer'),
        ('release_all', 'keys text[]', 'integer'),
        ('held', 'key text', 'boolean'),
        ('is_free', 'key text', 'boolean'),
        ('holders', 'key text', 'SETOF integer'),
        ('token', 'key text', 'bigint'),
        ('acquire_slot', 'key text, slots integer, timeout interval', 'integer'),
        ('try_slot', 'key text, slots integer', 'integer'),
        ('release_slot', 'key text, slot integer', 'boolean'),
        ('acquire_lease', 'key text, ttl interval, timeout interval, holder text, slots integer', 'bigint'),
        ('try_lease', 'key text, ttl interval, holder text, slots integer', 'bigint'),
        ('renew_lease', 'key text, token bigint, ttl interval', 'boolean'),
        ('release_lease', 'key text, token bigint', 'boolean'),
        ('holds_lease', 'key text, token bigint', 'boolean'),
        ('revoke_lease', 'key text', 'integer')) AS call(name, arguments, result)
    LOOP
        EXECUTE format($$CREATE FUNCTION @extschema@.%s_at(%s) RETURNS %s LANGUAGE plproxy AS
            'CONNECT @extschema@.connection(server); SELECT @extschema@.%s(%s);'$$,
            call.name, concat_ws(', ', 'server integer', nullif(call.arguments, '')), call.result,
            call.name, regexp_replace(call.arguments, '(\w+) [\w\[\]]+', '\1', 'g'));
        EXECUTE format('COMMENT ON FUNCTION @extschema@.%s_at(%s) IS %L',
            call.name, concat_ws(', ', 'server integer', nullif(call.arguments, '')), call.name || ' on one server.');
    END LOOP;
END $do$;

CREATE FUNCTION renew_leases_at(server integer, keys text[], tokens bigint[], ttl interval,
    OUT key text, OUT token bigint)
RETURNS SETOF record LANGUAGE plproxy AS $$
    CONNECT @extschema@.connection(server);
    SELECT l.k AS key, l.t AS token FROM unnest(keys, tokens) AS l(k, t) WHERE @extschema@.renew_lease(l.k, l.t, ttl);
$$;

COMMENT ON FUNCTION renew_leases_at(integer, text[], bigint[], interval) IS 'renew_leases on one server.';

CREATE FUNCTION locks_at(server integer, OUT key text, OUT lock_id bigint, OUT mode text, OUT scope text,
    OUT granted boolean, OUT depth bigint, OUT pid integer, OUT usename name, OUT application_name text,
    OUT client_addr inet, OUT held_since timestamptz, OUT waiting_since timestamptz, OUT blocked_by integer[],
    OUT token bigint, OUT slot integer, OUT holder text)
RETURNS SETOF record LANGUAGE plproxy AS $$
    CONNECT @extschema@.connection(server);
    SELECT key, lock_id, mode, scope, granted, depth, pid, usename, application_name, client_addr, held_since,
        waiting_since, blocked_by, token, slot, holder
    FROM @extschema@.locks;
$$;

COMMENT ON FUNCTION locks_at(integer) IS 'The view locks of one server.';

CREATE FUNCTION leases_at(server integer, OUT key text, OUT slot integer, OUT token bigint, OUT holder text,
    OUT usename name, OUT acquired_at timestamptz, OUT renewed_at timestamptz, OUT expires_at timestamptz,
    OUT ttl interval, OUT waiters integer)
RETURNS SETOF record LANGUAGE plproxy AS $$
    CONNECT @extschema@.connection(server);
    SELECT key, slot, token, holder, usename, acquired_at, renewed_at, expires_at, ttl, waiters FROM @extschema@.leases;
$$;

COMMENT ON FUNCTION leases_at(integer) IS 'The view leases of one server.';

CREATE FUNCTION clock_at(server integer) RETURNS timestamptz LANGUAGE plproxy AS $$
    CONNECT @extschema@.connection(server);
    SELECT pg_catalog.clock_timestamp();
$$;

COMMENT ON FUNCTION clock_at(integer) IS 'The clock of one server.';

--
-- Locks
--

CREATE FUNCTION acquire(key text, timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    places integer[] := @extschema@.places(key);
    began timestamptz := clock_timestamp();
BEGIN
    IF scope IS DISTINCT FROM 'session' THEN
        PERFORM @extschema@.check_scope(scope);
    END IF;
    IF cardinality(places) = 1 THEN
        RETURN @extschema@.acquire_at(places[1], key, timeout, shared);
    ELSIF NOT @extschema@.acquire_at(places[1], key, timeout, shared) THEN
        RETURN false;
    END IF;
    IF timeout IS NOT NULL THEN
        timeout := greatest(timeout - (clock_timestamp() - began), '0');
    END IF;
    BEGIN
        IF @extschema@.acquire_at(places[2], key, timeout, shared) THEN
            RETURN true;
        END IF;
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        PERFORM @extschema@.release_at(places[1], key, shared);
        RAISE;
    END;
    PERFORM @extschema@.release_at(places[1], key, shared);
    RETURN false;
END $$;

COMMENT ON FUNCTION acquire(text, timeout interval, shared boolean, scope text) IS
'As acquire of the extension postgres_lock, on the server that has the key, at session scope: 0A000 for another. The
lock stays whatever becomes of the transaction and of the statement here. Call release_all() after an error: one that
comes from the server ends the session there with the next call, and all its locks; after a cancel the lock may be held.';

CREATE FUNCTION try(key text, shared boolean = false, scope text = 'session')
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT acquire(key, '0', shared, scope);
END;

COMMENT ON FUNCTION try(text, shared boolean, scope text) IS 'As acquire(text, ...), without waiting.';

CREATE FUNCTION acquire_all(keys text[], timeout interval = NULL, shared boolean = false, scope text = 'session')
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    part record;
    taken text[] := '{}';
    began timestamptz := clock_timestamp();
BEGIN
    PERFORM @extschema@.check_scope(scope);
    IF keys IS NULL THEN
        RAISE 'keys must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    FOR part IN
        SELECT @extschema@.place(key, true) AS place, array_agg(DISTINCT key) AS keys
        FROM unnest(keys) AS key GROUP BY 1 ORDER BY 1
    LOOP
        BEGIN
            IF @extschema@.acquire_all_at(part.place, part.keys,
                CASE WHEN timeout IS NOT NULL AND taken <> '{}'
                    THEN greatest(timeout - (clock_timestamp() - began), '0') ELSE timeout END, shared)
            THEN
                taken := taken || part.keys;
                CONTINUE;
            END IF;
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            BEGIN
                PERFORM @extschema@.release_everywhere('level', taken, shared);
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING '%', SQLERRM;
            END;
            RAISE;
        END;
        PERFORM @extschema@.release_everywhere('level', taken, shared);
        RETURN false;
    END LOOP;
    RETURN true;
END $$;

COMMENT ON FUNCTION acquire_all(text[], timeout interval, shared boolean, scope text) IS
'As acquire_all of the extension postgres_lock, one server after the other in the order of their numbers. On the terms of
acquire(). Error 55006 while one of the keys moves.';

CREATE FUNCTION release(key text, shared boolean = NULL)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    places integer[] := @extschema@.places(key, releasing => true);
    place integer;
    released boolean := false;
BEGIN
    IF cardinality(places) = 1 THEN
        RETURN @extschema@.release_at(places[1], key, shared);
    END IF;
    -- what was taken before the key began to move, or since it has moved, is on one of them
    FOREACH place IN ARRAY places LOOP
        IF @extschema@.held_at(place, key) THEN
            released := @extschema@.release_at(place, key, shared) OR released;
        END IF;
    END LOOP;
    RETURN released;
END $$;

COMMENT ON FUNCTION release(text, shared boolean) IS
'As release of the extension postgres_lock. false also tells that the session on the server was lost, and the lock with it.';

CREATE FUNCTION release_everywhere(what text, keys text[] = NULL, shared boolean = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part record;
    released integer := 0;
    failed integer[] := '{}';
    state text;
    message text;
BEGIN
    FOR part IN
        SELECT server AS place, NULL::text[] AS keys FROM @extschema@.servers WHERE what = 'all'
        UNION ALL
        SELECT place, array_agg(key) FROM unnest(keys) AS key, unnest(@extschema@.places(key, releasing => true)) AS place
        GROUP BY place
        ORDER BY place
    LOOP
        BEGIN
            released := released + CASE what
                WHEN 'all' THEN @extschema@.release_all_at(part.place)
                WHEN 'keys' THEN @extschema@.release_all_at(part.place, part.keys)
                ELSE (SELECT count(*) FILTER (WHERE @extschema@.release_at(part.place, key, shared))
                      FROM unnest(part.keys) AS key)
                END;
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            IF state IS NULL THEN
                GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
            END IF;
            failed := failed || part.place;
        END;
    END LOOP;
    IF state IS NOT NULL THEN
        RAISE '%', message USING ERRCODE = state,
            DETAIL = format('Nothing was released on server %s. On the others, %s levels were.',
                array_to_string(failed, ', '), released),
            HINT = 'Call release_all() again: a session that has ended there has no locks.';
    END IF;
    RETURN released;
END $$;

COMMENT ON FUNCTION release_everywhere(text, text[], shared boolean) IS
'Releases "all", all levels of the "keys", or one "level" of each, and says how many levels that were. It goes through all
servers, and raises the first error after that.';

CREATE FUNCTION release_all()
RETURNS integer LANGUAGE sql
BEGIN ATOMIC
    SELECT release_everywhere('all');
END;

COMMENT ON FUNCTION release_all() IS
'Gives back all locks and slots of this session on all servers, and says how many levels that were. Does not touch leases. If
one of the servers fails, the error comes when those of the others have been given back.';

CREATE FUNCTION release_all(keys text[])
RETURNS integer LANGUAGE sql
BEGIN ATOMIC
    SELECT release_everywhere('keys', keys);
END;

COMMENT ON FUNCTION release_all(text[]) IS 'As release_all(), for the locks of these keys.';

CREATE FUNCTION held(key text)
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT bool_and(held_at(place, key)) FROM unnest(places(key)) AS place;
END;

COMMENT ON FUNCTION held(text) IS
'Whether the lock is held, by a question to its server: false, too, if the session there was lost. While the key moves it is
false for a lock that was taken before.';

CREATE FUNCTION is_free(key text)
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT bool_and(is_free_at(place, key)) FROM unnest(places(key)) AS place;
END;

COMMENT ON FUNCTION is_free(text) IS 'As is_free of the extension postgres_lock.';

CREATE FUNCTION holders(key text)
RETURNS SETOF integer LANGUAGE sql
BEGIN ATOMIC
    SELECT holders_at((places(key))[1], key);
END;

COMMENT ON FUNCTION holders(text) IS 'The process ids of the holders on the server that has the key.';

CREATE FUNCTION token(key text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    places integer[] := @extschema@.places(key);
    token bigint := @extschema@.token_at(places[1], key);
BEGIN
    IF cardinality(places) > 1 AND @extschema@.held_at(places[2], key) THEN
        token := greatest(token, @extschema@.token_at(places[2], key));
    END IF;
    RETURN token;
END $$;

COMMENT ON FUNCTION token(text) IS
'The fencing token of the lock. Tokens of one key are comparable, those of keys on different servers are not.';

--
-- Slots
--

CREATE FUNCTION acquire_slot(key text, slots integer, timeout interval = NULL, scope text = 'session')
RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @extschema@.check_scope(scope);
    RETURN @extschema@.acquire_slot_at(@extschema@.place(key, true), key, slots, timeout);
END $$;

COMMENT ON FUNCTION acquire_slot(text, slots integer, timeout interval, scope text) IS
'As acquire_slot of the extension postgres_lock, on the terms of acquire(). Error 55006 while the key moves.';

CREATE FUNCTION try_slot(key text, slots integer, scope text = 'session')
RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @extschema@.check_scope(scope);
    RETURN @extschema@.try_slot_at(@extschema@.place(key, true), key, slots);
END $$;

COMMENT ON FUNCTION try_slot(text, slots integer, scope text) IS 'As acquire_slot(text, ...), without waiting.';

CREATE FUNCTION release_slot(key text, slot integer)
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT release_slot_at(place(key, false), key, slot);
END;

COMMENT ON FUNCTION release_slot(text, slot integer) IS 'As release_slot of the extension postgres_lock.';

--
-- Leases
--

CREATE FUNCTION acquire_lease(key text, ttl interval = '30s', timeout interval = NULL, holder text = NULL, slots integer = 1)
RETURNS bigint LANGUAGE sql
BEGIN ATOMIC
    SELECT acquire_lease_at(place(key, true), key, ttl, timeout, holder, slots);
END;

COMMENT ON FUNCTION acquire_lease(text, ttl interval, timeout interval, holder text, slots integer) IS
'As acquire_lease of the extension postgres_lock, but it is held at once, and stays whatever becomes of the transaction
here. Error 55006 while the key moves.';

CREATE FUNCTION try_lease(key text, ttl interval = '30s', holder text = NULL, slots integer = 1)
RETURNS bigint LANGUAGE sql
BEGIN ATOMIC
    SELECT try_lease_at(place(key, true), key, ttl, holder, slots);
END;

COMMENT ON FUNCTION try_lease(text, ttl interval, holder text, slots integer) IS 'As acquire_lease(text, ...), without waiting.';

CREATE FUNCTION renew_lease(key text, token bigint, ttl interval = NULL)
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT renew_lease_at(place(key, false), key, token, ttl);
END;

COMMENT ON FUNCTION renew_lease(text, token bigint, ttl interval) IS 'As renew_lease of the extension postgres_lock.';

CREATE FUNCTION renew_leases(keys text[], tokens bigint[], ttl interval = NULL, OUT key text, OUT token bigint)
RETURNS SETOF record LANGUAGE sql
BEGIN ATOMIC
    SELECT renewed.key, renewed.token
    FROM (SELECT place(lease.key, false) AS place, array_agg(lease.key) AS keys, array_agg(lease.token) AS tokens
          FROM unnest(keys, tokens) AS lease(key, token) GROUP BY 1) AS parts,
         renew_leases_at(parts.place, parts.keys, parts.tokens, ttl) AS renewed;
END;

COMMENT ON FUNCTION renew_leases(text[], bigint[], ttl interval) IS
'Renews many leases, with one call to each server that has any of them, and returns those that are still held.';

-- with one parameter: calls with two of unknown types are for the other
CREATE FUNCTION renew_leases(tokens bigint[])
RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'leases cannot be renewed through a proxy without their keys' USING ERRCODE = 'feature_not_supported',
        DETAIL = 'A token does not say which server it is of, and tokens of two servers can be equal.',
        HINT = 'Use @extschema@.renew_leases(keys, tokens, ttl).';
END $$;

COMMENT ON FUNCTION renew_leases(bigint[]) IS 'Error 0A000: see renew_leases(text[], bigint[], ...).';

CREATE FUNCTION release_lease(key text, token bigint)
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT release_lease_at(place(key, false), key, token);
END;

COMMENT ON FUNCTION release_lease(text, token bigint) IS
'As release_lease of the extension postgres_lock, but it is free at once, and not when the transaction here commits.';

CREATE FUNCTION holds_lease(key text, token bigint)
RETURNS boolean LANGUAGE sql
BEGIN ATOMIC
    SELECT holds_lease_at(place(key, false), key, token);
END;

COMMENT ON FUNCTION holds_lease(text, token bigint) IS 'As holds_lease of the extension postgres_lock.';

CREATE FUNCTION revoke_lease(key text)
RETURNS integer LANGUAGE sql
BEGIN ATOMIC
    SELECT revoke_lease_at(place(key, false), key);
END;

COMMENT ON FUNCTION revoke_lease(text) IS 'As revoke_lease of the extension postgres_lock.';

CREATE FUNCTION check_lease(key text, token bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'check_lease is not possible through a proxy' USING ERRCODE = 'feature_not_supported',
        DETAIL = 'It protects the transaction on the server that has the lease, and this one is not there.',
        HINT = 'Write the token along, and refuse one that is less than one seen before.';
END $$;

COMMENT ON FUNCTION check_lease(text, token bigint) IS 'Error 0A000: it must be in the transaction that writes.';

--
-- The same for other types of keys
--

DO $do$
DECLARE
    call record;
    key_type text;
BEGIN
    FOR call IN
        SELECT proname, pg_get_function_identity_arguments(oid) AS identity, pg_get_function_arguments(oid) AS arguments,
               pg_get_function_result(oid) AS result, array_to_string(proargnames[2:], ', ') AS others
        FROM pg_proc
        WHERE pronamespace = '@extschema@'::regnamespace AND proargnames[1] = 'key' AND proargtypes[0] = 'text'::regtype
            AND prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND proname NOT IN ('place', 'places')
    LOOP
        FOREACH key_type IN ARRAY '{bigint,uuid}'::text[] LOOP
            EXECUTE format('CREATE FUNCTION @extschema@.%1$s(%2$s) RETURNS %3$s LANGUAGE sql
                BEGIN ATOMIC SELECT @extschema@.%1$s(%4$s); END',
                call.proname, replace(call.arguments, 'key text', 'key ' || key_type), call.result,
                concat_ws(', ', 'key::text', nullif(call.others, '')));
            EXECUTE format('COMMENT ON FUNCTION @extschema@.%s(%s) IS %L',
                call.proname, replace(call.identity, 'key text', 'key ' || key_type),
                format('As %s(text, ...), for the text of the %s.', call.proname, key_type));
        END LOOP;
    END LOOP;
    FOREACH key_type IN ARRAY '{bigint,uuid}'::text[] LOOP
        EXECUTE format('CREATE FUNCTION @extschema@.lock_id(key %1$s) RETURNS bigint
            AS ''MODULE_PATHNAME'', ''pglock_lock_id_%1$s'' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE', key_type);
        EXECUTE format('COMMENT ON FUNCTION @extschema@.lock_id(%s) IS %L',
            key_type, format('As lock_id(text), for the text of the %s.', key_type));
    END LOOP;
    FOREACH key_type IN ARRAY '{text,bigint,uuid}'::text[] LOOP
        EXECUTE replace($procedures$
CREATE PROCEDURE @extschema@.lock(key KEY, timeout interval = NULL, shared boolean = false, scope text = 'session')
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT @extschema@.acquire(key::text, timeout, shared, scope) THEN
        PERFORM @extschema@.raise_timeout('lock', key::text);
    END IF;
END $$;

COMMENT ON PROCEDURE @extschema@.lock(KEY, timeout interval, shared boolean, scope text) IS
'As acquire(KEY, ...), but a timeout that passes is error 55P03. It waits with a snapshot.';

CREATE PROCEDURE @extschema@.slot(key KEY, slots integer, timeout interval = NULL, scope text = 'session',
    INOUT slot integer = NULL)
LANGUAGE plpgsql AS $$
BEGIN
    slot := @extschema@.acquire_slot(key::text, slots, timeout, scope);
    IF slot IS NULL THEN
        PERFORM @extschema@.raise_timeout('slot of', key::text);
    END IF;
END $$;

COMMENT ON PROCEDURE @extschema@.slot(KEY, slots integer, timeout interval, scope text, INOUT slot integer) IS
'As acquire_slot(KEY, ...), but a timeout that passes is error 55P03. It waits with a snapshot.';

CREATE PROCEDURE @extschema@.lease(key KEY, ttl interval = '30s', timeout interval = NULL, holder text = NULL,
    slots integer = 1, INOUT token bigint = NULL)
LANGUAGE plpgsql AS $$
BEGIN
    token := @extschema@.acquire_lease(key::text, ttl, timeout, holder, slots);
    IF token IS NULL THEN
        PERFORM @extschema@.raise_timeout('lease', key::text);
    END IF;
END $$;

COMMENT ON PROCEDURE @extschema@.lease(KEY, ttl interval, timeout interval, holder text, slots integer, INOUT token bigint) IS
'As acquire_lease(KEY, ...), but a timeout that passes is error 55P03. It waits with a snapshot.';
$procedures$, 'KEY', key_type);
    END LOOP;
END $do$;

--
-- Views
--

CREATE VIEW locks AS
SELECT servers.server, lock.* FROM @extschema@.servers, @extschema@.locks_at(servers.server) AS lock;

GRANT SELECT ON locks TO PUBLIC;

COMMENT ON VIEW locks IS
'The views locks of all servers. If one cannot be reached that is an error: WHERE server <> ... leaves it out.';

CREATE VIEW leases AS
SELECT servers.server, lease.* FROM @extschema@.servers, @extschema@.leases_at(servers.server) AS lease;

GRANT SELECT ON leases TO PUBLIC;

COMMENT ON VIEW leases IS
'The views leases of all servers. If one cannot be reached that is an error: WHERE server <> ... leaves it out.';

--
-- Adding servers
--

CREATE VIEW moving AS
WITH number AS (
    SELECT nullif(count(*) FILTER (WHERE state = 'joined'), 0)::integer AS now, count(*)::integer AS soon
    FROM @extschema@.servers)
SELECT CASE WHEN slot IS NULL THEN 'lock' ELSE 'slot' END AS kind, server, key, pid, held_since, NULL::bigint AS token
FROM number, @extschema@.locks
WHERE granted AND server = lock_id % now AND lock_id % now <> lock_id % soon
UNION ALL
-- the server of a key that is not shown in full is not known
SELECT 'lease', lease.server, lease.key, NULL, lease.acquired_at, lease.token
FROM number, @extschema@.leases AS lease
WHERE now < soon
    AND (lease.server = @extschema@.server_of(lease.key, now) AND lease.server <> @extschema@.server_of(lease.key, soon)
        OR octet_length(lease.key) > 255 OR lease.key = '<insufficient privilege>');

GRANT SELECT ON moving TO PUBLIC;

COMMENT ON VIEW moving IS
'What is held on its old server, of keys that will be on another when the servers that were added have joined.
join_servers() waits for slots and leases to end, and for locks that have been held since before it was called.';

CREATE FUNCTION drawn_at(server integer, key text) RETURNS bigint LANGUAGE plproxy AS $$
    CONNECT @extschema@.connection(server);
    SELECT CASE WHEN @extschema@.try(key) THEN @extschema@.token(key) END;
$$;

COMMENT ON FUNCTION drawn_at(integer, text) IS
'A new fencing token of one server, whose lock is to be released. NULL if another session has that.';

CREATE FUNCTION check_tokens() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    next record;
    latest bigint := 0;
    -- one that nobody can hold
    key text := 'pglock.join_servers ' || gen_random_uuid();
BEGIN
    FOR next IN SELECT server, state FROM @extschema@.servers ORDER BY server LOOP
        DECLARE
            token bigint := @extschema@.drawn_at(next.server, key);
        BEGIN
            PERFORM @extschema@.release_at(next.server, key, NULL);
            IF token IS NULL THEN
                RAISE 'could not draw a token of server %', next.server USING ERRCODE = 'lock_not_available';
            ELSIF next.state = 'joined' THEN
                latest := greatest(latest, token);
            ELSIF token <= latest THEN
                RAISE 'the tokens of server % are % s behind', next.server, round((latest - token) / 1e6, 1)
                    USING ERRCODE = 'object_not_in_prerequisite_state',
                    DETAIL = 'Tokens of the keys that move to it would be less than earlier ones.',
                    HINT = 'Set its clock, or wait that long if the tokens of another server are ahead of the clock.';
            END IF;
        END;
    END LOOP;
END $$;

COMMENT ON FUNCTION check_tokens() IS
'Draws a token on each server: error 55000 if that of one which is about to join is not greater than those of the
others, 55P03 if none could be drawn.';

-- What the procedures that COMMIT ask and do is in functions: these can have a search_path of their own.

CREATE FUNCTION has_old_snapshots(since text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_stat_activity AS other, @extschema@.servers
        WHERE other.datname = current_database() AND other.pid <> pg_backend_pid()
            AND other.backend_type IS DISTINCT FROM 'autovacuum worker' AND age(other.backend_xmin) >= age(servers.xmin)
            AND servers.state = since);
END $$;

COMMENT ON FUNCTION has_old_snapshots(text) IS
'Whether anything goes on that may not have seen that servers are in that state: calls that wait, and old snapshots.';

CREATE FUNCTION clocks() RETURNS timestamptz[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT array_agg(@extschema@.clock_at(server) ORDER BY server) FROM @extschema@.servers);
END $$;

COMMENT ON FUNCTION clocks() IS 'The clocks of all servers.';

CREATE FUNCTION is_moving(clocks timestamptz[] = NULL) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF clocks IS NULL THEN
        RETURN EXISTS (SELECT FROM @extschema@.moving WHERE kind = 'lock');
    END IF;
    RETURN EXISTS (
        SELECT FROM @extschema@.moving WHERE kind <> 'lock' OR held_since IS NULL OR held_since < clocks[server + 1]);
END $$;

COMMENT ON FUNCTION is_moving(timestamptz[]) IS
'Whether any lock is on its old server: or any that was held before these clocks, or a slot, or a lease.';

CREATE FUNCTION versions() RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(SELECT concat_ws(' ', servers.server, servers.connection, servers.state, servers.xmin)
                 FROM @extschema@.servers ORDER BY server);
END $$;

COMMENT ON FUNCTION versions() IS 'What the table of servers has now, to tell whether it has been changed since.';

CREATE FUNCTION begin_settling(versions text[], finish boolean) RETURNS void LANGUAGE plpgsql
SET postgres_lock_proxy.settles = on AS $$
BEGIN
    PERFORM @extschema@.check_tokens();
    IF versions <> @extschema@.versions() THEN
        RAISE 'the table of servers was changed meanwhile' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Call join_servers() again.';
    END IF;
    IF finish THEN
        UPDATE @extschema@.servers SET state = 'settling' WHERE state = 'joining';
    END IF;
END $$;

COMMENT ON FUNCTION begin_settling(text[], boolean) IS
'Checks tokens, and that the table of servers is as it was. If that is all, servers that are joining are settling from now on.';

CREATE FUNCTION end_settling() RETURNS void LANGUAGE plpgsql
SET postgres_lock_proxy.settles = on AS $$
BEGIN
    UPDATE @extschema@.servers SET state = 'joined' WHERE state = 'settling';
END $$;

COMMENT ON FUNCTION end_settling() IS 'Has servers that are settling join.';

CREATE PROCEDURE settle_servers() LANGUAGE plpgsql AS $$
BEGIN
    -- what began before the servers were settling takes locks on both places
    LOOP
        COMMIT;
        EXIT WHEN NOT @extschema@.has_old_snapshots('settling');
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
    LOOP
        COMMIT;
        EXIT WHEN NOT @extschema@.is_moving();
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
    PERFORM @extschema@.end_settling();
END $$;

COMMENT ON PROCEDURE settle_servers() IS
'The end of join_servers(), to be called if that was interrupted: waits until nothing goes on that began
before the servers were settling, and no lock is left on its old server.';

CREATE PROCEDURE join_servers(finish boolean = true) LANGUAGE plpgsql AS $$
DECLARE
    versions text[] := @extschema@.versions();
    clocks timestamptz[];
BEGIN
    LOOP
        COMMIT;
        EXIT WHEN NOT @extschema@.has_old_snapshots('joining');
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;

    -- from now on locks are taken on both places. What has been held since before, by the clock of its server, may have
    -- levels on the old place alone, even if it was taken again on both
    clocks := @extschema@.clocks();
    LOOP
        COMMIT;
        EXIT WHEN NOT @extschema@.is_moving(clocks);
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
    COMMIT;
    -- the first of its transaction, so that no snapshot is older
    LOCK TABLE @extschema@.servers IN SHARE ROW EXCLUSIVE MODE;
    PERFORM @extschema@.begin_settling(versions, finish);
    IF finish THEN
        CALL @extschema@.settle_servers();
    END IF;
END $$;

COMMENT ON PROCEDURE join_servers(boolean) IS
'Has the servers that were added join, once no key that moves has been held since before on its old server; waits for that, as
the view moving shows. finish => false: waits, and leaves it at that: to be called on each of several proxies before any of them
finishes. Not in a transaction block. Errors: 55000 if the tokens of a new server are behind, or the table was changed.';

-- The functions in SQL are bound to what they call.
DO $do$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT pg_proc.oid FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
        WHERE pronamespace = '@extschema@'::regnamespace AND lanname = 'plpgsql' AND proname NOT IN ('settle_servers', 'join_servers')
    LOOP
        EXECUTE format('ALTER ROUTINE %s SET search_path = pg_catalog, pg_temp', routine);
    END LOOP;
END $do$;
