"""Interrupts a driver at random moments while it takes a lock: the command `interrupt` of test/perl/Worker.pm."""

import asyncio
import datetime
import os
import random
import signal

TIMEOUT = datetime.timedelta(seconds=60)
BARE = "SELECT pglock.acquire('raced', timeout => '60s')"
SESSION = """SELECT pg_backend_pid() || ' ' || count(*) FROM pg_locks
             WHERE pid = pg_backend_pid() AND locktype = 'advisory'"""


class Interrupted(Exception):
    """What a signal handler of the program raises."""


EXCEPTIONS = {
    "SIGINT": KeyboardInterrupt,
    "signal": Interrupted,
    "cancel": asyncio.CancelledError,
    "timeout": TimeoutError,
}


class Race:
    """Many attempts to take the lock, each of which may be interrupted."""

    def __init__(self, worker, how, manner):
        self.worker = worker
        self.driver = worker.driver
        self.how = how
        self.bare = manner == "bare"
        self.slot = manner == "slot"
        self.stopped = manner == "stopped"
        self.interrupted = self.left = self.closed = 0
        # what runs in the background of a shell ignores it
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(self, rounds, longest):
        """Ends at once when a lock was left by a bare statement: there is nothing more to be shown."""
        while rounds > 0 and not (self.bare and self.left):
            rounds -= 1
            session = self.session()
            if self.stopped:
                os.kill(int(session), signal.SIGSTOP)
            # when the exception has gone: it keeps a generator that it has left suspended, until then
            if self.is_interrupted(longest if self.stopped else random.uniform(0, longest)):
                self.interrupted += 1
                self.look(session)
            elif self.bare:
                self.worker.run_quietly("SELECT pglock.release_all()")

    def is_interrupted(self, delay):
        try:
            if hasattr(self.driver, "wait_for"):
                self.driver.wait_for(self.take_async(delay))
            else:
                self.take(delay)
            return False
        except BaseException as error:
            if not self.is_interruption(error):
                raise
            return True

    def is_interruption(self, error):
        """Is it what interrupted, or what a driver or SQLAlchemy made of that?"""
        while error and not isinstance(error, EXCEPTIONS[self.how]):
            error = error.__context__
        return error is not None

    def take(self, delay):
        def interrupt(*_):
            raise EXCEPTIONS[self.how]

        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, delay)
        try:
            if self.bare:
                self.driver.run(self.worker.conn, BARE)
            else:
                with self.recipe():
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def recipe(self):
        if self.slot:
            return self.driver.slot(self.worker.conn, "raced", 1, TIMEOUT)
        return self.driver.lock(self.worker.conn, "raced", timeout=TIMEOUT)

    async def take_async(self, delay):
        driver = self.driver.driver
        async with asyncio.timeout(delay if self.how == "timeout" else None) as limit:
            timer = asyncio.get_running_loop().call_later(delay, self.interrupt_task, asyncio.current_task())
            try:
                if self.bare:
                    await driver.run(self.worker.conn, BARE)
                else:
                    async with driver.lock(self.worker.conn, "raced", timeout=TIMEOUT):
                        timer.cancel()
                        limit.reschedule(None)
            finally:
                timer.cancel()

    def interrupt_task(self, task):
        if self.how == "cancel":
            task.cancel()
        elif self.how == "SIGINT":
            signal.raise_signal(signal.SIGINT)

    def session(self):
        return self.worker.run_quietly(SESSION).split()[0]

    def look(self, session):
        """After an interruption: is a lock left, and is it the same session?"""
        try:
            now, locks = self.worker.run_quietly(SESSION).split()
        except Exception:
            is_closed = self.is_closed()
            self.left += not is_closed
            self.closed += 1
            self.worker.connect()
            if not is_closed:
                # of no use, it may be granted the lock later, and keep it until Python collects the garbage
                self.worker.run_quietly(f"SELECT pg_terminate_backend({session})")
        else:
            self.left += int(locks)
            self.closed += now != session
            if int(locks):
                self.worker.run_quietly("SELECT pglock.release_all()")

    def is_closed(self):
        conn = self.worker.conn
        return conn.is_closed() if hasattr(conn, "is_closed") else bool(conn.closed)
