"""What a history says for certain.

A client is replayed call by call. What counts is what must be so whatever happened on the way:

- A hold of a session begins when the answer of the call that took it has come, not before. It lasts until its release
  (or the end of its transaction) is sent. If the session is lost before, it lasts until the last call was sent that
  was answered: the session lived then, since it answered. Nothing is known of what came later.
- A hold by a lease begins likewise, or with the answer of the COMMIT, and lasts until its time, counted from before
  the call was sent that took or last renewed it; whatever becomes of sessions and servers. If a renewal or a release
  is answered with true after that time, nobody can have had the lease meanwhile: the hold lasted until that was sent.
  One that check_lease has answered for lasts until the end of that transaction is sent.
- A call that was not answered, as the session was lost, may have done what was asked, or not. One that was answered
  with an error has taken nothing; but what it was to give back may be given back.

Holds, draws of tokens and writes go to `facts`, which rules.py judges for all clients together. What one client alone
can see to be wrong is judged here: that what is held is held, that nothing else is, and that errors are expected.
"""

from collections import Counter
from dataclasses import dataclass, field

FAR = 1 << 62


@dataclass
class Hold:
    """`owner` took `key` with certainty from `start` to `end`; exclusively, or as a reader."""

    key: tuple
    owner: object
    exclusive: bool
    start: int
    end: int


@dataclass
class Draw:
    """A token that was drawn between two moments, in one hold."""

    token: int
    start: int
    end: int
    key: tuple


@dataclass
class Write:
    """`value` was written by a transaction that has committed."""

    key: str
    value: int
    end: int


@dataclass
class Read:
    key: str
    value: int
    start: int


@dataclass
class Facts:
    holds: list = field(default_factory=list)
    draws: list = field(default_factory=list)
    writes: list = field(default_factory=list)
    reads: list = field(default_factory=list)
    violations: list = field(default_factory=list)
    # pid: (began, ended) of each session that had it
    sessions: dict = field(default_factory=dict)
    # what pglock.contention has to say of locks (False) and slots (True): at least, and at most
    least: Counter = field(default_factory=Counter)
    most: Counter = field(default_factory=Counter)
    # (what kind, what): how often
    seen: Counter = field(default_factory=Counter)

    def violation(self, rule, what, at):
        self.violations.append((rule, f"{what}, at {at}"))


@dataclass
class Level:
    """What one call took, in which part of its transaction. `maybe`: a release of it was not answered."""

    key: tuple
    exclusive: bool
    scope: str
    since: int
    part: object
    maybe: bool = False


@dataclass(eq=False)
class Part:
    """What a transaction has done since it began, or since a savepoint: undone with it."""

    writes: list = field(default_factory=list)
    # calls that took a lease, and the tokens
    leases: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    releases: list = field(default_factory=list)


@dataclass
class Lease:
    key: str
    token: int
    since: int
    ttl: int
    until: int
    # what was asked of it was not answered
    maybe: bool = False


# those that may be raised by a call: any of them when sessions are disturbed
DISTURBED = {"57014", "55P03"}
WAITING = {"40P01"}
EXPECTED = {
    "lock": WAITING | {"55P03"},
    "acquire": WAITING,
    "acquire_all": WAITING,
    "slot": WAITING | {"55P03", "55000"},
    "acquire_slot": WAITING | {"55000"},
    "acquire_lease": WAITING,
    "lease": WAITING | {"55P03"},
    "check": WAITING | {"55000"},
    "release_lease": WAITING,
}


