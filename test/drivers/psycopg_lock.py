# psycopg 3. The connection is in autocommit (`psycopg.connect(autocommit=True)`), and `conn.transaction()` begins
# and commits.

import contextlib
import selectors
import sys
from datetime import timedelta

import psycopg
import worker
from psycopg.pq import TransactionStatus


# [recipe]
def lock(conn, key, timeout=None, shared=False, scope="session"):
    take = "CALL pglock.lock(%s, %s, %s, %s)", [key, timeout, shared, scope]
    ask = "SELECT WHERE pglock.held(%s)", [key]
    return hold(conn, scope, take, ask, lambda _: ("SELECT pglock.release(%s, %s)", [key, shared]))


@contextlib.contextmanager
def hold(conn, scope, take, ask, release):  # statements with their values; `release` makes one of an answer
    cursor = conn.cursor()
    answer = None  # unknown until the server has answered
    try:
        cursor.execute(*take)
        answer = answer_of(conn, cursor)
        yield answer[0] if answer else None
    except BaseException as error:
        if answer is None:
            answer = False if isinstance(error, psycopg.Error) else answer_of(conn, cursor)
        if scope == "session" and answer is not False:
            clean_up(conn, answer, ask, release)
        raise
    if scope == "session":
        with closed_if_it_fails(conn):
            conn.execute(*release(answer))


def answer_of(conn, cursor):
    """What the call answered: nothing, or a slot's number. None if that is unknown. Ends one that was interrupted."""
    results = [cursor.pgresult]
    if conn.info.transaction_status == TransactionStatus.ACTIVE:
        with closed_if_it_fails(conn), selectors.DefaultSelector() as selector:
            selector.register(conn, selectors.EVENT_READ)
            while conn.pgconn.is_busy():
                conn.cancel()  # one that is there before the call does nothing
                selector.select(timeout=1)
                conn.pgconn.consume_input()
            results += iter(conn.pgconn.get_result, None)
    calls = [result for result in results if result and result.command_status == b"CALL"]
    return [int(calls[0].get_value(0, column)) for column in range(calls[0].nfields)] if calls else None


def clean_up(conn, answer, ask, release):
    status = conn.info.transaction_status
    if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        return conn.close()
    with closed_if_it_fails(conn):
        if status != TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
        if answer is not None:
            conn.execute(*release(answer))
        elif conn.execute(*ask).rowcount:
            conn.close()  # an outer block may hold it too: closing is the only safe way


@contextlib.contextmanager
def closed_if_it_fails(conn):
    try:
        yield
    except BaseException:
        conn.close()
        raise
# [end]


def example(conn):
    # [example]
    with lock(conn, "order:42", timeout=timedelta(seconds=5)), conn.transaction():
        conn.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    # [end]


# [slot recipe]
def slot(conn, key, slots, timeout=None):
    take = "CALL pglock.slot(%s, %s, %s)", [key, slots, timeout]
    ask = "SELECT FROM pglock.locks WHERE pid = pg_backend_pid() AND lock_id = pglock.lock_id(%s) AND slot > 0", [key]
    return hold(conn, "session", take, ask, lambda number: ("SELECT pglock.release_slot(%s, %s)", [key, *number]))
# [end]


def session_slot_example(conn):
    # [slot example]
    with slot(conn, "workers", 5, timeout=timedelta(seconds=5)) as number, conn.transaction():
        conn.execute("UPDATE orders SET state = 'paid' WHERE mod(id, 5) + 1 = %s", (number,))
    # [end]


def transaction_slot_example(conn):
    # [slot in a transaction]
    with conn.transaction():
        (number,) = conn.execute("CALL pglock.slot('workers', 5, '5s', 'transaction')").fetchone()
        conn.execute("UPDATE orders SET state = 'paid' WHERE mod(id, 5) + 1 = %s", (number,))
    # [end]


module = psycopg
Error = psycopg.Error


def connect(prepared):
    conn = psycopg.connect(autocommit=True)
    conn.prepare_threshold = 0 if prepared else None
    return conn


def transaction(conn):
    return conn.transaction()


def begin(conn):
    conn.execute("BEGIN")


def run(conn, sql):
    return conn.execute(sql).fetchone()[0]


def sqlstate(error):
    return error.sqlstate


if __name__ == "__main__":
    worker.main(sys.modules[__name__])
