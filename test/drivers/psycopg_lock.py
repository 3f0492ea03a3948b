# psycopg 3. The connection is in autocommit (`psycopg.connect(autocommit=True)`), and `conn.transaction()` begins
# and commits.

import contextlib
import sys
from datetime import timedelta

import psycopg
import worker


# [recipe]
@contextlib.contextmanager
def lock(conn, key, timeout=None, shared=False, scope="session"):
    if scope == "session":
        conn.execute("CALL pglock.lock(%s, %s, %s)", (key, timeout, shared))
    elif not conn.execute("SELECT pglock.acquire(%s, %s, %s, %s)", (key, timeout, shared, scope)).fetchone()[0]:
        raise psycopg.errors.LockNotAvailable(key)
    try:
        yield
    except BaseException:
        if scope == "session" and conn.info.transaction_status:
            conn.execute("ROLLBACK")
        raise
    finally:
        if scope == "session":
            conn.execute("SELECT pglock.release(%s, %s)", (key, shared))
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


worker.main(sys.modules[__name__])
