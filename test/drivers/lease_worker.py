"""The Python drivers' half of the protocol of those who take leases (see test/perl/Worker.pm).

A driver is a module with:
  module     the driver's own module, for its version
  Error      the root of the exceptions it raises
  ask(call, *values), write(key, token), pay(order, token)
  insert(conn, key): writes into the table `written`; `conn` is what the block of write() is given
  sqlstate(error)

Those of an asynchronous driver are coroutines and asynchronous context managers. It has one more, opened(), for as long
as it serves.
"""

import asyncio
import sys
import time
from datetime import timedelta

import async_lease
import lease
from worker import Commands, say


class Lost(Exception):
    """Ends the block of a lease that may not be held any more."""


class Worker(Commands):
    def main(self):
        self.ready()
        self.block()

    def lease(self, key, ttl, timeout):
        try:
            with lease.lease(self.driver.ask, key, duration(ttl), duration(timeout)) as (token, self.held):
                say("held", token)
                self.block()
            say("released")
        except Lost:
            say("lost")

    def lose(self):
        while self.held():
            time.sleep(0.01)
        raise Lost

    def write(self, key, token):
        with self.driver.write(key, int(token)) as conn:
            self.driver.insert(conn, key)
        say("written")

    def example(self):
        lease.example(self.driver.ask, self.driver.pay)
        say("done")


class AsyncWorker(Commands):
    held = False

    async def main(self):
        async with self.driver.opened():
            self.ready()
            await self.block()

    async def block(self):
        """Does what it is told until the end of the block that it is in."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = line.rstrip("\n").split("\t")
            if command == "end":
                return
            try:
                await getattr(self, command)(*arguments)
            except self.driver.Error as error:
                say("error", self.driver.sqlstate(error))

    async def lease(self, key, ttl, timeout):
        try:
            async with async_lease.lease(self.driver.ask, key, duration(ttl), duration(timeout)) as token:
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
        async with self.driver.write(key, int(token)) as conn:
            await self.driver.insert(conn, key)
        say("written")

    async def example(self):
        await async_lease.example(self.driver.ask, self.driver.pay)
        say("done")


def duration(milliseconds):
    return timedelta(milliseconds=int(milliseconds)) if milliseconds else None


def main(driver):
    """Serves a driver's module."""
    Worker(driver).main()


def main_async(driver):
    """Serves an asynchronous one."""
    asyncio.run(AsyncWorker(driver).main())
