# SQLAlchemy 1.4 and 2 with asyncio, here over asyncpg, which takes the key as a str.

import contextlib
import sys

import lease_worker
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine("postgresql+asyncpg://")


# [recipe]
async def ask(call, *values):
    named = {f"value{number}": value for number, value in enumerate(values, 1)}
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
        return await conn.scalar(text(call.replace("$", ":value")), named)


@contextlib.asynccontextmanager
async def write(key, token):
    async with engine.begin() as conn:
        await conn.execute(text("SELECT pglock.check_lease(:key, :token)"), {"key": key, "token": token})
        yield conn
# [end]


# [example]
async def pay(order, token):
    async with write("billing", token) as conn:
        await conn.execute(text("UPDATE orders SET state = 'paid' WHERE id = :id"), {"id": order})
# [end]


module = sqlalchemy
Error = sqlalchemy.exc.DBAPIError


@contextlib.asynccontextmanager
async def opened():
    yield
    await engine.dispose()


async def insert(conn, key):
    await conn.execute(text("INSERT INTO written VALUES (:key)"), {"key": key})


def sqlstate(error):
    return error.orig.sqlstate


lease_worker.main_async(sys.modules[__name__])
