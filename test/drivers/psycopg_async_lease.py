# psycopg 3 with asyncio. `connect` gives a connection in autocommit to an `async with` block: a pool's `connection`, or,
# as here, one that is closed at the end of the block.

import contextlib
import re
import sys

import lease_worker
import psycopg


@contextlib.asynccontextmanager
async def connect():
    async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
        yield conn


# [recipe]
async def ask(call, *values):
    async with connect() as conn:
        cursor = await conn.execute(re.sub(r"\$\d", "%s", call), values)
        return (await cursor.fetchone())[0]


@contextlib.asynccontextmanager
async def write(key, token):
    async with connect() as conn, conn.transaction():
        await conn.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        yield conn
# [end]


# [example]
async def pay(order, token):
    async with write("billing", token) as conn:
        await conn.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (order,))
# [end]


module = psycopg
Error = psycopg.Error
opened = contextlib.nullcontext


async def insert(conn, key):
    await conn.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    return error.sqlstate


lease_worker.main_async(sys.modules[__name__])
