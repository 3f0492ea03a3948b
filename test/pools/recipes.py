"""How the recipes get on with a pool, with an ORM's Session, and with a signal while they wait: a line for each case.

The environment says of which server; another session looks.
"""

import datetime
import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "drivers"))

import psycopg
import psycopg2_lock
import psycopg_lock
import sqlalchemy
import sqlalchemy.orm
import sqlalchemy_lock

TIMEOUT = datetime.timedelta(milliseconds=100)


def free():
    with psycopg.connect(autocommit=True) as observer:
        return "free" if observer.execute("SELECT pglock.is_free('pooled')").fetchone()[0] else "held"


def session_refused(engine):
    with sqlalchemy.orm.Session(engine, future=True) as session:
        try:
            with sqlalchemy_lock.lock(session, "pooled"):
                print("Session|accepted")
        except TypeError:
            print("Session|refused")


def session_commits(name, engine):
    """The first Session commits while it works; is the second one, which uses the pool as well, kept out?"""
    with engine.connect() as first, engine.connect() as second:
        with sqlalchemy_lock.lock(first, "pooled"):
            work = sqlalchemy.orm.Session(first, future=True)
            work.execute(sqlalchemy.text("SELECT 1"))
            work.commit()
            try:
                with sqlalchemy_lock.lock(second, "pooled", timeout=TIMEOUT):
                    print(name, "second", "in as well", sep="|")
            except TimeoutError:
                print(name, "second", "timed out", sep="|")
    print(name, "afterwards", free(), sep="|")


def session_alone(engine):
    """The control: without the recipe the lock stays with the connection, which the second Session is given."""
    acquire = sqlalchemy.text("SELECT pglock.acquire('pooled', '100ms')")
    with sqlalchemy.orm.Session(engine, future=True) as first, sqlalchemy.orm.Session(engine, future=True) as second:
        first.scalar(acquire)
        first.commit()
        print("no recipe", "second", "in as well" if second.scalar(acquire) else "timed out", sep="|")
    engine.dispose()


class Interrupted(Exception):
    pass


def interrupt(*_):
    raise Interrupted


def signal_while_waiting(name, recipe):
    """A signal handler raises while the recipe waits, and then the lock becomes free."""
    conn = recipe.connect(False)
    holder = psycopg.connect(autocommit=True)
    holder.execute("SELECT pglock.acquire('pooled')")
    signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=interrupt_and_release, args=[holder])
    thread.start()
    try:
        with recipe.lock(conn, "pooled", timeout=datetime.timedelta(seconds=60)):
            print(name, "signal while waiting", "in", sep="|")
    except Interrupted:
        pass
    thread.join()
    print(name, "signal while waiting", free(), sep="|")
    if not conn.closed:
        recipe.run(conn, "SELECT 1")


def interrupt_and_release(holder):
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    while not holder.execute(waits).fetchone()[0]:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGALRM)
    holder.close()


several = sqlalchemy.create_engine("postgresql+psycopg2://", future=True, pool_size=5)
session_refused(several)
session_commits("pool of several", several)
session_commits("pool of one", sqlalchemy.create_engine("postgresql+psycopg2://", future=True, pool_size=1))
session_alone(sqlalchemy.create_engine("postgresql+psycopg2://", future=True, pool_size=1))
signal_while_waiting("psycopg", psycopg_lock)
signal_while_waiting("psycopg2", psycopg2_lock)
