# What the recipes for leases of Python's drivers share. `ask` runs a call outside a transaction, and returns its one value.

import contextlib
import threading
import time
from datetime import timedelta


# [recipe]
@contextlib.contextmanager
def lease(ask, key, ttl=timedelta(seconds=30), timeout=None):
    def renew():
        sent = time.monotonic()
        renewed = ask("SELECT pglock.renew_lease(%s, %s)", key, token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    def keep():
        nonlocal until
        while not done.wait(ttl.total_seconds() / 3):
            with contextlib.suppress(Exception):  # the next renewal may succeed
                until = renew()

    token, done = ask("CALL pglock.lease(%s, %s, %s)", key, ttl, timeout), threading.Event()
    until = renew()
    threading.Thread(target=keep, daemon=True).start()
    try:
        yield token, lambda: time.monotonic() < until
    finally:
        done.set()
        ask("SELECT pglock.release_lease(%s, %s)", key, token)
# [end]


def example(ask, pay):
    # [example]
    with lease(ask, "billing") as (token, held):
        for order in [42, 43]:
            if not held():
                raise TimeoutError("the lease could not be renewed")
            pay(order, token)
    # [end]
