"""A cluster of three PostgreSQL servers under Patroni, with an etcd of its own.

All of it is in one folder and on ports of this machine's loopback that nobody uses. Whatever happens, end() leaves
no process behind: all that was started here has its working directory in that folder.
"""

import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import psycopg2

NODES = ["node1", "node2", "node3"]
# below the ports that outgoing connections get, which a server that starts again could find taken
PORTS = range(15000, 32000)
LONG = 120


class Failed(Exception):
    """The cluster does not do what it should."""


def free_ports(count):
    found = []
    while len(found) < count:
        port = random.choice(PORTS)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def wait_until(what, is_so, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain: {what}")
        time.sleep(0.05)
    return answer


class Node:
    """A Patroni, and the PostgreSQL it runs."""

    def __init__(self, name, folder, port, rest):
        self.name = name
        self.folder = folder
        self.data = f"{folder}/{name}"
        self.port = port
        self.rest = rest
        self.process = None
        self.connection = None

    def start(self):
        with open(f"{self.folder}/{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                ["patroni", f"{self.folder}/{self.name}.json"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    # Patroni

    def ask(self, path, method="GET", **body):
        """The status, and what it answers; None: Patroni does not."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest}{path}", json.dumps(body).encode() if body else None, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=LONG if method != "GET" else 3) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None, ""

    def is_primary(self):
        return self.ask("/primary")[0] == 200

    def stop_patroni(self):
        self.process.send_signal(signal.SIGSTOP)

    def kill_patroni(self):
        self.process.kill()
        self.process.wait()

    # PostgreSQL

    def conninfo(self):
        return f"host={self.folder} port={self.port} user=postgres dbname=postgres connect_timeout=3"

    def query(self, statement, *parameters):
        """The rows, by a session of ours that stays."""
        if self.connection is None or self.connection.closed:
            self.connection = psycopg2.connect(self.conninfo(), application_name="ha")
            self.connection.autocommit = True
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement, *parameters):
        return self.query(statement, *parameters)[0][0]

    def try_value(self, statement):
        """None where it is not to be had."""
        try:
            return self.value(statement)
        except psycopg2.Error:
            return None

    def postmaster(self):
        with open(f"{self.data}/postmaster.pid", encoding="utf8") as file:
            return int(file.readline())

    def kill_postmaster(self):
        os.kill(self.postmaster(), signal.SIGKILL)


class Cluster:
    def __init__(self, folder, bin_folder, ttl):
        self.folder = folder
        self.bin_folder = bin_folder
        self.ttl = ttl
        ports = free_ports(2 + 2 * len(NODES))
        self.etcd_ports = ports[:2]
        self.etcd = None
        self.nodes = [
            Node(name, folder, ports[2 + 2 * i], ports[3 + 2 * i]) for i, name in enumerate(NODES)
        ]

    # beginning and end

    def start(self):
        client, peer = self.etcd_ports
        with open(f"{self.folder}/etcd.log", "ab") as log:
            self.etcd = subprocess.Popen(
                ["etcd", "--name", "etcd", "--data-dir", f"{self.folder}/etcd", "--unsafe-no-fsync"]
                + [f"--{name}=http://127.0.0.1:{client}" for name in ("listen-client-urls", "advertise-client-urls")]
                + [f"--{name}=http://127.0.0.1:{peer}" for name in ("listen-peer-urls", "initial-advertise-peer-urls")]
                + [f"--initial-cluster=etcd=http://127.0.0.1:{peer}"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until("etcd answers", self.etcd_answers)
        for node in self.nodes:
            with open(f"{self.folder}/{node.name}.json", "w", encoding="utf8") as file:
                # JSON is YAML
                json.dump(self.configuration(node), file, indent=1)
        self.nodes[0].start()
        wait_until("the first server is a primary", self.nodes[0].is_primary)
        for node in self.nodes[1:]:
            node.start()
        self.wait_until_whole()

    def etcd_answers(self):
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.etcd_ports[0])) == 0

    def configuration(self, node):
        """As Patroni's documentation has it, but for the times, and that a server that has gone astray is made anew."""
        return {
            "scope": "postgres_lock",
            "name": node.name,
            "restapi": {"listen": f"127.0.0.1:{node.rest}", "connect_address": f"127.0.0.1:{node.rest}"},
            "etcd3": {"hosts": [f"127.0.0.1:{self.etcd_ports[0]}"]},
            "bootstrap": {
                "dcs": {
                    "ttl": self.ttl,
                    "loop_wait": max(1, self.ttl // 3),
                    "retry_timeout": max(1, self.ttl // 3),
                    "synchronous_mode": False,
                    "postgresql": {"parameters": {"max_connections": 60, "wal_keep_size": "128MB"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{node.port}",
                "connect_address": f"127.0.0.1:{node.port}",
                "data_dir": node.data,
                "bin_dir": self.bin_folder,
                "pgpass": f"{self.folder}/{node.name}.pgpass",
                "use_unix_socket": True,
                "remove_data_directory_on_diverged_timelines": True,
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator", "password": "replicator"},
                },
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
                "pg_hba": ["local all all trust"]
                + [f"host {database} all 127.0.0.1/32 trust" for database in ("all", "replication")],
                "parameters": {
                    "unix_socket_directories": self.folder,
                    "shared_preload_libraries": "postgres_lock",
                    "fsync": "off",
                    "deadlock_timeout": "5ms",
                },
            },
            "watchdog": {"mode": "off"},
        }

    def end(self):
        """Patroni first, which would start what is ended. It may be stopped: only this signal is certain to end it."""
        for process in [node.process for node in self.nodes] + [self.etcd]:
            if process is not None:
                process.kill()
                process.wait()
        # what a server shares with its children stays in memory if it is killed
        for node in self.nodes:
            if os.path.exists(f"{node.data}/postmaster.pid"):
                subprocess.run(
                    [f"{self.bin_folder}/pg_ctl", "stop", "-m", "immediate", "-D", node.data],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        # a child of Patroni may have been about to start one
        deadline = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            time.sleep(0.1)

    def processes(self):
        """Those that work in our folder, but for this one."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                place = os.readlink(f"/proc/{pid}/cwd")
            except OSError:
                continue
            if (place + "/").startswith(self.folder + "/") and int(pid) != os.getpid():
                found.append(int(pid))
        return found

    # what it is like

    def primary(self):
        """The node of which Patroni says so."""
        return next((node for node in self.nodes if node.process is not None and node.is_primary()), None)

    def wait_for_primary(self, other_than):
        """Another one, that can be written to: Patroni calls it a primary before it is promoted."""

        def is_meant(node):
            return node is not other_than and node.is_primary() and node.try_value("SELECT NOT pg_is_in_recovery()")

        return wait_until("there is another primary", lambda: next(filter(is_meant, self.nodes), None))

    def is_whole(self):
        """All follow the primary, and one of them synchronously if that is asked for."""
        primary = self.primary()
        if primary is None:
            return False
        if primary.try_value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") != len(NODES) - 1:
            return False
        _, answer = primary.ask("/cluster")
        roles = [member["role"] for member in json.loads(answer)["members"]] if answer else []
        # Patroni says so when it has written that down, which is after PostgreSQL does
        return ("sync_standby" in roles) == self.is_synchronous()

    def is_synchronous(self):
        for node in self.nodes:
            status, answer = node.ask("/config")
            if status == 200:
                return json.loads(answer)["synchronous_mode"]
        return False

    def wait_until_whole(self):
        wait_until("all standbys follow the primary", self.is_whole)
        return self.primary()

    def set_synchronous(self, is_synchronous):
        primary = self.wait_until_whole()
        primary.ask("/config", "PATCH", synchronous_mode=is_synchronous)
        names = "SELECT current_setting('synchronous_standby_names') <> ''"
        wait_until("the mode is in effect", lambda: primary.try_value(names) == is_synchronous)
        return self.wait_until_whole()

    def switch_over(self, primary):
        status, answer = primary.ask("/switchover", "POST", leader=primary.name)
        if status != 200:
            raise Failed(f"no switchover: {status} {answer}")
