# psycopg 3. The connection is in autocommit (`psycopg.connect(autocommit=True)`), and `conn.transaction()` begins
# and commits.

import contextlib
import selectors
import sys
from datetime import timedelta

import psycopg
import worker
from psycopg.pq import TransactionStatus


# [recipe]
@contextlib.contextmanager
def lock(conn, key, timeout=None, shared=False, scope="session"):
    cursor = conn.cursor()
    held = None  # unknown until the server has answered
    try:
        cursor.execute("CALL pglock.lock(%s, %s, %s, %s)", (key, timeout, shared, scope))
        held = True
        yield
    except BaseException as error:
        if held is None:
            held = not isinstance(error, psycopg.Error) and end_call(conn, cursor)
        if scope == "session" and held is not False:
            clean_up(conn, key, shared, held)
        raise
    if scope == "session":
        release(conn, key, shared)


def end_call(conn, cursor):
    """Ends a call that was interrupted. True if the lock was granted, None if that is unknown."""
    commands = [cursor.statusmessage]
    if conn.info.transaction_status == TransactionStatus.ACTIVE:
        with closed_if_it_fails(conn), selectors.DefaultSelector() as selector:
            selector.register(conn, selectors.EVENT_READ)
            while conn.pgconn.is_busy():
                conn.cancel()  # one that is there before the call does nothing
                selector.select(timeout=1)
                conn.pgconn.consume_input()
            commands += [(result.command_status or b"").decode() for result in iter(conn.pgconn.get_result, None)]
    return "CALL" in commands or None


def clean_up(conn, key, shared, held):
    status = conn.info.transaction_status
    if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        conn.close()
        return
    with closed_if_it_fails(conn):
        if status != TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
        if not held and conn.execute("SELECT pglock.held(%s)", (key,)).fetchone()[0]:
            conn.close()  # an outer block may hold it too: closing is the only safe way
    if held:
        release(conn, key, shared)


def release(conn, key, shared):
    with closed_if_it_fails(conn):
        conn.execute("SELECT pglock.release(%s, %s)", (key, shared))


@contextlib.contextmanager
def closed_if_it_fails(conn):
    try:
        yield
    except BaseException:
        conn.close()
        raise
# [end]


def example(conn):
    # [example]
    with lock(conn, "order:42", timeout=timedelta(seconds=5)), conn.transaction():
        conn.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    # [end]


module = psycopg
Error = psycopg.Error


def connect(prepared):
    conn = psycopg.connect(autocommit=True)
    conn.prepare_threshold = 0 if prepared else None
    return conn


def transaction(conn):
    return conn.transaction()


def begin(conn):
    conn.execute("BEGIN")


def run(conn, sql):
    return conn.execute(sql).fetchone()[0]


def sqlstate(error):
    return error.sqlstate


if __name__ == "__main__":
    worker.main(sys.modules[__name__])
