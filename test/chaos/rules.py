"""The rules, over what model.py says that all clients have held, drawn, written and read for certain.

  exclusion    while one holds a key exclusively nobody else holds it, and never do more hold a lease of a key than it
               has slots
  slots        nobody gets a slot that another holds, or that is not there
  presence     what is held is held, what is not is not, and what is to be given back is there
  token        of two draws, one after the other, the later token is greater; no two holds have one token, and a hold
               has one for ever
  lost update  nobody writes over what he has not read, under an exclusive lock or with a lease that is checked
  lost session when a session has ended, and a grace is over, nothing of it is locked any more
  contention   pglock.contention has counted each timeout and each deadlock that a client was told of, and nothing that
               cannot have been
  error        no call fails with an error other than those that may happen to it
  left over    at the end nothing is locked, listed or waited for

Whether holds exclude each other is a question of intervals here, and no search for an order is needed, as checkers
of linearizability do: each hold has an owner, and none is certain that need not be.
"""

import glob
import os
from collections import defaultdict

import history
import model

SECOND = 1_000_000_000
GRACE = 5 * SECOND


def exclusion(facts, slots):
    by_key = defaultdict(list)
    for hold in facts.holds:
        by_key[hold.key].append(hold)
    for key, holds in by_key.items():
        rule = "slots" if key[0] == "slot" else "exclusion"
        room = slots.get(key[1], 1) if key[0] == "lease" else 1
        current = []
        for hold in sorted(holds, key=lambda hold: hold.start):
            current = [other for other in current if other.end > hold.start]
            against = [
                other for other in current if other.owner != hold.owner and (other.exclusive or hold.exclusive)
            ]
            if len(against) >= room:
                facts.violation(rule, f"{hold} beside {against}", hold.start)
            current.append(hold)


def tokens(facts, floor=0):
    """Returns the greatest."""
    greatest = floor
    seen = {}
    ended = sorted(facts.draws, key=lambda draw: draw.end)
    i = 0
    for draw in sorted(facts.draws, key=lambda draw: draw.start):
        while i < len(ended) and ended[i].end < draw.start:
            greatest = max(greatest, ended[i].token)
            i += 1
        if draw.token in seen:
            facts.violation("token", f"{draw} and {seen[draw.token]} have one token", draw.end)
        elif draw.token <= greatest:
            facts.violation("token", f"{draw} comes after {greatest}", draw.end)
        seen[draw.token] = draw
    return max([floor, *seen])


def lost_updates(facts):
    written = {}
    for write in facts.writes:
        if (write.key, write.value) in written:
            facts.violation("lost update", f"{write} and {written[write.key, write.value]}", write.end)
        written[write.key, write.value] = write
    writes = sorted(facts.writes, key=lambda write: write.end)
    last = {}
    i = 0
    for read in sorted(facts.reads, key=lambda read: read.start):
        while i < len(writes) and writes[i].end < read.start:
            last[writes[i].key] = max(last.get(writes[i].key, 0), writes[i].value)
            i += 1
        if read.value < last.get(read.key, 0):
            facts.violation("lost update", f"{read} has not seen {last[read.key]}", read.start)


def lost_sessions(facts, snapshots):
    """`snapshots` say which sessions had locks at some moment between two."""
    for snapshot in snapshots:
        for pid in snapshot["pids"]:
            # a pid may come again
            lives = [life for life in facts.sessions.get(pid, []) if life[0] <= snapshot["at"]]
            if lives and all(ended + GRACE < snapshot["asked"] for _, ended in lives):
                facts.violation("lost session", f"session {pid}, of {lives}, has locks", snapshot["asked"])


def contention(facts, counted):
    """`counted`: (what, of slots): number, of a phase in which the server was not restarted."""
    for of_slots in (False, True):
        for what in ("waits", "timeouts", "deadlocks", "cancels"):
            least, most = facts.least[what, of_slots], facts.most[what, of_slots]
            number = counted.get((what, of_slots), 0)
            if not least <= number <= most:
                of = "slots" if of_slots else "locks"
                facts.violation("contention", f"{number} {what} of {of}, not {least} to {most}", 0)


def replay(folder, disturbed):
    facts = model.Facts()
    killed = {}
    snapshots = []
    nemesis = os.path.join(folder, "nemesis")
    for event in history.read(nemesis) if os.path.exists(nemesis) else []:
        if event["event"] == "killed":
            killed[event["client"]] = event["at"]
        elif event["event"] == "snapshot":
            snapshots.append(event)
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "client.*"))):
        number = int(path.rsplit(".", 1)[1])
        model.Client(number, facts, disturbed).replay(history.read(path), killed.get(number, model.FAR))
    return facts, snapshots


def judge(facts, slots, snapshots=(), floor=0, counted=None):
    """Adds what is wrong to the facts. Returns the greatest token."""
    exclusion(facts, slots)
    lost_updates(facts)
    lost_sessions(facts, snapshots)
    if counted is not None:
        contention(facts, counted)
    return tokens(facts, floor)


def check(folder, slots, disturbed=True, floor=0, counted=None):
    """The facts of the histories in a folder, with all that is wrong, and the greatest token."""
    facts, snapshots = replay(folder, disturbed)
    return facts, judge(facts, slots, snapshots, floor, counted)
