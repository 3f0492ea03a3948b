"""Runs clients against a cluster under Patroni, takes its primary away in several ways, and judges what was recorded:
what make ha does.

  ha.py FOLDER BIN_FOLDER SEED ROUNDS TTL

Each event has clients of its own, and is judged for itself:

- One primary follows another one, or itself: with a synchronous standby, every rule of make chaos holds. Without, a
  lease and a write may be lost, so only locks, slots and tokens are judged.
- Two primaries, since the Patroni of one does nothing: what the old one still grants is judged, and tokens. Plain
  locks are the control: without pglock.synchronous_acquire, both servers grant them. In the end the old one is killed,
  as by a watchdog, or its Patroni starts again and shuts it down. Before that it empties synchronous_standby_names,
  which lets go whatever waits for standbys: that is what "strict" is for, and no lease is safe from it.

FOLDER keeps the histories of what has failed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../chaos")

import psycopg2  # noqa: E402

import grants  # noqa: E402
import rules  # noqa: E402
from client import LEASES, LOCKS  # noqa: E402
from cluster import NODES, Cluster, Failed, wait_until  # noqa: E402
from ending import finish, wait_until_nothing_is_left  # noqa: E402

SECOND = rules.SECOND


class Fleet:
    """Clients, in a folder with their histories."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.seed = seed
        self.processes = []
        # pglock.synchronous_acquire of each, by its number
        self.settings = {}

    def start(self, kind, nodes, setting):
        number = len(self.processes) + 1
        self.settings[number] = setting
        servers = (
            f"host={','.join([nodes[0].folder] * len(nodes))} port={','.join(str(node.port) for node in nodes)} "
            f"user=postgres dbname=postgres connect_timeout=3 target_session_attrs=read-write "
            f"options='-c pglock.synchronous_acquire={setting} -c lock_timeout=500ms'"
        )
        with open(f"{self.folder}/errors.{number}", "wb") as errors:
            worker = subprocess.Popen(
                ["/usr/bin/python3", f"{HERE}/worker.py", str(number), self.seed, self.folder, kind],
                env=os.environ | {"SERVERS": servers},
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )
        self.processes.append(worker)

    def finish(self):
        """Returns what went wrong."""
        return finish(self.folder, dict(enumerate(self.processes, 1)), 60)


