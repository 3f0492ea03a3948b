# Django. A connection is in autocommit, and `transaction.atomic` begins and commits: take a lock of session scope
# outside of it, and of ATOMIC_REQUESTS. CONN_MAX_AGE keeps the connection, and what it holds, for the next request.

import contextlib
import os
import sys
from datetime import timedelta

import django
import worker
from django.conf import settings
from django.db import Error, close_old_connections, connection as default_connection, models, transaction as transactions


# [recipe]
@contextlib.contextmanager
def lock(connection, key, timeout=None, shared=False, scope="session"):
    held = None  # unknown until the server has answered
    try:
        try:
            with connection.cursor() as cursor:
                cursor.execute("CALL pglock.lock(%s, %s, %s, %s)", (key, timeout, shared, scope))
            held = True
        except Error:
            held = False
            raise
        yield
    finally:
        if held is None:  # interrupted: it may be held, or be granted later
            connection.close()
        elif held and scope == "session":
            release(connection, key, shared)


def release(connection, key, shared):
    try:
        with connection.cursor() as cursor:
            if connection.connection.info.transaction_status:
                cursor.execute("ROLLBACK")
            cursor.execute("SELECT pglock.release(%s, %s)", (key, shared))
    except BaseException:
        connection.close()
        raise
# [end]


settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "CONN_MAX_AGE": 600}})
django.setup()


class Order(models.Model):
    id = models.IntegerField(primary_key=True)
    state = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "orders"


def example(connection):
    # [example]
    with lock(connection, "order:42", timeout=timedelta(seconds=5)), transactions.atomic():
        Order.objects.filter(id=42).update(state="paid")
    # [end]


module = django


def connect(prepared):
    default_connection.close()
    default_connection.is_closed = lambda: default_connection.connection is None
    return default_connection


def transaction(connection):
    return transactions.atomic()


def begin(connection):
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")


def run(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def trap(connection, key):
    with connection.cursor() as cursor:
        cursor.execute("CALL pglock.lock(%s)", (key,))
    close_old_connections()  # as the end of a request does
    return run(connection, f"SELECT pglock.held('{key}')::text")


def sqlstate(error):
    # psycopg2's name for it, and psycopg's
    return getattr(error.__cause__, "pgcode", None) or error.__cause__.sqlstate


worker.main(sys.modules[__name__])
