# asyncpg. `pool` is a pool, and the key a str. When the lease can't be renewed, the block is cancelled, and raises
# TimeoutError. Python 3.11 and later.

import asyncio
import contextlib
import sys
from datetime import timedelta

import asyncpg
from lease_worker import duration
from worker import say


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


# a worker: see test/perl/Worker.pm
class Worker:
    held = False

    async def main(self):
        async with asyncpg.create_pool(min_size=1) as self.pool:
            say("ready", asyncpg.__version__)
            await self.block()

    async def block(self):
        """Does what it is told until the end of the block that it is in."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = line.rstrip("\n").split("\t")
            if command == "end":
                return
            try:
                await getattr(self, command)(*arguments)
            except asyncpg.PostgresError as error:
                say("error", error.sqlstate)

    async def lease(self, key, ttl, timeout):
        try:
            async with lease(self.pool, key, duration(ttl), duration(timeout)) as token:
                self.held = True
                say("held", token)
                await self.block()
            say("released")
        except TimeoutError:
            say("lost")
        finally:
            self.held = False

    async def lose(self):
        if self.held:  # the lease may have been lost before the command was read
            await asyncio.Event().wait()

    async def write(self, key, token):
        async with self.pool.acquire() as conn, conn.transaction():
            await conn.execute("SELECT pglock.check_lease($1, $2)", key, int(token))
            await conn.execute("INSERT INTO written VALUES ($1)", key)
        say("written")

    async def example(self):
        await example(self.pool)
        say("done")


if __name__ == "__main__":
    asyncio.run(Worker().main())
