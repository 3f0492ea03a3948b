"""The end of a trial: all clients end, and nothing is left on the server."""

import subprocess
import time


def finish(folder, processes, seconds):
    """Has the clients end whose processes these are, by their numbers. Returns what went wrong: each ends by itself,
    and not by an exception."""
    problems = []
    open(f"{folder}/over", "w", encoding="utf8").close()
    deadline = time.monotonic() + seconds
    for number, process in processes.items():
        try:
            status = process.wait(max(0.1, deadline - time.monotonic()))
            if status != 0:
                problems.append(("error", f"client {number} ended with {status}"))
        except subprocess.TimeoutExpired:
            problems.append(("left over", f"client {number} still waits"))
            process.kill()
            process.wait()
    return problems


def wait_until_nothing_is_left(value, size=None):
    """Returns what is left after a while. `value` asks the server for a number. The registry must not be larger than
    that, if it is given."""
    left = {
        "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "rows of pglock.locks": "SELECT count(*) FROM pglock.locks",
        "leases": "SELECT count(*) FROM pglock.leases",
    }
    if size is not None:
        left["bytes of the registry more"] = f"SELECT pglock.registry_size() - {size}"
    deadline = time.monotonic() + 15
    while True:
        counts = {what: value(query) for what, query in left.items()}
        if not any(counts.values()):
            return []
        if time.monotonic() > deadline:
            return [("left over", f"{count} {what}") for what, count in counts.items() if count]
        time.sleep(0.02)
