# psycopg2. `connect` opens a connection, which is closed after use.

import contextlib
import functools
import sys

import lease_worker
import psycopg2

connect = functools.partial(psycopg2.connect, "")


# [recipe]
def ask(call, *values):
    with contextlib.closing(connect()) as conn, conn.cursor() as cursor:
        conn.autocommit = True
        cursor.execute(call, values)
        return cursor.fetchone()[0]


@contextlib.contextmanager
def write(key, token):
    with contextlib.closing(connect()) as conn, conn, conn.cursor() as cursor:
        cursor.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        yield cursor
# [end]


# [example]
def pay(order, token):
    with write("billing", token) as cursor:
        cursor.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (order,))
# [end]


module = psycopg2
Error = psycopg2.Error


def insert(cursor, key):
    cursor.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    return error.pgcode


lease_worker.main(sys.modules[__name__])
