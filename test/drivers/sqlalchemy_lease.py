# SQLAlchemy 1.4 (with `future=True`) and 2, here over psycopg2.

import contextlib
import sys

import lease_worker
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import text

engine = sqlalchemy.create_engine("postgresql+psycopg2://", future=True)


# [recipe]
def ask(call, *values):
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
        return conn.exec_driver_sql(call, values).scalar()


@contextlib.contextmanager
def write(key, token):
    with engine.begin() as conn:
        conn.execute(text("SELECT pglock.check_lease(:key, :token)"), {"key": key, "token": token})
        yield conn
# [end]


# [example]
def pay(order, token):
    with write("billing", token) as conn:
        conn.execute(text("UPDATE orders SET state = 'paid' WHERE id = :id"), {"id": order})
# [end]


module = sqlalchemy
Error = sqlalchemy.exc.DBAPIError


def insert(conn, key):
    conn.execute(text("INSERT INTO written VALUES (:key)"), {"key": key})


def sqlstate(error):
    return error.orig.pgcode


lease_worker.main(sys.modules[__name__])
