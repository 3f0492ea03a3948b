# psycopg2. `connect` opens a connection in autocommit, which is closed after use.

import contextlib
import sys
import threading
import time
from datetime import timedelta

import lease_worker
import psycopg2


# [recipe]
@contextlib.contextmanager
def lease(connect, key, ttl=timedelta(seconds=30), timeout=None):
    def ask(call, *values):
        with contextlib.closing(connect()) as conn, conn.cursor() as cursor:
            cursor.execute(call, (key, *values))
            return cursor.fetchone()[0]

    def renew():
        sent = time.monotonic()
        renewed = ask("SELECT pglock.renew_lease(%s, %s)", token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    def keep():
        nonlocal until
        while not done.wait(ttl.total_seconds() / 3):
            with contextlib.suppress(psycopg2.Error):  # the next renewal may succeed
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
    with lease(connect, "billing") as (token, held), contextlib.closing(connect()) as conn:
        for order in [42, 43]:
            if not held():
                raise TimeoutError("the lease could not be renewed")
            with conn, conn.cursor() as cursor:
                cursor.execute("SELECT pglock.check_lease(%s, %s)", ("billing", token))
                cursor.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (order,))
    # [end]


module = psycopg2
Error = psycopg2.Error


def connect():
    conn = psycopg2.connect("")
    conn.autocommit = True
    return conn


given = (connect,)


def write(key, token):
    with contextlib.closing(connect()) as conn, conn, conn.cursor() as cursor:
        cursor.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        cursor.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    return error.pgcode


if __name__ == "__main__":
    lease_worker.main(sys.modules[__name__])
