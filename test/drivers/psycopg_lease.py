# psycopg 3. `connect` gives a connection in autocommit to a `with` block: a pool's `connection`, or, as here,
# psycopg's `connect`, whose connections are closed at the end of the block.

import contextlib
import functools
import sys

import lease_worker
import psycopg

connect = functools.partial(psycopg.connect, autocommit=True)


# [recipe]
def ask(call, *values):
    with connect() as conn:
        return conn.execute(call, values).fetchone()[0]


@contextlib.contextmanager
def write(key, token):
    with connect() as conn, conn.transaction():
        conn.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        yield conn
# [end]


# [example]
def pay(order, token):
    with write("billing", token) as conn:
        conn.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (order,))
# [end]


module = psycopg
Error = psycopg.Error


def insert(conn, key):
    conn.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    return error.sqlstate


lease_worker.main(sys.modules[__name__])
