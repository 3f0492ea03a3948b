# psycopg2. The connection is in autocommit (`conn.autocommit = True`), and `with conn` begins and commits.

import contextlib
import sys
from datetime import timedelta

import psycopg2
import psycopg2.extras
import worker
from psycopg2.extensions import TRANSACTION_STATUS_IDLE


# [recipe]
@contextlib.contextmanager
def lock(conn, key, timeout=None, shared=False, scope="session"):
    cursor = conn.cursor()
    held = None  # unknown until the server has answered
    try:
        try:
            cursor.execute("CALL pglock.lock(%s, %s, %s, %s)", (key, timeout, shared, scope))
            held = True
        except psycopg2.Error:
            held = False
            raise
        yield
    except BaseException:
        if scope == "session" and held is not False:
            clean_up(conn, key, shared, held or cursor.statusmessage == "CALL")
        raise
    if scope == "session":
        release(conn, key, shared)


def clean_up(conn, key, shared, held):
    if conn.closed:
        return
    try:
        cursor = conn.cursor()
        if conn.info.transaction_status != TRANSACTION_STATUS_IDLE:
            cursor.execute("ROLLBACK")
        cursor.execute("SELECT pglock.held(%s)", (key,))
        if not held and cursor.fetchone()[0]:
            conn.close()  # an outer block may hold it too: closing is the only safe way
    except BaseException:
        conn.close()
        raise
    if held:
        release(conn, key, shared)


def release(conn, key, shared):
    try:
        conn.cursor().execute("SELECT pglock.release(%s, %s)", (key, shared))
    except BaseException:
        conn.close()
        raise
# [end]


def example(conn):
    # [example]
    with lock(conn, "order:42", timeout=timedelta(seconds=5)), conn, conn.cursor() as cursor:
        cursor.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    # [end]


module = psycopg2
Error = psycopg2.Error


def connect(prepared):
    conn = psycopg2.connect("")
    conn.autocommit = True
    psycopg2.extras.register_uuid()
    return conn


def transaction(conn):
    return conn


def begin(conn):
    run(conn, "BEGIN")


def run(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.description and cursor.fetchone()[0]


def sqlstate(error):
    return error.pgcode


if __name__ == "__main__":
    worker.main(sys.modules[__name__])
