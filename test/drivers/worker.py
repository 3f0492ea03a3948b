"""The Python drivers' half of the workers' protocol (see test/perl/Worker.pm).

A driver is a module with:
  module          the driver's own module, for its version
  Error           the root of the exceptions it raises, and of those the recipe raises
  connect(prepared), lock(conn, ...), example(conn), transaction(conn), begin(conn), run(conn, sql), sqlstate(error)
  slot(conn, key, slots, timeout), session_slot_example(conn), transaction_slot_example(conn), if it has slots
"""

import asyncio
import contextlib
import datetime
import signal
import sys
import uuid

import interruption

KEYS = {"text": str, "integer": int, "uuid": uuid.UUID}


class Failure(Exception):
    """Raised in the innermost block by the command `fail`; it ends them all."""


class Commands:
    """A worker's methods are the commands that it is told."""

    def __init__(self, driver):
        self.driver = driver

    def ready(self):
        say("ready", self.driver.module.__version__.split()[0])

    def block(self):
        """Does what it is told until the end of the block that it is in."""
        for line in iter(sys.stdin.readline, ""):
            command, *arguments = line.rstrip("\n").split("\t")
            if command == "end":
                return
            try:
                getattr(self, command)(*arguments)
            except self.driver.Error as error:
                say("error", self.driver.sqlstate(error))


class Worker(Commands):
    def __init__(self, driver, prepared):
        super().__init__(driver)
        self.prepared = prepared
        self.connect()

    def connect(self):
        self.conn = self.driver.connect(self.prepared)

    def main(self):
        self.ready()
        while True:
            try:
                return self.block()
            except Failure:
                say("failed")

    def lock(self, key, key_type, timeout, shared, scope):
        options = {"shared": shared == "shared", "scope": scope}
        if timeout:
            options["timeout"] = datetime.timedelta(milliseconds=int(timeout))
        with self.driver.lock(self.conn, KEYS[key_type](key), **options):
            say("held")
            self.block()
        say("released")

    def slot(self, key, slots, timeout):
        timeout = datetime.timedelta(milliseconds=int(timeout)) if timeout else None
        with self.driver.slot(self.conn, key, int(slots), timeout) as number:
            say("held", number)
            self.block()
        say("released")

    def example(self):
        self.driver.example(self.conn)
        say("done")

    def slot_example(self, scope):
        getattr(self.driver, f"{scope}_slot_example")(self.conn)
        say("done")

    def transaction(self):
        with self.driver.transaction(self.conn):
            say("begun")
            self.block()
        say("committed")

    def begin(self):
        self.driver.begin(self.conn)
        say("begun")

    def run(self, sql):
        say("row", self.driver.run(self.conn, sql))

    def run_quietly(self, sql):
        return str(self.driver.run(self.conn, sql))

    def interrupt(self, how, rounds, microseconds, manner):
        race = interruption.Race(self, how, manner)
        race.run(int(rounds), int(microseconds) / 1e6)
        say("interrupted", race.interrupted, race.left, race.closed)

    def trap(self, key):
        say("trapped", self.driver.trap(self.conn, key))

    def give_up(self, key):
        def interrupt(*_):
            raise interruption.Interrupted

        signal.signal(signal.SIGUSR2, interrupt)
        try:
            with self.driver.lock(self.conn, key):
                self.block()
        except interruption.Interrupted:
            say("gave up")

    def fail(self):
        raise Failure


class Awaiting:
    """A driver of coroutines and asynchronous context managers, for callers who are not asynchronous."""

    def __init__(self, driver):
        self.driver = driver
        # it cancels what it runs at SIGINT
        self.runner = asyncio.Runner()

    def __getattr__(self, name):
        attribute = getattr(self.driver, name)
        if isinstance(attribute, type) or not callable(attribute) or name == "sqlstate":
            return attribute
        return lambda *args, **options: self.wait_for(attribute(*args, **options))

    def wait_for(self, result):
        if hasattr(result, "__aenter__"):
            return self.within(result)
        return self.runner.run(result)

    @contextlib.contextmanager
    def within(self, block):
        self.runner.run(block.__aenter__())
        try:
            yield
        except BaseException as error:
            if not self.runner.run(block.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self.runner.run(block.__aexit__(None, None, None))


def say(*words):
    print(*words, sep="\t", flush=True)


def main(driver, close=lambda conn: conn.close()):
    """Serves a driver's module."""
    worker = Worker(driver, "prepared" in sys.argv[1:])
    worker.main()
    close(worker.conn)


def main_async(driver):
    """Serves one whose functions are coroutines."""
    awaiting = Awaiting(driver)
    main(awaiting, lambda conn: awaiting.wait_for(conn.close()))
