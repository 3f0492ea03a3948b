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
    if not isinstance(conn, sqlalchemy.engine.Connection):
        raise TypeError("a Session may leave its connection at commit: lock a Connection, and bind the Session to it")
    values = {"key": key, "timeout": timeout, "shared": shared, "scope": scope}
    held = None  # unknown until the server has answered
    try:
        try:
            held = conn.scalar(text("SELECT pglock.acquire(:key, :timeout, :shared, :scope)"), values)
        except sqlalchemy.exc.SQLAlchemyError:
            held = False
            raise
        if scope == "session":
            conn.commit()  # a session that is idle in a transaction may be ended, and its locks with it
        if not held:
            raise TimeoutError(key)
        yield
        conn.commit()
    except BaseException:
        if scope == "session" or held is not False:
            clean_up(conn, values, held)
        raise
    if scope == "session" and not release(conn, values):
        raise RuntimeError(f"the connection has been replaced, and the lock {key} was lost with it")


def clean_up(conn, values, held):
    try:
        conn.rollback()
        in_doubt = held is None and values["scope"] == "session"
        if in_doubt and conn.scalar(text("SELECT pglock.held(:key)"), values):
            conn.invalidate()  # an outer block may hold it too: closing is the only safe way
        conn.rollback()
    except BaseException:
        conn.invalidate()
        raise
    if held and values["scope"] == "session":
        release(conn, values)


def release(conn, values):
    try:
        held = conn.scalar(text("SELECT pglock.release(:key, :shared)"), values)
        conn.commit()
    except BaseException:
        conn.invalidate()
        raise
    return held
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


if __name__ == "__main__":
    worker.main(sys.modules[__name__])
