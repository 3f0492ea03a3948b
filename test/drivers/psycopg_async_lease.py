# psycopg 3 with asyncio. `connect` gives a connection in autocommit to an `async with` block: a pool's `connection`, or,
# as here, one that is closed at the end of the block. When the lease can't be renewed, the block of the lease is
# cancelled, and raises TimeoutError. Python 3.11 and later.

import asyncio
import contextlib
import sys
from datetime import timedelta

import lease_worker
import psycopg


# [recipe]
@contextlib.asynccontextmanager
async def lease(connect, key, ttl=timedelta(seconds=30), timeout=None):
    loop = asyncio.get_running_loop()

    async def ask(call, *values):
        async with connect() as conn:
            return (await (await conn.execute(call, (key, *values))).fetchone())[0]

    async def renew():
        sent = loop.time()
        renewed = await ask("SELECT pglock.renew_lease(%s, %s)", token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    async def keep(deadline):
        while True:
            await asyncio.sleep(ttl.total_seconds() / 3)
            with contextlib.suppress(psycopg.Error):  # the next renewal may succeed
                deadline.reschedule(await renew())

    token = await ask("CALL pglock.lease(%s, %s, %s)", ttl, timeout)
    async with asyncio.timeout_at(await renew()) as deadline:
        keeper = asyncio.create_task(keep(deadline))
        try:
            yield token
        finally:
            keeper.cancel()
            await ask("SELECT pglock.release_lease(%s, %s)", token)
# [end]


async def example(connect):
    # [example]
    async with lease(connect, "billing") as token, connect() as conn:
        for order in [42, 43]:
            async with conn.transaction():
                await conn.execute("SELECT pglock.check_lease(%s, %s)", ("billing", token))
                await conn.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (order,))
    # [end]


module = psycopg
Error = psycopg.Error


@contextlib.asynccontextmanager
async def connect():
    async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
        yield conn


def connecting():
    return contextlib.nullcontext(connect)


async def write(connect, key, token):
    async with connect() as conn, conn.transaction():
        await conn.execute("SELECT pglock.check_lease(%s, %s)", (key, token))
        await conn.execute("INSERT INTO written VALUES (%s)", (key,))


def sqlstate(error):
    return error.sqlstate


if __name__ == "__main__":
    lease_worker.main_async(sys.modules[__name__])
