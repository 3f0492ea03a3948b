# SQLAlchemy 1.4 and 2 with asyncio, here over asyncpg. A connection begins a transaction by itself; the lock
# commits it, or rolls it back.

import contextlib
import sys
from datetime import timedelta

import sqlalchemy
import sqlalchemy.exc
import worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


# [recipe]
@contextlib.asynccontextmanager
async def lock(conn, key, timeout=None, shared=False, scope="session"):
    values = {"key": str(key), "timeout": timeout, "shared": shared, "scope": scope}
    if not await conn.scalar(text("SELECT pglock.acquire(:key, :timeout, :shared, :scope)"), values):
        raise TimeoutError(key)
    try:
        yield
        await conn.commit()
    except BaseException:
        await conn.rollback()
        raise
    finally:
        if scope == "session":
            await conn.execute(text("SELECT pglock.release(:key, :shared)"), values)
            await conn.commit()
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


worker.main_async(sys.modules[__name__])
