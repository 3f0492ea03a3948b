# psycopg 3 with asyncio. The connection is in autocommit (`AsyncConnection.connect(autocommit=True)`), and
# `conn.transaction()` begins and commits.

import contextlib
import sys
from datetime import timedelta

import psycopg
import worker


# [recipe]
@contextlib.asynccontextmanager
async def lock(conn, key, timeout=None, shared=False, scope="session"):
    if scope == "session":
        await conn.execute("CALL pglock.lock(%s, %s, %s)", (key, timeout, shared))
    elif not (await (await conn.execute("SELECT pglock.acquire(%s, %s, %s, %s)", (key, timeout, shared, scope))).fetchone())[0]:
        raise psycopg.errors.LockNotAvailable(key)
    try:
        yield
    except BaseException:
        if scope == "session" and conn.info.transaction_status:
            await conn.execute("ROLLBACK")
        raise
    finally:
        if scope == "session":
            await conn.execute("SELECT pglock.release(%s, %s)", (key, shared))
# [end]


async def example(conn):
    # [example]
    async with lock(conn, "order:42", timeout=timedelta(seconds=5)), conn.transaction():
        await conn.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    # [end]


module = psycopg
Error = psycopg.Error


async def connect(prepared):
    conn = await psycopg.AsyncConnection.connect(autocommit=True)
    conn.prepare_threshold = 0 if prepared else None
    return conn


def transaction(conn):
    return conn.transaction()


async def begin(conn):
    await conn.execute("BEGIN")


async def run(conn, sql):
    return (await (await conn.execute(sql)).fetchone())[0]


def sqlstate(error):
    return error.sqlstate


worker.main_async(sys.modules[__name__])
