"""A client of make chaos, which takes its time.

  worker.py NUMBER SEED FOLDER KIND

`all` does what those do. `plain` does without what has to be written to the log, which a server that has lost its
synchronous standbys does not answer: it only takes locks and slots. `leases` only takes leases. With a server that
goes on beside another primary, those that write soon wait for its standbys.
"""

import os
import sys
import time

sys.path.insert(0, f"{os.path.dirname(os.path.abspath(__file__))}/../chaos")

import client  # noqa: E402
from client import LEASES, LOCKS, MS  # noqa: E402

client.PAUSE = 0.1


class Client(client.Client):
    def __init__(self, number, seed, folder, kind):
        super().__init__(number, seed, folder)
        self.activities |= {"plain": self.plain, "short_lease": self.short_lease}
        self.names = {"plain": ["plain", "plain", "slot"], "leases": ["short_lease"], "all": self.names}[kind]

    def act(self):
        super().act()
        time.sleep(self.random.random() * 0.03)

    def plain(self):
        key = self.random.choice(LOCKS)
        if self.take(key, False, "session", timeout=self.some_time()):
            self.doze(10 * MS)
            self.call("held", key=key)
            self.call("release", key=key, shared=False)

    def short_lease(self):
        key, slots = self.random.choice(list(LEASES.items()))
        token = self.call("acquire_lease", key=key, ttl=500 * MS, timeout=self.some_time(), slots=slots)
        if token is not None:
            self.doze(20 * MS)
            self.call("release_lease", key=key, token=token)


def main():
    number, seed, folder, kind = sys.argv[1:]
    Client(int(number), seed, folder, kind).run()


if __name__ == "__main__":
    main()
