"""Runs clients and the nemesis against a server, and judges what was recorded: what make chaos does.

  chaos.py DATA LOG FOLDER SEED SECONDS CLIENTS

It goes through cycles of at most 30 s, each in four phases: calm, without the nemesis; with sessions and clients
disturbed; with the server, too; and with a synchronous standby that takes over. Each phase begins and ends with nothing
held, and is judged for itself. FOLDER keeps the history of the phase that has failed.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

import history
import rules
from client import LEASES, LOCKS
from ending import finish, wait_until_nothing_is_left
from nemesis import TO_SERVER, TO_SESSIONS, Nemesis, Server
from statements import CONTROLS



@dataclass
class Phase:
    """A share of each cycle. What is to happen `first` happens, however short that is."""

    name: str
    share: float
    first: list
    others: list
    keeps_server: bool


PHASES = [
    Phase("calm", 0.2, [], [], True),
    Phase("sessions disturbed", 0.3, ["kill_client", "cancel_all"], TO_SESSIONS, True),
    Phase("server disturbed", 0.3, TO_SERVER, TO_SESSIONS + 2 * TO_SERVER, False),
    Phase("standby takes over", 0.2, ["fail_over"], TO_SESSIONS, False),
]
CYCLE = 30
SECOND = rules.SECOND
HERE = os.path.dirname(os.path.abspath(__file__))


class Client:
    def __init__(self, number, arguments):
        self.number = number
        self.process = subprocess.Popen(
            ["/usr/bin/python3", f"{HERE}/client.py", str(number), *map(str, arguments)], stdin=subprocess.DEVNULL
        )


class Fleet:
    """The clients that run at the moment. None has a number that another has had."""

    def __init__(self, size, folder, *arguments, seed):
        self.folder = folder
        self.arguments = [seed, folder, *arguments]
        self.started = 0
        self.clients = [self.start() for _ in range(size)]

    def start(self):
        self.started += 1
        return Client(self.started, self.arguments)

    def replace(self, client):
        self.clients[self.clients.index(client)] = self.start()

    def finish(self):
        """Returns what went wrong."""
        return finish(self.folder, {client.number: client.process for client in self.clients}, 30)


class Chaos:
    def __init__(self, data, log, folder, seed, clients):
        self.server = Server(data, log)
        self.log = log
        self.folder = folder
        self.seed = seed
        self.clients = clients
        self.floor = 0
        self.seen = Counter()

    # controls

    def controls(self):
        """Each lie must be found, by the rule for it. Returns those that are not."""
        missed = []
        for name, (_, _, wanted) in CONTROLS.items():
            found = set()
            for _ in range(10):
                found |= self.control(name)
                if wanted <= found:
                    break
            else:
                missed.append(f"the control \"{name}\" was not found by the rule {', '.join(wanted - found)}")
        return missed

    def control(self, name):
        folder = self.make_folder("control")
        fleet = Fleet(4, folder, name, seed=self.seed)
        time.sleep(1)
        fleet.finish()
        wait_until_nothing_is_left(self.server.value)
        facts, _ = rules.check(folder, LEASES)
        shutil.rmtree(folder)
        return {rule for rule, _ in facts.violations}

    # phases

    def run(self, seconds):
        """Returns the violations of the first phase that has any."""
        left = seconds
        cycle = 0
        while left > 0:
            length = min(left, CYCLE)
            left -= length
            cycle += 1
            for phase in PHASES:
                violations = self.phase(phase, f"{self.seed} {cycle} {phase.name}", length * phase.share)
                if violations:
                    return [(rule, f"{what} ({phase.name}, cycle {cycle})") for rule, what in violations]
        return []

    def phase(self, phase, seed, seconds):
        folder = self.make_folder("phase")
        self.server.query("SELECT pglock.contention_reset()")
        size = self.server.value("SELECT pglock.registry_size()")
        until = history.now() + int(seconds * SECOND)
        fleet = Fleet(self.clients, folder, seed=seed)
        Nemesis(seed, self.server, fleet, folder).run(until, phase.first, phase.others)
        violations = fleet.finish()
        violations += wait_until_nothing_is_left(self.server.value, size if phase.keeps_server else None)
        counted = self.counted() if phase.keeps_server else None
        facts, self.floor = rules.check(folder, LEASES, bool(phase.first), self.floor, counted)
        self.add_up(folder, facts)
        violations += facts.violations + self.crashes()
        if not violations:
            shutil.rmtree(folder)
        return violations

    def make_folder(self, name):
        folder = f"{self.folder}/{name}"
        os.mkdir(folder)
        return folder

    def counted(self):
        rows = self.server.query(
            """SELECT of_slots, sum(waits), sum(timeouts), sum(deadlocks), sum(cancels)
            FROM pglock.contention GROUP BY of_slots"""
        )
        return {
            (what, of_slots): number
            for of_slots, *numbers in rows
            for what, number in zip(("waits", "timeouts", "deadlocks", "cancels"), map(int, numbers))
        }

    def crashes(self):
        """Of the server, other than the nemesis has made."""
        with open(self.log, encoding="utf8", errors="replace") as file:
            return [
                ("error", line.strip())
                for line in file
                if "TRAP:" in line or "PANIC" in line or ("by signal" in line and "signal 9" not in line)
            ]

    # what there was

    def add_up(self, folder, facts):
        self.seen += facts.seen
        self.seen["checked", "holds"] += len(facts.holds)
        self.seen["used", "tokens drawn"] += len(facts.draws)
        self.seen["used", "written under a lock or lease"] += len(facts.writes)
        for event in history.read(f"{folder}/nemesis"):
            if event["event"] == "nemesis":
                self.seen["disturbed by", event["kind"]] += 1

    def report(self):
        for kind in ("sent", "checked", "taken", "used", "refused", "lost", "disturbed by"):
            counts = [f"{count} {what}" for (of, what), count in sorted(self.seen.items()) if of == kind]
            print(f"{kind + ':':13} {', '.join(counts)}")

    # what must have been there for anything to be proved
    WANTED = {
        "taken": [f"{what} (session)" for what in ("locks", "shared locks", "slots")]
        + [f"{what} (transaction)" for what in ("locks", "shared locks", "slots")]
        + ["leases"],
        "used": ["leases renewed", "leases checked", "tokens drawn", "written under a lock or lease"],
        "refused": ["55P03", "57014"],
        "lost": ["sessions"],
        "disturbed by": TO_SERVER + ["kill_client", "cancel_all", "fail_over"],
    }

    def lacking(self):
        return [
            f"{kind}: no {what}"
            for kind, all_of in self.WANTED.items()
            for what in all_of
            if not self.seen[kind, what]
        ]


def first_of_each(violations, most):
    """What is worth reading: one fault may break many rules, and often."""
    shown = Counter()
    for rule, what in violations:
        shown[rule] += 1
        if shown[rule] <= most:
            yield rule, what[:500]


def main():
    data, log, folder, seed, seconds, clients = sys.argv[1:]
    chaos = Chaos(data, log, folder, seed, int(clients))
    chaos.server.query(
        "CREATE TABLE chaos AS SELECT key, 0::bigint AS value FROM unnest(%s::text[]) AS key", LOCKS + list(LEASES)
    )
    missed = chaos.controls()
    if not missed:
        print(f"the controls are found: {', '.join(CONTROLS)}", flush=True)
    violations = chaos.run(int(seconds))
    chaos.report()
    problems = missed + [f"{rule}: {what}" for rule, what in first_of_each(violations, 5)]
    problems = problems or [f"too little for a proof: {what}" for what in chaos.lacking()]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
