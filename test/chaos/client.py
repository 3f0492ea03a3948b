"""A client: it takes locks, slots and leases by chance, uses them, gives them back, and writes its history.

  client.py NUMBER SEED FOLDER [CONTROL]

Every other client uses psycopg 2 and the simple protocol, the others psycopg 3, the extended protocol and prepared
statements. It goes on until there is a file `over` in the folder, and waits for the server when it has lost its
session, whose leases it keeps. With a CONTROL it sends what statements.py says of that in place of what it means.
"""

import os
import random
import sys
import time

from history import History, now
from statements import CONTROLS, STATEMENTS

LOCKS = ["k1", "k2", "k3"]
SLOTS = {"s1": 1, "s2": 2, "s3": 3}
LEASES = {"l1": 1, "l2": 1, "m2": 2}
MS = 1_000_000
# the server and its standby, of which the one is meant that can be written to
SERVERS = os.environ.get("SERVERS")
# before it connects again, in seconds
PAUSE = 0.02


class Lost(Exception):
    """The session is gone."""


class Refused(Exception):
    """The call has failed; the session goes on."""


def driver_of(number):
    """Only the one that is used is loaded: that takes longer than to connect."""
    if number % 2:
        import psycopg2 as driver
    else:
        import psycopg as driver
    return driver


def sqlstate_of(error):
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


class Session:
    """Sends calls, and writes to the history before and after. One call waits for the answer of the other."""

    def __init__(self, driver, history, statements):
        self.driver = driver
        self.history = history
        self.statements = statements
        self.connection = driver.connect(SERVERS, application_name="chaos client")
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        info = self.connection.info
        self.history.write("connect", pid=info.backend_pid, server=info.port)
        self.in_block = False

    def call(self, call, **arguments):
        self.history.write("call", call=call, **arguments)
        try:
            # without arguments psycopg 3 uses the simple protocol
            self.cursor.execute(self.statements[call], spelled(arguments) or None)
            value = self.cursor.fetchone()[0] if self.cursor.description else None
        except self.driver.Error as error:
            if self.connection.closed or sqlstate_of(error) is None:
                self.history.write("lost", why=str(error)[:200])
                raise Lost from error
            self.history.write("error", sqlstate=sqlstate_of(error), message=str(error)[:300])
            raise Refused from error
        self.history.write("answer", value=value)
        return value

    def pipeline(self, calls):
        """Sends all before the first answer has come, with psycopg 3. After an error none is executed."""
        connection, pq = self.connection.pgconn, self.driver.pq
        cursor = self.driver.ClientCursor(self.connection)
        sent = now()
        self.history.write("pipeline", calls=[{"at": sent, "call": call, **arguments} for call, arguments in calls])
        connection.enter_pipeline_mode()
        for call, arguments in calls:
            connection.send_query_params(cursor.mogrify(self.statements[call], spelled(arguments)).encode(), None)
        connection.pipeline_sync()
        while connection.flush():
            time.sleep(0.001)
        for call, arguments in calls:
            result = connection.get_result()
            if result and result.status == pq.ExecStatus.PIPELINE_ABORTED:
                break
            self.history.write("call", at=sent, call=call, **arguments)
            sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE) if result else b""
            # the server says 57P0x when it ends a session; an error without a code is libpq's
            if result is None or (sqlstate or b"57P")[:3] == b"57P" and result.error_message:
                self.history.write("lost", why="in a pipeline")
                raise Lost
            if sqlstate:
                self.history.write("error", sqlstate=sqlstate.decode(), message=result.error_message.decode())
            else:
                self.history.write("answer", value=result.get_value(0, 0) == b"t")
            # the end of this one's results
            connection.get_result()
        while (result := connection.get_result()) is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            if connection.status != pq.ConnStatus.OK:
                self.history.write("lost", why="at the end of a pipeline")
                raise Lost
        connection.exit_pipeline_mode()
        self.history.write("pipeline_end")

    def close(self):
        self.connection.close()
        self.history.write("close")


def spelled(arguments):
    """Times, which are nanoseconds in the history, as intervals."""
    times = ("timeout", "ttl")
    return {
        name: f"{value // 1000} us" if name in times and value is not None else value
        for name, value in arguments.items()
    }


