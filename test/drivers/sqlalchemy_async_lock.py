# SQLAlchemy 1.4 and 2 with asyncio, here over asyncpg. A connection begins a transaction by itself; the lock
# commits it, or rolls it back.

import contextlib
import sys
from datetime import timedelta

import sqlalchemy
import sqlalchemy.exc
import worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine


# [recipe]
@contextlib.asynccontextmanager
async def lock(conn, key, timeout=None, shared=False, scope="session"):
    if not isinstance(conn, AsyncConnection):
        raise TypeError("a Session may leave its connection at commit: lock a Connection, and bind the Session to it")
    values = {"key": str(key), "timeout": timeout, "shared": shared, "scope": scope}
    held = None  # unknown until the server has answered
    try:
        try:
            held = await conn.scalar(text("SELECT pglock.acquire(:key, :timeout, :shared, :scope)"), values)
        except sqlalchemy.exc.SQLAlchemyError:
            held = False
            raise
        if scope == "session":
            await conn.commit()  # a session that is idle in a transaction may be ended, and its locks with it
        if not held:
            raise TimeoutError(key)
        yield
        await conn.commit()
    except BaseException:
        if scope == "session" or held is not False:
            await clean_up(conn, values, held)
        raise
    if scope == "session" and not await release(conn, values):
        raise RuntimeError(f"the connection has been replaced, and the lock {key} was lost with it")


async def clean_up(conn, values, held):
    try:
        await conn.rollback()
        in_doubt = held is None and values["scope"] == "session"
        if in_doubt and await conn.scalar(text("SELECT pglock.held(:key)"), values):
            await conn.invalidate()  # an outer block may hold it too: closing is the only safe way
        await conn.rollback()
    except BaseException:
        await conn.invalidate()
        raise
    if held and values["scope"] == "session":
        await release(conn, values)


async def release(conn, values):
    try:
        held = await conn.scalar(text("SELECT pglock.release(:key, :shared)"), values)
        await conn.commit()
    except BaseException:
        await conn.invalidate()
        raise
    return held
# [end]


async def example(conn):
    # [example]
    async with lock(conn, "order:42", timeout=timedelta(seconds=5)):
        await conn.execute(text("UPDATE orders SET state = 'paid' WHERE id = 42"))
    # [end]


module = sqlalchemy
Error = (sqlalchemy.exc.DBAPIError, TimeoutError)


async def connect(prepared):
    size = 100 if prepared else 0
    caches = {"prepared_statement_cache_size": size, "statement_cache_size": size}
    return await create_async_engine("postgresql+asyncpg://", connect_args=caches).connect()


@contextlib.asynccontextmanager
async def transaction(conn):
    yield
    await conn.commit()


async def begin(conn):
    pass


async def run(conn, sql):
    return await conn.scalar(text(sql))


def sqlstate(error):
    return "55P03" if isinstance(error, TimeoutError) else error.orig.sqlstate


if __name__ == "__main__":
    worker.main_async(sys.modules[__name__])
