# asyncpg. `pool` is a pool, and the key a str. When the lease can't be renewed, the block is cancelled, and raises
# TimeoutError. Python 3.11 and later.

import asyncio
import contextlib
import sys
from datetime import timedelta

import asyncpg
import lease_worker


# [recipe]
@contextlib.asynccontextmanager
async def lease(pool, key, ttl=timedelta(seconds=30), timeout=None):
    loop = asyncio.get_running_loop()

    async def renew():
        sent = loop.time()
        renewed = await pool.fetchval("SELECT pglock.renew_lease($1, $2)", key, token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    async def keep(deadline):
        while True:
            await asyncio.sleep(ttl.total_seconds() / 3)
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # the next may succeed
                deadline.reschedule(await renew())

    token = await pool.fetchval("CALL pglock.lease($1, $2, $3)", key, ttl, timeout)
    async with asyncio.timeout_at(await renew()) as deadline:
        keeper = asyncio.create_task(keep(deadline))
        try:
            yield token
        finally:
            keeper.cancel()
            await pool.execute("SELECT pglock.release_lease($1, $2)", key, token)
# [end]


async def example(pool):
    # [example]
    async with lease(pool, "billing") as token, pool.acquire() as conn:
        for order in [42, 43]:
            async with conn.transaction():
                await conn.execute("SELECT pglock.check_lease($1, $2)", "billing", token)
                await conn.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order)
    # [end]


module = asyncpg
Error = asyncpg.PostgresError


def connecting():
    return asyncpg.create_pool(min_size=1)


async def write(pool, key, token):
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT pglock.check_lease($1, $2)", key, token)
        await conn.execute("INSERT INTO written VALUES ($1)", key)


def sqlstate(error):
    return error.sqlstate


if __name__ == "__main__":
    lease_worker.main_async(sys.modules[__name__])
