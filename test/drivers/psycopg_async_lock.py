# psycopg 3 with asyncio. The connection is in autocommit (`AsyncConnection.connect(autocommit=True)`), and
# `conn.transaction()` begins and commits.

import asyncio
import contextlib
import sys
from datetime import timedelta

import psycopg
import worker
from psycopg.pq import TransactionStatus


# [recipe]
@contextlib.asynccontextmanager
async def lock(conn, key, timeout=None, shared=False, scope="session"):
    # a task of its own, which is not cancelled with this one: its answer says whether the lock is held
    call = asyncio.ensure_future(conn.execute("CALL pglock.lock(%s, %s, %s, %s)", (key, timeout, shared, scope)))
    try:
        await asyncio.shield(call)
        yield
    except BaseException:
        await end_call(conn, call)
        if scope == "session" and not call.exception():
            await clean_up(conn, key, shared)
        raise
    if scope == "session":
        await release(conn, key, shared)


async def end_call(conn, call):
    try:
        while not call.done():
            # a cancel that is there before the call does nothing
            await asyncio.to_thread(conn.cancel)
            await asyncio.wait([call], timeout=1)
        call.exception()
    except BaseException:  # cancelled again, or the event loop ends
        await conn.close()
        raise


async def clean_up(conn, key, shared):
    status = conn.info.transaction_status
    if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        await conn.close()
        return
    try:
        if status != TransactionStatus.IDLE:
            await conn.execute("ROLLBACK")
    except BaseException:
        await conn.close()
        raise
    await release(conn, key, shared)


async def release(conn, key, shared):
    try:
        await conn.execute("SELECT pglock.release(%s, %s)", (key, shared))
    except BaseException:
        await conn.close()
        raise
# [end]


async def example(conn):
    # [example]
    async with lock(conn, "order:42", timeout=timedelta(seconds=5)), conn.transaction():
        await conn.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    # [end]


module = psycopg
Error = psycopg.Error


async def connect(prepared):
    conn = await psycopg.AsyncConnection.connect(autocommit=True)
    conn.prepare_threshold = 0 if prepared else None
    return conn


def transaction(conn):
    return conn.transaction()


async def begin(conn):
    await conn.execute("BEGIN")


async def run(conn, sql):
    return (await (await conn.execute(sql)).fetchone())[0]


def sqlstate(error):
    return error.sqlstate


if __name__ == "__main__":
    worker.main_async(sys.modules[__name__])
