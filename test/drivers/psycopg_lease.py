# psycopg 3. `connect` gives a connection in autocommit to a `with` block: a pool's `connection`, or, as here,
# psycopg's `connect`, whose connections are closed at the end of the block.

import contextlib
import functools
import sys
import threading
import time
from datetime import timedelta

import lease_worker
import psycopg


# [recipe]
@contextlib.contextmanager
def lease(connect, key, ttl=timedelta(seconds=30), timeout=None):
    def ask(call, *values):
        with connect() as conn:
            return conn.execute(call, (key, *values)).fetchone()[0]

    def renew():
        sent = time.monotonic()
        renewed = ask("SELECT pglock.renew_lease(%s, %s)", token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    def keep():
        nonlocal until
        while not done.wait(ttl.total_seconds() / 3):
            with contextlib.suppress(psycopg.Error):  # the next renewal may succeed
                until = renew()

    token, done = ask("CALL pglock.lease(%s, %s, %s)", ttl, timeout), threading.Event()
    until = renew()
    threading.Thread(target=keep, daemon=True).start()
    try:
        yield token, lambda: time.monotonic() < until
    finally:
        done.set()
        ask("SELECT pglock.release_lease(%s, %s)", token)
# [end]


def example(connect):
    # [example]
    with lease(connect, "billing") as (token, held), connect() as conn:
        for order in [42, 43]:
            if not held():
                raise TimeoutError("the lease could not be renewed")
            with conn.transaction():
                conn.execute("SELECT pglock.check_lease(%s, %s)", ("billing", token))
                conn.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (order,))
    # [end]


module = psycopg
Error = psycopg.Error
connect = functools.partial(psycopg.connect, autocommit=True)
given = (connect,)


def write(key, token):
    with connect() as conn, conn.transaction():
        conn.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        conn.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    return error.sqlstate


if __name__ == "__main__":
    lease_worker.main(sys.modules[__name__])
