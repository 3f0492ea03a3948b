# Django. Take a lease outside of `transaction.atomic` and ATOMIC_REQUESTS: the thread that renews it, by a connection
# of its own, does not see what is not committed.

import contextlib
import os
import sys
import threading
import time
from datetime import timedelta

import django
import lease_worker
from django.conf import settings
from django.db import Error, connection, connections, models, transaction


# [recipe]
@contextlib.contextmanager
def lease(key, ttl=timedelta(seconds=30), timeout=None, using="default"):
    def ask(call, *values):
        with connections[using].cursor() as cursor:
            cursor.execute(call, (key, *values))
            return cursor.fetchone()[0]

    def renew():
        sent = time.monotonic()
        renewed = ask("SELECT pglock.renew_lease(%s, %s)", token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    def keep():
        nonlocal until
        while not done.wait(ttl.total_seconds() / 3):
            # the next renewal, by another connection, may succeed
            with contextlib.suppress(Error), contextlib.closing(connections[using]):
                until = renew()

    token, done = ask("CALL pglock.lease(%s, %s, %s)", ttl, timeout), threading.Event()
    until = renew()
    threading.Thread(target=keep, daemon=True).start()
    try:
        yield token, lambda: time.monotonic() < until
    finally:
        done.set()
        ask("SELECT pglock.release_lease(%s, %s)", token)
# [end]


settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"]}})
django.setup()


class Order(models.Model):
    id = models.IntegerField(primary_key=True)
    state = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "orders"


def example():
    # [example]
    with lease("billing") as (token, held):
        for order in [42, 43]:
            if not held():
                raise TimeoutError("the lease could not be renewed")
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT pglock.check_lease(%s, %s)", ("billing", token))
                Order.objects.filter(id=order).update(state="paid")
    # [end]


module = django
given = ()


def write(key, token):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        cursor.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    # psycopg2's name for it, and psycopg's
    return getattr(error.__cause__, "pgcode", None) or error.__cause__.sqlstate


if __name__ == "__main__":
    lease_worker.main(sys.modules[__name__])
