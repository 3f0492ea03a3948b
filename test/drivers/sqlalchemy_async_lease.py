# SQLAlchemy 1.4 and 2 with asyncio, here over asyncpg, which takes the key as a str. When the lease can't be renewed,
# the block is cancelled, and raises TimeoutError. Python 3.11 and later.

import asyncio
import contextlib
import sys
from datetime import timedelta

import lease_worker
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


# [recipe]
@contextlib.asynccontextmanager
async def lease(engine, key, ttl=timedelta(seconds=30), timeout=None):
    loop = asyncio.get_running_loop()

    async def ask(call, **values):
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
            return await conn.scalar(text(call), {"key": key, **values})

    async def renew():
        sent = loop.time()
        renewed = await ask("SELECT pglock.renew_lease(:key, :token)", token=token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    async def keep(deadline):
        while True:
            await asyncio.sleep(ttl.total_seconds() / 3)
            with contextlib.suppress(Exception):  # also the driver's own; the next renewal may succeed
                deadline.reschedule(await renew())

    token = await ask("CALL pglock.lease(:key, :ttl, :timeout)", ttl=ttl, timeout=timeout)
    async with asyncio.timeout_at(await renew()) as deadline:
        keeper = asyncio.create_task(keep(deadline))
        try:
            yield token
        finally:
            keeper.cancel()
            await ask("SELECT pglock.release_lease(:key, :token)", token=token)
# [end]


async def example(engine):
    # [example]
    async with lease(engine, "billing") as token:
        for order in [42, 43]:
            async with engine.begin() as conn:
                await conn.execute(text("SELECT pglock.check_lease(:key, :token)"), {"key": "billing", "token": token})
                await conn.execute(text("UPDATE orders SET state = 'paid' WHERE id = :id"), {"id": order})
    # [end]


module = sqlalchemy
Error = sqlalchemy.exc.DBAPIError


@contextlib.asynccontextmanager
async def connecting():
    engine = create_async_engine("postgresql+asyncpg://")
    yield engine
    await engine.dispose()


async def write(engine, key, token):
    async with engine.begin() as conn:
        await conn.execute(text("SELECT pglock.check_lease(:key, :token)"), {"key": key, "token": token})
        await conn.execute(text("INSERT INTO written VALUES (:key)"), {"key": key})


def sqlstate(error):
    return error.orig.sqlstate


if __name__ == "__main__":
    lease_worker.main_async(sys.modules[__name__])
