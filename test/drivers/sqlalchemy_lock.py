# SQLAlchemy 1.4 (with `future=True`) and 2, here over psycopg2. A connection begins a transaction by itself; the
# lock commits it, or rolls it back.

import contextlib
import sys
from datetime import timedelta

import sqlalchemy
import sqlalchemy.exc
import worker
from sqlalchemy import text


# [recipe]
@contextlib.contextmanager
def lock(conn, key, timeout=None, shared=False, scope="session"):
    values = {"key": key, "timeout": timeout, "shared": shared, "scope": scope}
    if not conn.scalar(text("SELECT pglock.acquire(:key, :timeout, :shared, :scope)"), values):
        raise TimeoutError(key)
    try:
        yield
        conn.commit()
    except BaseException:
        conn.rollback()
        raise
    finally:
        if scope == "session":
            conn.execute(text("SELECT pglock.release(:key, :shared)"), values)
            conn.commit()
# [end]


def example(conn):
    # [example]
    with lock(conn, "order:42", timeout=timedelta(seconds=5)):
        conn.execute(text("UPDATE orders SET state = 'paid' WHERE id = 42"))
    # [end]


module = sqlalchemy
Error = (sqlalchemy.exc.DBAPIError, TimeoutError)


def connect(prepared):
    return sqlalchemy.create_engine("postgresql+psycopg2://", future=True).connect()


@contextlib.contextmanager
def transaction(conn):
    yield
    conn.commit()


def begin(conn):
    pass


def run(conn, sql):
    return conn.scalar(text(sql))


def sqlstate(error):
    return "55P03" if isinstance(error, TimeoutError) else error.orig.pgcode


worker.main(sys.modules[__name__])
