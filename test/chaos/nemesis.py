"""What happens to clients, sessions and the server while clients are at it.

Events come one after the other, at random moments. Whoever is stopped goes on by itself a little later, whatever
happens meanwhile. Only processes that this command has started are signalled: its clients, and children of its
server's postmaster.
"""

import os
import random
import signal
import subprocess
import threading
import time

import psycopg2

from history import History, now

# the fleet's sessions by their name
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'chaos client'"
# each in turn, and nobody else whatever the planner thinks
SIGNAL_ALL = f"SELECT pg_{{}}_backend(pid) FROM ({SESSIONS} OFFSET 0) AS sessions"
HOLDERS = """SELECT coalesce(array_agg(DISTINCT pid), '{}'), (SELECT count(*) FROM pglock.locks)
    FROM pg_locks WHERE locktype = 'advisory'"""


class Server:
    """The command's own server, and a session of ours that is left alone."""

    def __init__(self, data, log):
        self.data = data
        self.log = log
        self.connection = None

    def query(self, statement, *parameters):
        """The rows; waits for a server that restarts."""
        while True:
            try:
                if self.connection is None or self.connection.closed:
                    self.connection = psycopg2.connect(application_name="chaos", options="-c statement_timeout=60s -c lock_timeout=0")
                    self.connection.autocommit = True
                with self.connection.cursor() as cursor:
                    cursor.execute(statement, parameters or None)
                    return cursor.fetchall() if cursor.description else []
            except psycopg2.Error as error:
                if error.pgcode is not None and not self.connection.closed:
                    raise
                self.connection = None
                time.sleep(0.02)

    def value(self, statement, *parameters):
        return self.query(statement, *parameters)[0][0]

    def postmaster(self):
        with open(f"{self.data}/postmaster.pid", encoding="utf8") as file:
            return int(file.readline())

    def signal(self, pid, number):
        """If it is a backend."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf8") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            if parent == self.postmaster():
                os.kill(pid, number)
        except (OSError, ValueError):
            pass

    def restart(self):
        subprocess.run(
            ["pg_ctl", "restart", "-w", "-m", "immediate", "-D", self.data, "-l", self.log],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )


TO_SESSIONS = ["kill_client", "kill_client", "stop_client", "stop_client", "terminate", "terminate", "terminate_all"]
TO_SESSIONS += ["cancel", "cancel", "cancel", "cancel_all", "stop_backend", "stop_backend", "storm"]
TO_SERVER = ["restart", "kill_backend"]


class Nemesis:
    def __init__(self, seed, server, fleet, folder):
        self.random = random.Random(f"{seed} nemesis")
        self.server = server
        self.fleet = fleet
        self.history = History(f"{folder}/nemesis")
        self.stopped = []

    def run(self, until, first, others):
        """Goes through the events in an order of its own, those that are `first` before all others."""
        left = list(first)
        while now() < until:
            if not left:
                left = self.random.sample(others, len(others))
            if left:
                self.do(left.pop(0))
            self.snapshot()
            time.sleep(self.random.random() * 0.15)
        for timer in self.stopped:
            timer.join()

    def do(self, event):
        self.history.write("nemesis", kind=event)
        getattr(self, event)()

    def snapshot(self):
        """Says who had locks at some moment after it was asked for."""
        asked = now()
        pids, _ = self.server.query(HOLDERS)[0]
        self.history.write("snapshot", asked=asked, pids=pids)

    # clients

    def kill_client(self):
        client = self.random.choice(self.fleet.clients)
        client.process.kill()
        client.process.wait()
        self.history.write("killed", client=client.number)
        self.fleet.replace(client)

    def stop_client(self):
        process = self.random.choice(self.fleet.clients).process
        process.send_signal(signal.SIGSTOP)
        self.later(lambda: process.send_signal(signal.SIGCONT))

    def later(self, go_on):
        timer = threading.Timer(self.random.random() * 0.4, go_on)
        timer.start()
        self.stopped.append(timer)

    # sessions

    def session(self):
        pids = [pid for pid, in self.server.query(SESSIONS)]
        return self.random.choice(pids) if pids else 0

    def terminate(self):
        self.server.query("SELECT pg_terminate_backend(%s)", self.session())

    def terminate_all(self):
        self.server.query(SIGNAL_ALL.format("terminate"))

    def cancel(self):
        self.server.query("SELECT pg_cancel_backend(%s)", self.session())

    def cancel_all(self):
        for _ in range(20):
            self.server.query(SIGNAL_ALL.format("cancel"))
            time.sleep(0.005)

    def stop_backend(self):
        pid = self.session()
        self.server.signal(pid, signal.SIGSTOP)
        self.later(lambda: self.server.signal(pid, signal.SIGCONT))

    def storm(self):
        """All sessions have little time for a while."""
        setting = self.random.choice(["statement_timeout", "lock_timeout"])
        self.server.query(f"ALTER SYSTEM SET {setting} = '{self.random.choice([1, 2, 5])}ms'")
        self.server.query("SELECT pg_reload_conf()")
        time.sleep(0.2)
        self.server.query("ALTER SYSTEM RESET ALL")
        self.server.query("SELECT pg_reload_conf()")

    # the server

    def kill_backend(self):
        self.server.signal(self.session(), signal.SIGKILL)

    def restart(self):
        self.server.restart()
