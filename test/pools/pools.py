"""What becomes of a lock whose connection goes back to a pool in the program: a line for each pool
and scope, "free" or "held". And what comes of asking for a second connection.

Each pool has one connection. The environment says of which server; another session looks.
"""

import asyncio
import threading
import time

import asyncpg
import psycopg
import psycopg2.pool
import psycopg_pool
import sqlalchemy

TAKE = {
    "session": "SELECT pglock.acquire('pooled')",
    "transaction": "SELECT pglock.acquire('pooled', scope => 'transaction')",
}


def report(pool, scope):
    with psycopg.connect() as connection:
        (is_free,) = connection.execute("SELECT pglock.is_free('pooled')").fetchone()
    print(pool, scope, "free" if is_free else "held", sep="|", flush=True)


async def asyncpg_pool(scope):
    async with asyncpg.create_pool(min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            async with connection.transaction():
                await connection.execute(TAKE[scope])
        report("asyncpg", scope)


def psycopg_connection_pool(scope, name="psycopg_pool", **options):
    with psycopg_pool.ConnectionPool("", min_size=1, max_size=1, **options) as pool:
        with pool.connection() as connection:
            connection.execute(TAKE[scope])
        # a connection goes back in the background
        with pool.connection():
            report(name, scope)


def psycopg2_pool(scope):
    pool = psycopg2.pool.SimpleConnectionPool(1, 1, "")
    connection = pool.getconn()
    connection.cursor().execute(TAKE[scope])
    pool.putconn(connection)
    report("psycopg2", scope)
    pool.closeall()


def sqlalchemy_pool(scope, name="SQLAlchemy", on_checkin=None):
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", pool_size=1)
    if on_checkin:
        sqlalchemy.event.listen(engine, "checkin", on_checkin)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(TAKE[scope]))
    report(name, scope)
    engine.dispose()


# and how to have a pool give everything back


def release_all(connection):
    connection.execute("SELECT pglock.release_all()")
    connection.commit()


def release_all_at_checkin(connection, _):
    connection.cursor().execute("SELECT pglock.release_all()")
    connection.commit()


# Whoever holds a lock and asks the pool for one more connection, while all others wait for the lock.


def second_connection():
    with psycopg_pool.ConnectionPool("", min_size=2, max_size=2) as pool:

        def wait():
            with pool.connection() as waiter:
                waiter.execute(TAKE["transaction"])

        with pool.connection() as holder:
            holder.execute(TAKE["transaction"])
            thread = threading.Thread(target=wait)
            thread.start()
            until_somebody_waits()
            try:
                with pool.connection(timeout=0.5):
                    print("second connection|given", flush=True)
            except psycopg_pool.PoolTimeout:
                print("second connection|not given", flush=True)
        thread.join()


def until_somebody_waits():
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    with psycopg.connect(autocommit=True) as connection:
        while not connection.execute(waits).fetchone()[0]:
            time.sleep(0.01)


for scope in TAKE:
    asyncio.run(asyncpg_pool(scope))
    psycopg_connection_pool(scope)
    psycopg2_pool(scope)
    sqlalchemy_pool(scope)
psycopg_connection_pool("session", "psycopg_pool, reset", reset=release_all)
sqlalchemy_pool("session", "SQLAlchemy, checkin", on_checkin=release_all_at_checkin)
second_connection()