class Ha:
    def __init__(self, folder, bin_folder, seed, ttl):
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.cluster = Cluster(f"{folder}/cluster", bin_folder, ttl)
        self.floor = 0
        self.number = 0

    def prepare(self):
        self.cluster.start()
        primary = self.cluster.primary()
        primary.query("CREATE EXTENSION postgres_lock")
        primary.query(
            "CREATE TABLE chaos AS SELECT key, 0::bigint AS value FROM unnest(%s::text[]) AS key", LOCKS + list(LEASES)
        )

    def fleet(self):
        self.number += 1
        folder = f"{self.folder}/histories/{self.number}"
        os.makedirs(folder)
        return Fleet(folder, f"{self.seed} {self.number}")

    # one primary at a time

    def one_primary(self, event, synchronous):
        """Has the primary lost by the event; clients know all servers, and find the one that can be written to."""
        primary = self.cluster.set_synchronous(synchronous)
        fleet = self.fleet()
        nodes = self.cluster.nodes
        setting = "on" if synchronous else "off"
        for i, kind in enumerate(["all", "all", "plain", "leases"]):
            fleet.start(kind, nodes[i % len(nodes) :] + nodes[: i % len(nodes)], setting)
        time.sleep(1.5)
        new = getattr(self, event)(primary)
        wait_until("the new primary grants locks", lambda: grants_locks(new))
        time.sleep(1.5)
        problems = fleet.finish()
        if primary.process.poll() is not None:
            primary.start()
        new = self.cluster.wait_until_whole()
        problems += wait_until_nothing_is_left(new.value)
        given = grants.read(fleet.folder)
        problems += self.judge(fleet, synchronous)
        if new is not primary:
            problems += [("late grant", f"{grant}") for grant in grants.late(given, primary.port, new.port)]
        print(
            f"{event.replace('_', ' ')}, {mode(synchronous)}: no locks for {seconds(grants.longest_gap(given))}, "
            f"no leases for {seconds(grants.longest_gap(given, 'leases'))}; {len(given)} grants",
            flush=True,
        )
        return self.keep_if(problems, fleet)

    def judge(self, fleet, synchronous):
        facts, _ = rules.replay(fleet.folder, True)
        if synchronous:
            self.floor = rules.judge(facts, LEASES, floor=self.floor)
            return facts.violations
        # what was lost with the log: leases, and what was written
        found = [(rule, what) for rule, what in facts.violations if rule in ("error", "slots", "token")]
        facts.violations.clear()
        facts.holds = [hold for hold in facts.holds if hold.key[0] != "lease"]
        rules.exclusion(facts, LEASES)
        self.floor = rules.tokens(facts, self.floor)
        return found + facts.violations

    def switchover(self, primary):
        self.cluster.switch_over(primary)
        return self.cluster.wait_for_primary(primary)

    def crash(self, primary):
        """Patroni starts the server again, and no other takes over."""
        postmaster = primary.postmaster()
        primary.kill_postmaster()
        wait_until("the server is gone", lambda: not grants_locks(primary))
        wait_until("the server is back", lambda: primary.try_value("SELECT NOT pg_is_in_recovery()"))
        assert primary.postmaster() != postmaster
        return primary

    def failover(self, primary):
        """As if its machine was gone."""
        primary.kill_patroni()
        primary.kill_postmaster()
        return self.cluster.wait_for_primary(primary)

    # two primaries

    def two_primaries(self, how, synchronous):
        """Has the primary go on without its Patroni, which is stopped or killed, until another server has taken over.

        Clients know only one of the two servers: they are the programs that don't notice.
        """
        old = self.cluster.set_synchronous(synchronous)
        fleet = self.fleet()
        kinds = [("plain", "off"), ("plain", "off"), ("all", "on"), ("leases", "on")]
        for kind, setting in kinds + [("plain", "on"), ("plain", "strict")] * synchronous:
            fleet.start(kind, [old], setting)
        keeper = Session(old, "on" if synchronous else "off")
        keeper.value("SELECT pglock.acquire('kept')")
        time.sleep(1)
        getattr(old, f"{how}_patroni")()
        new = self.cluster.wait_for_primary(old)
        for kind, setting in kinds:
            fleet.start(kind, [new], setting)
        problems = self.ask_both(old, new, keeper, synchronous)
        time.sleep(2)
        # the control
        wait_until("both have given a lock to somebody", lambda: self.overlaps(fleet) > 3, 30)
        # one that was stopped and goes on may declare itself the primary once more, whoever is that by now
        if how == "stop":
            old.kill_postmaster()
            old.kill_patroni()
        old.start()
        wait_until("the old primary gives up", lambda: not old.try_value("SELECT NOT pg_is_in_recovery()"))
        problems += fleet.finish()
        new = self.cluster.wait_until_whole()
        problems += wait_until_nothing_is_left(new.value)
        problems += self.judge_two(fleet, old, new, synchronous, how)
        return self.keep_if(problems, fleet)

    def ask_both(self, old, new, keeper, synchronous):
        """What sessions of the old server are answered while there is a new one. Returns what should not be so."""
        told = []

        def expect(what, got, wanted):
            if got != wanted:
                told.append(("two primaries", f"{what}: {got}, not {wanted}"))

        plain, confirmed, of_new = Session(old, "off"), Session(old, "on"), Session(new, "off")
        take = "SELECT pglock.acquire(%s)"
        expect("the control: a lock of both", [plain.value(take, "both"), of_new.value(take, "both")], [True, True])
        expect("a lock that was held before", keeper.value("SELECT pglock.held('kept')"), True)
        token = plain.value("SELECT pglock.token('both')", timeout="statement")
        expect("a token is smaller", token == "57014" or token < of_new.value("SELECT pglock.token('both')"), True)
        if not synchronous:
            return told
        expect("a lock with the setting", confirmed.value(take, "confirmed", timeout="lock"), "55P03")
        expect("... is not held", confirmed.value("SELECT count(*) FROM pglock.locks WHERE key = 'confirmed'"), 0)
        expect("a lock that was held before, asked for again", keeper.value(take, "kept", timeout="lock"), "55P03")
        return told

    @staticmethod
    def overlaps(fleet):
        """How often one held what another held at the same time."""
        facts, _ = rules.replay(fleet.folder, True)
        facts.violations.clear()
        rules.exclusion(facts, LEASES)
        return len(facts.violations)

    def judge_two(self, fleet, old, new, synchronous, how):
        given = grants.read(fleet.folder)
        late = grants.late(given, old.port, new.port)
        facts, _ = rules.replay(fleet.folder, True)
        # "strict" refuses where there are no synchronous standbys
        errors = [what for rule, what in facts.violations if rule == "error"]
        problems = [("error", what) for what in errors if "cannot confirm" not in what]
        older, newer = grants.tokens(given, old.port), grants.tokens(given, new.port)
        if not older or not newer or max(older) >= min(newer):
            ends = f"{max(older, default=None)} of the old server, {min(newer, default=None)} of the new"
            problems.append(("token", ends))
        self.floor = max([self.floor, *newer])
        count = Counter("leases" if grant.what == "leases" else fleet.settings[grant.client] for grant in late)
        if synchronous:
            promised = ["strict"] if how == "kill" else ["strict", "on", "leases"]
            problems += [("late grant", f"{count[which]} with {which}") for which in promised if count[which]]
        if synchronous and how == "stop":
            # a read that nothing came of may have been of what was old
            facts.reads.clear()
            facts.violations.clear()
            rules.lost_updates(facts)
            problems += facts.violations
        lasted = max((grant.answered for grant in late), default=0) - (grants.first(given, new.port) or 0)
        print(
            f"two primaries ({how} Patroni), {mode(synchronous)}: both grant plain locks for {seconds(lasted)}, "
            f"{self.overlaps(fleet)} overlaps; late grants: "
            f"{', '.join(f'{which} {count[which]}' for which in ('off', 'on', 'strict', 'leases'))}",
            flush=True,
        )
        return problems

    def keep_if(self, problems, fleet):
        if not problems:
            shutil.rmtree(fleet.folder)
        return problems

    # all of it

    EVENTS = [
        ("one_primary", "switchover", True),
        ("one_primary", "crash", True),
        ("one_primary", "failover", True),
        ("two_primaries", "stop", True),
        ("two_primaries", "kill", True),
        ("one_primary", "failover", False),
        ("two_primaries", "kill", False),
    ]
    MORE = [
        ("one_primary", "switchover", False),
        ("one_primary", "crash", False),
        ("two_primaries", "stop", False),
    ]

    def run(self, rounds):
        """Returns what the first event that has failed found. The first round is the same for all seeds."""
        for number in range(rounds):
            events = self.EVENTS
            if number > 0:
                events = self.random.sample(self.EVENTS + self.MORE, len(self.EVENTS + self.MORE))
            for kind, event, synchronous in events:
                problems = getattr(self, kind)(event, synchronous)
                if problems:
                    return [(f"{event}, {mode(synchronous)}: {rule}", what) for rule, what in problems]
        return []


