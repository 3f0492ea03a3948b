# asyncpg. A connection is in autocommit, and statements are prepared whether you ask for it or not: the key is
# always a str.

import contextlib
import sys
from datetime import timedelta

import asyncpg
import worker


# [recipe]
@contextlib.asynccontextmanager
async def lock(conn, key, timeout=None, shared=False, scope="session"):
    if scope == "session":
        await conn.execute("CALL pglock.lock($1, $2, $3)", str(key), timeout, shared)
    elif not await conn.fetchval("SELECT pglock.acquire($1, $2, $3, $4)", str(key), timeout, shared, scope):
        raise asyncpg.LockNotAvailableError(key)
    try:
        yield
    except BaseException:
        if scope == "session" and conn.is_in_transaction():
            await conn.execute("ROLLBACK")
        raise
    finally:
        if scope == "session":
            await conn.execute("SELECT pglock.release($1, $2)", str(key), shared)
# [end]


async def example(conn):
    # [example]
    async with lock(conn, "order:42", timeout=timedelta(seconds=5)), conn.transaction():
        await conn.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    # [end]


module = asyncpg
Error = asyncpg.PostgresError


async def connect(prepared):
    return await asyncpg.connect(statement_cache_size=100 if prepared else 0)


def transaction(conn):
    return conn.transaction()


async def begin(conn):
    await conn.execute("BEGIN")


async def run(conn, sql):
    return await conn.fetchval(sql)


def sqlstate(error):
    return error.sqlstate


worker.main_async(sys.modules[__name__])
