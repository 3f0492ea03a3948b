"""What happens to clients, sessions and the server while clients are at it.

Events come one after the other, at random moments. Whoever is stopped goes on by itself a little later, whatever
happens meanwhile. Only processes that this command has started are signalled: its clients, and children of its
server's postmaster.
"""

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import psycopg2

from client import SERVERS
from history import History, now

# the fleet's sessions by their name
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'chaos client'"
# each in turn, and nobody else whatever the planner thinks
SIGNAL_ALL = f"SELECT pg_{{}}_backend(pid) FROM ({SESSIONS} OFFSET 0) AS sessions"
HOLDERS = """SELECT coalesce(array_agg(DISTINCT pid), '{}'), (SELECT count(*) FROM pglock.locks)
    FROM pg_locks WHERE locktype = 'advisory'"""
# of the server and of its standby, by turns
PORTS = [5432, 5433]
OPTIONS = "-c statement_timeout=60s -c lock_timeout=0"

TO_SESSIONS = ["kill_client", "kill_client", "stop_client", "stop_client", "terminate", "terminate", "terminate_all"]
TO_SESSIONS += ["cancel", "cancel", "cancel", "cancel_all", "stop_backend", "stop_backend", "storm"]
TO_SERVER = ["restart", "kill_backend"]


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Server:
    """The command's own server, and a session of ours that is left alone."""

    def __init__(self, data, log):
        self.first_data = self.data = data
        self.log = log
        self.connection = None
        self.standbys = 0

    def query(self, statement, *parameters):
        """The rows; waits for a server that restarts."""
        while True:
            try:
                if self.connection is None or self.connection.closed:
                    self.connection = psycopg2.connect(SERVERS, application_name="chaos", options=OPTIONS)
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
        self.pg_ctl("restart", "-m", "immediate", "-l", self.log)

    def pg_ctl(self, command, *options, data=None):
        run("pg_ctl", command, "-w", "-D", data or self.data, *options)

    def make_standby(self):
        """A synchronous one, which has all that anybody was answered for from now on."""
        self.standbys += 1
        self.standby = f"{self.first_data}.{self.standbys}"
        port = PORTS[self.standbys % 2]
        run("pg_basebackup", "-D", self.standby, "-R", "-c", "fast", "--no-sync", "-d", SERVERS)
        with open(f"{self.standby}/postgresql.auto.conf", "a", encoding="utf8") as file:
            file.write(f"port = {port}\n")
        self.pg_ctl("start", "-l", self.log, data=self.standby)
        self.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.query("SELECT pg_reload_conf()")
        # whoever sees the setting was started after the checkpointer, which puts it into effect, was told of it
        while self.value("SHOW synchronous_standby_names") != "*":
            self.connection = None
            time.sleep(0.01)
        self.query("CHECKPOINT")
        end = self.value("SELECT pg_current_wal_insert_lsn()")
        while not self.value("SELECT bool_or(flush_lsn >= %s) FROM pg_stat_replication", end):
            time.sleep(0.01)

    def fail_over(self):
        """The server is gone before the standby takes over."""
        self.pg_ctl("stop", "-m", "immediate")
        self.pg_ctl("promote", data=self.standby)
        shutil.rmtree(self.data)
        self.data = self.standby


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
        while left or now() < until:
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
        self.server.query(f"ALTER SYSTEM RESET {setting}")
        self.server.query("SELECT pg_reload_conf()")

    # the server

    def kill_backend(self):
        self.server.signal(self.session(), signal.SIGKILL)

    def restart(self):
        self.server.restart()

    def fail_over(self):
        self.server.make_standby()
        time.sleep(self.random.random())
        self.server.fail_over()
