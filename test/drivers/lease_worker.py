"""The Python drivers' half of the protocol of those who take leases (see test/perl/Worker.pm).

A driver is a module with:
  module     the driver's own module, for its version
  Error      the root of the exceptions it raises
  connect    what lease() and example() are given
  lease(connect, key, ttl, timeout), example(connect), write(key, token), sqlstate(error)
"""

import time
from datetime import timedelta

from worker import Commands, say


class Lost(Exception):
    """Ends the block of a lease that may not be held any more."""


class Worker(Commands):
    def main(self):
        self.ready()
        self.block()

    def lease(self, key, ttl, timeout):
        try:
            with self.driver.lease(self.driver.connect, key, duration(ttl), duration(timeout)) as (token, self.held):
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
        self.driver.write(key, int(token))
        say("written")

    def example(self):
        self.driver.example(self.driver.connect)
        say("done")


def duration(milliseconds):
    return timedelta(milliseconds=int(milliseconds)) if milliseconds else None


def main(driver):
    """Serves a driver's module."""
    Worker(driver).main()
