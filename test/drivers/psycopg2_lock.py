# psycopg2. The connection is in autocommit (`conn.autocommit = True`), and `with conn` begins and commits.

import contextlib
import sys
from datetime import timedelta

import psycopg2
import psycopg2.errors
import psycopg2.extras
import worker


# [recipe]
@contextlib.contextmanager
def lock(conn, key, timeout=None, shared=False, scope="session"):
    cursor = conn.cursor()
    cursor.execute("CALL pglock.lock(%s, %s, %s)" if scope == "session" else
                   "SELECT pglock.acquire(%s, %s, %s, 'transaction')", (key, timeout, shared))
    if scope == "transaction" and not cursor.fetchone()[0]:
        raise psycopg2.errors.LockNotAvailable(key)
    try:
        yield
    except BaseException:
        cursor.execute("ROLLBACK")
        raise
    finally:
        if scope == "session":
            cursor.execute("SELECT pglock.release(%s, %s)", (key, shared))
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
    # what the recipe raises has no code of the server
    return error.pgcode or "55P03"


worker.main(sys.modules[__name__])
