# Django. Each call of `ask` opens a connection of its own, since `connection` is the thread's, and may be in a
# transaction.

import contextlib
import os
import sys

import django
import lease_worker
from django.conf import settings
from django.db import Error, connection, models, transaction


# [recipe]
def ask(call, *values):
    with contextlib.closing(connection.copy()) as own, own.cursor() as cursor:
        cursor.execute(call, values)
        return cursor.fetchone()[0]


@contextlib.contextmanager
def write(key, token):
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        yield
# [end]


settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"]}})
django.setup()


class Order(models.Model):
    id = models.IntegerField(primary_key=True)
    state = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "orders"


# [example]
def pay(order, token):
    with write("billing", token):
        Order.objects.filter(id=order).update(state="paid")
# [end]


module = django


def insert(_, key):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    # psycopg2's name for it, and psycopg's
    return getattr(error.__cause__, "pgcode", None) or error.__cause__.sqlstate


lease_worker.main(sys.modules[__name__])
