# asyncpg. A connection is in autocommit, and statements are prepared whether you ask for it or not: the key is
# always a str.

import asyncio
import contextlib
import sys
from datetime import timedelta

import asyncpg
import worker


# [recipe]
@contextlib.asynccontextmanager
async def lock(conn, key, timeout=None, shared=False, scope="session"):
    held = None  # unknown until the server has answered
    try:
        try:
            await conn.execute("CALL pglock.lock($1, $2, $3, $4)", str(key), timeout, shared, scope)
            held = True
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            held = False
            raise
        yield
    except BaseException:
        if scope == "session" and held is not False:
            await clean_up(conn, str(key), shared, held)
        raise
    if scope == "session":
        await release(conn, str(key), shared)


async def clean_up(conn, key, shared, held):
    if conn.is_closed():
        return
    try:
        if conn.is_in_transaction():
            await asyncio.wait_for(conn.execute("ROLLBACK"), timeout=5)
        if not held and await may_be_held(conn, key):
            conn.terminate()  # an outer block may hold it too: closing is the only safe way
    except BaseException:
        conn.terminate()
        raise
    if held:
        await release(conn, key, shared)


async def may_be_held(conn, key):
    try:
        return await asyncio.wait_for(conn.fetchval("SELECT pglock.held($1)", key), timeout=5)
    except asyncio.TimeoutError:
        return True  # asyncpg's cancel was there before the call, did nothing, and the call goes on waiting


async def release(conn, key, shared):
    try:
        await conn.execute("SELECT pglock.release($1, $2)", key, shared)
    except BaseException:
        conn.terminate()
        raise
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


if __name__ == "__main__":
    worker.main_async(sys.modules[__name__])
