# psycopg 3. The connection is in autocommit (`psycopg.connect(autocommit=True)`), and `conn.transaction()` begins
# and commits.

import contextlib
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
        try:
            cursor.execute("CALL pglock.lock(%s, %s, %s, %s)", (key, timeout, shared, scope))
            held = True
        except psycopg.Error:
            held = False
            raise
        yield
    except BaseException:
        if held is None:
            held = end_call(conn, cursor)
        if scope == "session" and held is not False:
            clean_up(conn, key, shared, held)
        raise
    if scope == "session":
        release(conn, key, shared)


def end_call(conn, cursor):
    """Ends a call that was interrupted. True if the lock was granted, None if that is unknown."""
    commands = [cursor.statusmessage]
    if conn.info.transaction_status == TransactionStatus.ACTIVE:
        conn.cancel()
        commands += [(result.command_status or b"").decode() for result in iter(conn.pgconn.get_result, None)]
    return "CALL" in commands or None


def clean_up(conn, key, shared, held):
    status = conn.info.transaction_status
    if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        conn.close()
        return
    try:
        if status != TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
        if not held and conn.execute("SELECT pglock.held(%s)", (key,)).fetchone()[0]:
            conn.close()  # an outer block may hold it too: closing is the only safe way
    except BaseException:
        conn.close()
        raise
    if held:
        release(conn, key, shared)


def release(conn, key, shared):
    try:
        conn.execute("SELECT pglock.release(%s, %s)", (key, shared))
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
