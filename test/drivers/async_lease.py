# What the recipes for leases of Python's asynchronous drivers share. `ask` runs a call outside a transaction, and
# returns its one value. When the lease can't be renewed, the block is cancelled, and raises TimeoutError. Python 3.11
# and later.

import asyncio
import contextlib
from datetime import timedelta


# [recipe]
@contextlib.asynccontextmanager
async def lease(ask, key, ttl=timedelta(seconds=30), timeout=None):
    loop = asyncio.get_running_loop()

    async def renew():
        sent = loop.time()
        renewed = await ask("SELECT pglock.renew_lease($1, $2)", key, token)
        return sent + 0.9 * ttl.total_seconds() if renewed else 0

    async def keep(deadline):
        while True:
            await asyncio.sleep(ttl.total_seconds() / 3)
            with contextlib.suppress(Exception):  # the next renewal may succeed
                deadline.reschedule(await renew())

    token = await ask("CALL pglock.lease($1, $2, $3)", key, ttl, timeout)
    async with asyncio.timeout_at(await renew()) as deadline:
        keeper = asyncio.create_task(keep(deadline))
        try:
            yield token
        finally:
            keeper.cancel()
            await ask("SELECT pglock.release_lease($1, $2)", key, token)
# [end]


async def example(ask, pay):
    # [example]
    async with lease(ask, "billing") as token:
        for order in [42, 43]:
            await pay(order, token)
    # [end]