class Client:
    """Replays one history."""

    def __init__(self, number, facts, disturbed):
        self.number = number
        self.facts = facts
        self.disturbed = disturbed
        self.leases = {}
        # tokens of leases that have ended, or never were, for certain
        self.ended = set()
        self.sessions = 0
        self.pid = None

    def replay(self, events, killed_at=FAR):
        for event in events:
            getattr(self, event["event"])(event)
        # what the last events say is all there is
        if self.pid is not None:
            self.lose(killed_at)
        for lease in list(self.leases.values()):
            self.end_lease(lease, FAR)

    # sessions

    def connect(self, event):
        self.sessions += 1
        self.owner = (self.number, self.sessions)
        self.pid = event["pid"]
        self.began = self.alive = event["at"]
        self.levels = []
        # of a lock that is held exclusively: the first token that was drawn, and from when on it may have been
        self.tokens = {}
        self.pending = None
        # by a pipeline, and not answered
        self.sent = []
        # of the transaction block, if there is one
        self.parts = []

    def lost(self, event):
        self.facts.seen["lost", "sessions"] += 1
        self.lose(event["at"])

    def close(self, event):
        self.lose(event["at"])

    def lose(self, at):
        if self.pending:
            self.unanswered(self.pending)
            self.pending = None
        for call in self.sent:
            self.unanswered(call)
        self.sent = []
        for level in list(self.levels):
            self.end_level(level, self.alive)
        for part in self.parts:
            self.end_checks(part, self.alive)
            for lease in part.releases:
                lease.maybe = True
                self.end_lease(lease, self.alive)
        self.facts.sessions.setdefault(self.pid, []).append((self.began, at))
        self.pid = None

    # calls

    def pipeline(self, event):
        self.sent = event["calls"]

    def pipeline_end(self, _):
        self.sent = []

    def call(self, event):
        self.pending = event
        self.sent = self.sent[1:]
        self.facts.seen["sent", "calls"] += 1

    def answer(self, event):
        call, self.pending = self.pending, None
        self.alive = call["at"]
        self.count_answered(call, event["value"])
        getattr(self, "answered_" + call["call"])(call, event["value"], event["at"])

    def error(self, event):
        call, self.pending = self.pending, None
        sqlstate = event["sqlstate"]
        self.alive = call["at"]
        self.facts.seen["refused", sqlstate] += 1
        if sqlstate not in EXPECTED.get(call["call"], set()) | (DISTURBED if self.disturbed else set()):
            said = event.get("message", sqlstate)
            self.facts.violation("error", f"{call['call']} of {self.owner} failed: {said}", event["at"])
        self.count_failed(call, sqlstate)
        if call["call"] == "check" and sqlstate == "55000":
            self.must_have_ended(call, event["at"])
        self.unanswered(call, is_lost=False)
        for part in self.parts if call["call"] == "commit" else self.parts[-1:]:
            self.undo(part, call["at"])

    def unanswered(self, call, is_lost=True):
        """What may have been done, and by an error may have been given back."""
        name = call["call"]
        if is_lost:
            self.count_lost(call)
        if name in ("release", "release_slot", "release_all"):
            for level in [level for level in self.levels if level.scope == "session" and self.is_meant(level, call)]:
                if not level.maybe:
                    self.record(level, call["at"] if not is_lost else self.alive)
                level.maybe = True
        elif name in ("renew", "renew_all"):
            for token in call.get("tokens", [call.get("token")]):
                if lease := self.leases.get(token):
                    lease.ttl = min(lease.ttl, call["ttl"] or lease.ttl)
                    lease.until = min(lease.until, call["at"] + lease.ttl)
        elif name == "release_lease" and call["token"] in self.leases and not self.parts:
            lease = self.leases[call["token"]]
            lease.maybe = True
            self.end_lease(lease, call["at"])
        elif name == "token":
            self.tokens.setdefault(self.lock(call), (None, call["at"]))

    @staticmethod
    def is_meant(level, call):
        if call["call"] == "release_all":
            return True
        if call["call"] == "release_slot":
            return level.key == ("slot", call["key"], call["slot"])
        return level.key == ("lock", call["key"])

    # levels

    @staticmethod
    def lock(call):
        return ("lock", call["key"])

    def record(self, level, end):
        if end > level.since:
            self.facts.holds.append(Hold(level.key, self.owner, level.exclusive, level.since, end))

    def end_level(self, level, end):
        self.levels.remove(level)
        if not level.maybe:
            self.record(level, end)
        if not any(other.key == level.key and other.exclusive for other in self.levels):
            self.tokens.pop(level.key, None)

    def take(self, key, call, exclusive, at):
        self.levels.append(Level(key, exclusive, call["scope"], at, self.parts[-1] if self.parts else None))
        kind = key[0] if exclusive else "shared " + key[0]
        self.facts.seen["taken", f"{kind}s ({call['scope']})"] += 1

    def of_key(self, key):
        return [level for level in self.levels if level.key == key]

    def answered_acquire(self, call, value, at):
        if value:
            self.take(self.lock(call), call, not call["shared"], at)

    answered_try = answered_acquire

    def answered_lock(self, call, _, at):
        self.answered_acquire(call, True, at)

    def answered_acquire_all(self, call, value, at):
        for key in call["keys"] if value else []:
            self.take(("lock", key), call, not call["shared"], at)

    def answered_release(self, call, value, at):
        key = self.lock(call)
        mine = [level for level in self.of_key(key) if level.scope == "session" and level.exclusive != call["shared"]]
        if value and mine:
            self.end_level(mine[-1], call["at"])
        elif value or any(not level.maybe for level in mine):
            self.facts.violation("presence", f"release of {key} by {self.owner} answered {value}", at)

    def answered_release_all(self, call, value, at):
        mine = [level for level in self.levels if level.scope == "session"]
        least = sum(not level.maybe for level in mine)
        if not least <= value <= len(mine):
            answer = f"{value}, not {least} to {len(mine)}"
            self.facts.violation("presence", f"release_all by {self.owner} answered {answer}", at)
        for level in mine:
            self.end_level(level, call["at"])

    def answered_held(self, call, value, at):
        levels = self.of_key(self.lock(call))
        if value != bool(levels) and not any(level.maybe for level in levels):
            self.facts.violation("presence", f"held of {call['key']} by {self.owner} answered {value}", at)

    def answered_token(self, call, value, at):
        key = self.lock(call)
        if not any(level.exclusive for level in self.of_key(key)):
            self.facts.violation("presence", f"{self.owner} got a token without the lock {key}", at)
        if any(level.maybe for level in self.of_key(key)):
            # nobody knows whether this is still the hold that it was
            return
        token, start = self.tokens.get(key, (None, call["at"]))
        if token is None:
            self.facts.draws.append(Draw(value, start, at, key))
        elif token != value:
            self.facts.violation("token", f"{token} became {value} in one hold of {key} by {self.owner}", at)
        self.tokens[key] = (value, start)

    # slots

    def answered_acquire_slot(self, call, value, at):
        if value is None:
            return
        key = ("slot", call["key"], value)
        if not 1 <= value <= call["slots"]:
            self.facts.violation("slots", f"{self.owner} got {key} of {call['slots']}", at)
        if any(not level.maybe for level in self.of_key(key)):
            self.facts.violation("slots", f"{self.owner} got {key} twice", at)
        self.take(key, call, True, at)

    answered_try_slot = answered_slot = answered_acquire_slot

    def answered_release_slot(self, call, value, at):
        mine = [level for level in self.of_key(("slot", call["key"], call["slot"])) if level.scope == "session"]
        if value and mine:
            self.end_level(mine[-1], call["at"])
        elif value or any(not level.maybe for level in mine):
            self.facts.violation("presence", f"release_slot of {call['key']} by {self.owner} answered {value}", at)

    # blocks

    def answered_begin(self, *_):
        self.parts = [Part()]

    def answered_savepoint(self, *_):
        self.parts.append(Part())

    def answered_rollback_to(self, call, *_):
        self.undo(self.parts[-1], call["at"])

    def answered_rollback(self, call, *_):
        for part in reversed(self.parts):
            self.undo(part, call["at"])
        self.parts = []

    def answered_commit(self, call, _, at):
        for part in self.parts:
            self.end_part(part, call["at"])
            self.facts.writes += [Write(key, value, at) for key, value in part.writes]
            for acquired, token in part.leases:
                self.add_lease(acquired, token, at)
            for lease in part.releases:
                self.end_lease(lease, call["at"])
        self.parts = []

    def end_part(self, part, at):
        for level in [level for level in self.levels if level.scope == "transaction" and level.part is part]:
            self.end_level(level, at)
        self.end_checks(part, at)

    @staticmethod
    def end_checks(part, at):
        for lease in part.checks:
            lease.until = max(lease.until, at)

    def undo(self, part, at):
        """It is empty after that: a savepoint stays, and a block that has failed."""
        self.end_part(part, at)
        self.ended |= {token for _, token in part.leases}
        part.writes, part.leases, part.checks, part.releases = [], [], [], []

    # data

    def answered_read(self, call, value, _):
        self.facts.reads.append(Read(call["key"], value, call["at"]))

    def answered_write(self, call, _, at):
        if self.parts:
            self.parts[-1].writes.append((call["key"], call["new"]))
        else:
            self.facts.writes.append(Write(call["key"], call["new"], at))

    # leases

    def answered_acquire_lease(self, call, token, at):
        if token is None:
            return
        self.facts.draws.append(Draw(token, call["at"], at, ("lease", call["key"])))
        if self.parts:
            self.parts[-1].leases.append((call, token))
        else:
            self.add_lease(call, token, at)

    answered_try_lease = answered_lease = answered_acquire_lease

    def add_lease(self, call, token, at):
        self.facts.seen["taken", "leases"] += 1
        self.leases[token] = Lease(call["key"], token, at, call["ttl"], call["at"] + call["ttl"])

    def end_lease(self, lease, end):
        if self.leases.pop(lease.token, None) is None:
            return
        if not lease.maybe:
            self.ended.add(lease.token)
        end = min(lease.until, end)
        if end > lease.since:
            self.facts.holds.append(Hold(("lease", lease.key), lease.token, True, lease.since, end))

    def must_have_ended(self, call, at, token=None):
        """The server has said that the lease is over, or held by another."""
        lease = self.leases.get(token or call["token"])
        if lease is None:
            return
        if at < lease.until:
            self.facts.violation("presence", f"{call['call']} of lease {lease} was refused before its time", at)
        self.end_lease(lease, call["at"])

    def lives(self, call, at, token=None):
        """The server has said that it is held, and nobody else had it meanwhile; returns it."""
        token = token or call["token"]
        if token in self.ended:
            self.facts.violation("presence", f"{call['call']} of a lease that has ended was answered: {token}", at)
        lease = self.leases.get(token)
        if lease:
            lease.until = max(lease.until, call["at"])
        return lease

    def answered_renew(self, call, value, at):
        self.renewed(call, call["token"], value, at)

    def answered_renew_all(self, call, value, at):
        for token in call["tokens"]:
            self.renewed(call, token, token in (value or []), at)

    def renewed(self, call, token, is_held, at):
        if not is_held:
            self.must_have_ended(call, at, token)
        elif lease := self.lives(call, at, token):
            lease.ttl = call["ttl"] or lease.ttl
            lease.until = call["at"] + lease.ttl
            self.facts.seen["used", "leases renewed"] += 1

    def answered_holds_lease(self, call, value, at):
        if value:
            self.lives(call, at)
        elif call["token"] in self.leases and at < self.leases[call["token"]].until:
            self.must_have_ended(call, at)

    def answered_check(self, call, _, at):
        lease = self.lives(call, at)
        if lease:
            self.parts[-1].checks.append(lease)
            self.facts.seen["used", "leases checked"] += 1

    def answered_release_lease(self, call, value, at):
        if not value:
            return self.must_have_ended(call, at)
        lease = self.lives(call, at)
        if lease and self.parts:
            self.parts[-1].releases.append(lease)
        elif lease:
            self.end_lease(lease, call["at"])

    # what pglock.contention counts of it

    def waits(self, call):
        """For how many locks (or slots, which say so) the call may have waited."""
        name = call["call"]
        is_slot = "slot" in name
        if name not in ("acquire", "lock", "acquire_all", "acquire_slot", "slot") or call["timeout"] == 0:
            # before PostgreSQL 17 a reader that tries to become a writer may wait for a moment
            is_upgrade = name in ("try", "acquire_all", "acquire", "lock") and not call["shared"]
            return is_slot, 1 if is_upgrade and any(not level.exclusive for level in self.levels) else 0
        return is_slot, len(call.get("keys", [0]))

    def count_possible(self, call, *outcomes):
        is_slot, waits = self.waits(call)
        self.facts.most["waits", is_slot] += waits
        for outcome in outcomes if waits else []:
            self.facts.most[outcome, is_slot] += 1

    def count_certain(self, call, outcome):
        is_slot, _ = self.waits(call)
        self.facts.least["waits", is_slot] += 1
        self.facts.least[outcome, is_slot] += 1

    def count_answered(self, call, value):
        refused = value is None if "slot" in call["call"] else value is False
        if refused and call.get("timeout") != 0 and "try" not in call["call"]:
            if call["call"] in ("acquire", "acquire_all", "acquire_slot"):
                self.count_certain(call, "timeouts")
        self.count_possible(call, *(["timeouts"] if refused else []))

    def count_failed(self, call, sqlstate):
        outcomes = {"55P03": "timeouts", "40P01": "deadlocks"}
        if sqlstate in outcomes and self.waits(call)[1] > 0 and call.get("timeout") != 0:
            self.count_certain(call, outcomes[sqlstate])
            self.count_possible(call, outcomes[sqlstate])
        else:
            self.count_possible(call, "timeouts", "cancels")

    def count_lost(self, call):
        self.count_possible(call, "timeouts", "deadlocks", "cancels")
