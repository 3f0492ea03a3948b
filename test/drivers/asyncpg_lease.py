# asyncpg, which takes the key as a str.

import contextlib
import sys

import asyncpg
import lease_worker


# [recipe]
async def ask(call, *values):
    return await pool.fetchval(call, *values)


@contextlib.asynccontextmanager
async def write(key, token):
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT pglock.check_lease($1, $2)", key, token)
        yield conn
# [end]


# [example]
async def pay(order, token):
    async with write("billing", token) as conn:
        await conn.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order)
# [end]


module = asyncpg
Error = asyncpg.PostgresError


@contextlib.asynccontextmanager
async def opened():
    global pool
    async with asyncpg.create_pool(min_size=1) as pool:
        yield


async def insert(conn, key):
    await conn.execute("INSERT INTO written VALUES ($1)", key)


def sqlstate(error):
    return error.sqlstate


lease_worker.main_async(sys.modules[__name__])