class Client:
    def __init__(self, number, seed, folder, control=None):
        self.random = random.Random(f"{seed} {number}")
        self.driver = driver_of(number)
        self.over = f"{folder}/over"
        self.parent = os.getppid()
        self.history = History(f"{folder}/client.{number}")
        replaced, only, _ = CONTROLS[control] if control else ({}, None, None)
        self.statements = STATEMENTS | replaced
        self.activities = {"lock": self.lock, "many": self.many, "slot": self.slot, "lease": self.lease}
        self.activities["pipeline"] = self.pipeline
        self.names = [only] if only else ["lock", "lock", "many", "slot", "lease", "lease"]
        if number % 2 == 0 and not only:
            self.names += ["pipeline", "pipeline"]
        self.leases = []
        self.session = None

    def run(self):
        while not os.path.exists(self.over) and os.getppid() == self.parent:
            try:
                self.session = self.session or Session(self.driver, self.history, self.statements)
                self.act()
                if self.chance(0.005):
                    # with all that it holds
                    self.session.close()
                    self.session = None
            except Lost:
                self.session = None
            except self.driver.OperationalError:
                time.sleep(PAUSE)
        if self.session:
            self.session.close()

    def act(self):
        try:
            self.activities[self.random.choice(self.names)]()
        except Refused:
            pass
        # what is left at session scope may stay for the next one
        if self.session.in_block or self.chance(0.95):
            self.clean_up()

    def clean_up(self):
        """Ends what the last activity has left, however often that is cancelled."""
        while True:
            try:
                if self.session.in_block:
                    self.end("rollback")
                self.call("release_all")
                return
            except Refused:
                pass

    # what all activities use

    def call(self, call, **arguments):
        return self.session.call(call, **arguments)

    def chance(self, share):
        return self.random.random() < share

    def doze(self, longest):
        time.sleep(self.random.random() ** 2 * longest / 1e9)

    def some_time(self):
        """A timeout: often too short."""
        return self.random.choice([1, 3, 10, 50, 500]) * MS

    def begin(self):
        self.call("begin")
        self.session.in_block = True

    def end(self, how=None):
        self.session.in_block = False
        try:
            self.call(how or ("commit" if self.chance(0.8) else "rollback"))
        except Refused:
            self.session.in_block = True
            raise

    def scope(self):
        """Begins the block that transaction scope wants."""
        if self.session.in_block or self.chance(0.4):
            if not self.session.in_block:
                self.begin()
            return "transaction"
        return "session"

    # locks

    def lock(self):
        scope = self.scope()
        key = self.random.choice(LOCKS)
        shared = self.chance(0.3)
        if self.take(key, shared, scope):
            self.use(key, shared)
            if self.chance(0.2):
                self.take_more(scope)
            if scope == "transaction" and self.chance(0.2):
                self.take_in_savepoint()
            if self.chance(0.1):
                # a reader becomes a writer, or one takes it once more
                self.take(key, self.chance(0.3), scope, timeout=self.some_time())
            if scope == "session" and self.chance(0.9):
                self.call("release", key=key, shared=shared)
        if scope == "transaction":
            self.end()
        if self.chance(0.1):
            self.call("held", key=key)

    def take(self, key, shared, scope, timeout=None):
        how = dict(key=key, shared=shared, scope=scope)
        way = self.random.choice(["acquire", "acquire", "try", "lock"])
        try:
            if way == "try":
                return self.call("try", **how)
            if timeout is None and self.chance(0.6):
                timeout = self.some_time()
            answer = self.call(way, timeout=timeout, **how)
            return answer or way == "lock"
        except Refused:
            if not self.session.in_block and self.chance(0.7):
                self.call("held", key=key)
            raise

    def take_more(self, scope):
        """While it holds one: where two do so the other way round, that is a deadlock."""
        key = self.random.choice(LOCKS)
        shared = self.chance(0.3)
        if self.take(key, shared, "session" if self.chance(0.2) else scope, timeout=self.some_time()):
            self.use(key, shared)

    def take_in_savepoint(self):
        self.call("savepoint")
        try:
            self.take_more("transaction")
            if self.chance(0.5):
                return
        except Refused:
            pass
        self.call("rollback_to")

    def use(self, key, shared):
        self.doze(4 * MS)
        if not shared and self.chance(0.5):
            self.call("token", key=key)
        if self.chance(0.3):
            self.call("held", key=key)
        if not shared and self.chance(0.5):
            self.add(key)

    def add(self, key):
        """What goes wrong if somebody else does it at the same time."""
        value = self.call("read", key=key)
        self.doze(2 * MS)
        self.call("write", key=key, new=value + 1)

    def many(self):
        scope = self.scope()
        keys = self.random.sample(LOCKS, self.random.randint(1, len(LOCKS)))
        timeout = None if self.chance(0.2) else self.random.choice([0, 1, 5, 50]) * MS
        if self.call("acquire_all", keys=keys, timeout=timeout, shared=self.chance(0.3), scope=scope):
            self.doze(3 * MS)
            self.call("held", key=self.random.choice(keys))
        if scope == "transaction":
            self.end()

    def pipeline(self):
        """What a statement took that was complete stays, whatever becomes of those behind it."""
        key = self.random.choice(LOCKS)
        which = dict(key=key, shared=self.chance(0.3))
        calls = [("acquire", dict(**which, scope="session", timeout=self.some_time())), ("held", dict(key=key))]
        calls += [("acquire", dict(**which, scope="session", timeout=self.some_time()))] * self.chance(0.5)
        calls += [("release", which)] * self.chance(0.5)
        self.session.pipeline(calls)
        self.call("held", key=key)

    # slots

    def slot(self):
        scope = self.scope()
        key, most = self.random.choice(list(SLOTS.items()))
        how = dict(key=key, slots=self.random.choice([most, self.random.randint(1, most)]), scope=scope)
        taken = []
        for _ in range(self.random.choice([1, 1, 1, 2])):
            way = self.random.choice(["acquire_slot", "try_slot", "slot"])
            # nobody sees a deadlock of those who wait for any of several slots
            timeout = {} if way == "try_slot" else {"timeout": self.some_time()}
            slot = self.call(way, **how, **timeout)
            if slot is not None:
                taken.append(slot)
        self.doze(4 * MS)
        if scope == "session":
            for slot in taken:
                self.call("release_slot", key=key, slot=slot)
        else:
            self.end()

    # leases

    def lease(self):
        """Goes on with a lease, or takes another one."""
        if self.leases and (len(self.leases) > 2 or self.chance(0.7)):
            lease = self.random.choice(self.leases)
            activities = [self.renew, self.renew_all, self.write_under, self.write_under, self.look, self.give_back]
            self.random.choice(activities)(lease)
        else:
            self.take_lease()
        self.doze(10 * MS)

    def take_lease(self):
        key, most = self.random.choice(list(LEASES.items()))
        how = dict(key=key, ttl=self.some_ttl(), slots=self.random.choice([most, self.random.randint(1, most)]))
        way = self.random.choice(["acquire_lease", "try_lease", "lease"])
        in_block = self.chance(0.2)
        if in_block:
            self.begin()
        timeout = {} if way == "try_lease" else {"timeout": self.some_time()}
        token = self.call(way, **how, **timeout)
        if in_block:
            self.end()
        # the one that was rolled back is gone, which any call for it will tell
        if token is not None:
            self.leases.append((key, token))

    def some_ttl(self):
        return self.random.choice([5, 20, 50, 150, 500]) * MS

    def renew(self, lease):
        self.keep_if(lease, self.call("renew", **of(lease), ttl=None if self.chance(0.5) else self.some_ttl()))

    def renew_all(self, _):
        tokens = [token for _, token in self.leases]
        renewed = self.call("renew_all", tokens=tokens, ttl=None if self.chance(0.5) else self.some_ttl())
        self.leases = [lease for lease in self.leases if lease[1] in (renewed or [])]

    def keep_if(self, lease, is_held):
        if not is_held:
            self.leases.remove(lease)

    def write_under(self, lease):
        self.begin()
        try:
            self.call("check", **of(lease))
        except Refused:
            self.leases.remove(lease)
            raise
        if lease[0].startswith("l"):
            self.add(lease[0])
        self.doze(20 * MS)
        if self.chance(0.2):
            self.leases.remove(lease)
            self.call("release_lease", **of(lease))
        self.end()

    def look(self, lease):
        self.keep_if(lease, self.call("holds_lease", **of(lease)))

    def give_back(self, lease):
        self.leases.remove(lease)
        if self.chance(0.7):
            self.call("release_lease", **of(lease))


def of(lease):
    key, token = lease
    return dict(key=key, token=token)


def main():
    number, seed, folder, *control = sys.argv[1:]
    Client(int(number), seed, folder, *control).run()


if __name__ == "__main__":
    main()
