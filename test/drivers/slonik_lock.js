// slonik. `pool.connect` is one connection, in autocommit, which `connection.transaction` begins and commits on. What
// is not within it, as `pool.one`, holds its lock no longer than the query: DISCARD ALL comes after it. Its limits of
// 60 s (statementTimeout, idleInTransactionSessionTimeout) are for waits and for work under a lock, too.

"use strict";

const { createPool, sql } = require("slonik");
const { serve } = require("./worker.js");

// [recipe]
async function withLock(connection, key, { timeout = null, shared = false, scope = "session" }, work) {
  const run = (query) => connection.query(query);
  const close = async (error) => {
    await run(sql.unsafe`SELECT pg_terminate_backend(pg_backend_pid())`).catch(() => {}); // only the server can close it
    throw error;
  };
  await run(sql.unsafe`CALL pglock.lock(${key}, ${timeout}::interval, ${shared}, ${scope})`);
  try {
    return await work();
  } catch (error) {
    if (scope === "session") await run(sql.unsafe`ROLLBACK`).catch(close);
    throw error;
  } finally {
    if (scope === "session") await run(sql.unsafe`SELECT pglock.release(${key}, ${shared})`).catch(close);
  }
}
// [end]

async function example(pool) {
  // [example]
  await pool.connect((connection) =>
    withLock(connection, "order:42", { timeout: "5s" }, async () => {
      await connection.query(sql.unsafe`UPDATE orders SET state = 'paid' WHERE id = 42`);
    }));
  // [end]
}

let connection;
let leave; // gives the connection back

async function connect(pool) {
  await new Promise((connected) => {
    pool.connect((ours) => {
      connection = ours;
      connected();
      return new Promise((resolve) => { leave = resolve; });
    });
  });
}

let pool;

serve({
  package: "slonik",
  async connect() {
    pool = await createPool("postgresql://", { maximumPoolSize: 1 });
    await connect(pool);
  },
  lock: (key, options, work) => withLock(connection, key, options, work),
  async example() {
    leave();
    await example(pool);
    await connect(pool);
  },
  transaction: (work) => connection.transaction(work),
  begin: () => connection.query(sql.unsafe`BEGIN`),
  run: async (text) => Object.values((await connection.query({ ...sql.unsafe``, sql: text })).rows[0])[0],
  async trap(key) {
    leave();
    await pool.query(sql.unsafe`SELECT pglock.acquire(${key})`);
    return (await pool.query(sql.unsafe`SELECT pglock.held(${key})`)).rows[0].held;
  },
  sqlstate: (error) => error.cause?.code ?? error.code,
  async close() {
    leave();
    await pool.end();
  },
});