class Session:
    """A session that stays, and says the SQLSTATE of what fails."""

    def __init__(self, node, setting):
        self.connection = psycopg2.connect(
            node.conninfo(), options=f"-c pglock.synchronous_acquire={setting}", application_name="ha session"
        )
        self.connection.autocommit = True

    def value(self, statement, *parameters, timeout=None):
        with self.connection.cursor() as cursor:
            for name in ("lock", "statement"):
                cursor.execute(f"SET {name}_timeout = '{'500ms' if name == timeout else 0}'")
            try:
                cursor.execute(statement, parameters or None)
                row = cursor.fetchone()
                return row[0] if row else None
            except psycopg2.Error as error:
                return error.pgcode


def grants_locks(node):
    return node.try_value("SELECT pglock.acquire('probe', '1s') AND pglock.release('probe')")


def mode(synchronous):
    return "synchronous" if synchronous else "asynchronous"


def seconds(nanoseconds):
    return f"{nanoseconds / SECOND:.1f} s"


def main():
    folder, bin_folder, seed, rounds, ttl = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(f"{folder}/cluster")
    ha = Ha(folder, bin_folder, seed, int(ttl))
    try:
        began = time.monotonic()
        ha.prepare()
        print(f"{len(NODES)} servers under Patroni after {time.monotonic() - began:.0f} s", flush=True)
        problems = ha.run(int(rounds))
    except Failed as failure:
        problems = [("cluster", str(failure))]
    finally:
        ha.cluster.end()
    for rule, what in problems[:20]:
        print(f"{rule}: {what[:500]}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
