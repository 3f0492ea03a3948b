# SQLAlchemy 1.4 (with `future=True`) and 2, here over psycopg2.

import contextlib
import sys
import threading
import time
from datetime import timedelta

import lease_worker
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import text


# [recipe]
@contextlib.contextmanager
def lease(engine, key, ttl=timedelta(seconds=30), timeout=None):
    def ask(call, **values):
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
            return conn.scalar(text(call), {"key": key, **values})

    def renew():
        sent = time.monotonic()
        renewed = ask("SELECT pglock.renew_lease(:key, :token)", token=token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    def keep():
        nonlocal until
        while not done.wait(ttl.total_seconds() / 3):
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # the next renewal may succeed
                until = renew()

    token, done = ask("CALL pglock.lease(:key, :ttl, :timeout)", ttl=ttl, timeout=timeout), threading.Event()
    until = renew()
    threading.Thread(target=keep, daemon=True).start()
    try:
        yield token, lambda: time.monotonic() < until
    finally:
        done.set()
        ask("SELECT pglock.release_lease(:key, :token)", token=token)
# [end]


def example(engine):
    # [example]
    with lease(engine, "billing") as (token, held):
        for order in [42, 43]:
            if not held():
                raise TimeoutError("the lease could not be renewed")
            with engine.begin() as conn:
                conn.execute(text("SELECT pglock.check_lease(:key, :token)"), {"key": "billing", "token": token})
                conn.execute(text("UPDATE orders SET state = 'paid' WHERE id = :id"), {"id": order})
    # [end]


module = sqlalchemy
Error = sqlalchemy.exc.DBAPIError
engine = sqlalchemy.create_engine("postgresql+psycopg2://", future=True)
given = (engine,)


def write(key, token):
    with engine.begin() as conn:
        conn.execute(text("SELECT pglock.check_lease(:key, :token)"), {"key": key, "token": token})
        conn.execute(text("INSERT INTO written VALUES (:key)"), {"key": key})


def sqlstate(error):
    return error.orig.pgcode


if __name__ == "__main__":
    lease_worker.main(sys.modules[__name__])
