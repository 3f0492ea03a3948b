"""What clients send for each call, and the lies that the controls put in its place."""

STATEMENTS = {
    "begin": "BEGIN",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "savepoint": "SAVEPOINT s",
    "rollback_to": "ROLLBACK TO s",
    "acquire": "SELECT pglock.acquire(%(key)s, %(timeout)s::interval, %(shared)s, %(scope)s)",
    "try": "SELECT pglock.try(%(key)s, %(shared)s, %(scope)s)",
    "lock": "CALL pglock.lock(%(key)s, %(timeout)s::interval, %(shared)s, %(scope)s)",
    "acquire_all": "SELECT pglock.acquire_all(%(keys)s, %(timeout)s::interval, %(shared)s, %(scope)s)",
    "release": "SELECT pglock.release(%(key)s, %(shared)s)",
    "release_all": "SELECT pglock.release_all()",
    "held": "SELECT pglock.held(%(key)s)",
    "token": "SELECT pglock.token(%(key)s)",
    "acquire_slot": "SELECT pglock.acquire_slot(%(key)s, %(slots)s, %(timeout)s::interval, %(scope)s)",
    "try_slot": "SELECT pglock.try_slot(%(key)s, %(slots)s, %(scope)s)",
    "slot": "CALL pglock.slot(%(key)s, %(slots)s, %(timeout)s::interval, %(scope)s)",
    "release_slot": "SELECT pglock.release_slot(%(key)s, %(slot)s)",
    "acquire_lease": "SELECT pglock.acquire_lease(%(key)s, %(ttl)s::interval, %(timeout)s::interval, NULL, %(slots)s)",
    "try_lease": "SELECT pglock.try_lease(%(key)s, %(ttl)s::interval, slots => %(slots)s)",
    "lease": "CALL pglock.lease(%(key)s, %(ttl)s::interval, %(timeout)s::interval, slots => %(slots)s)",
    "renew": "SELECT pglock.renew_lease(%(key)s, %(token)s, %(ttl)s::interval)",
    "renew_all": "SELECT array_agg(token) FROM pglock.renew_leases(%(tokens)s::bigint[], %(ttl)s::interval) AS token",
    "check": "SELECT pglock.check_lease(%(key)s, %(token)s)",
    "holds_lease": "SELECT pglock.holds_lease(%(key)s, %(token)s)",
    "release_lease": "SELECT pglock.release_lease(%(key)s, %(token)s)",
    "read": "SELECT value FROM chaos WHERE key = %(key)s",
    "write": "UPDATE chaos SET value = %(new)s WHERE key = %(key)s",
}

ANY_TAKEN = {name: f"SELECT {answer}" for name, answer in (("release", "true"), ("held", "true"), ("release_all", "0"))}
NO_LOCK = {name: "SELECT true" for name in ("acquire", "try", "lock", "acquire_all")}
RELEASED_EARLY = {
    name: f"SELECT pglock.{name}({arguments}) AND pglock.release(%(key)s)"
    for name, arguments in (
        ("acquire", "%(key)s, %(timeout)s::interval, %(shared)s"),
        ("try", "%(key)s, %(shared)s"),
    )
}
PAST_DEADLINE = {
    name: STATEMENTS[name].replace("%(ttl)s::interval", "%(ttl)s::interval / 10")
    for name in ("acquire_lease", "try_lease", "lease", "renew")
}
ONE_SLOT_MORE = {
    name: STATEMENTS[name].replace("%(slots)s", "%(slots)s + 1") for name in ("acquire_slot", "try_slot", "slot")
}

# name: the statements that are replaced, the only activity of the clients, and the rules that must find it
CONTROLS = {
    "no lock at all": (NO_LOCK | ANY_TAKEN, "lock", {"exclusion", "lost update"}),
    "a lock released early": (RELEASED_EARLY | ANY_TAKEN | {"lock": "SELECT NULL"}, "lock", {"exclusion"}),
    "a token reused": ({"token": "SELECT 1764000000000000"}, "lock", {"token"}),
    "a token that goes back": ({"token": "SELECT 4e15::bigint - pglock.token(%(key)s)"}, "lock", {"token"}),
    "a lease past its deadline": (PAST_DEADLINE, "lease", {"exclusion"}),
    "one slot too many": (ONE_SLOT_MORE, "slot", {"slots"}),
}
