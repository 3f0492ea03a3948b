// knex. The lock is one connection's: a query without `connection(connection)` may get another from the pool, and
// `knex.transaction(work, { connection })` doesn't. What is not answered, as by query_timeout, goes on in the server:
// the connection has to end with it. In a transaction, give `trx` and no connection.

"use strict";

const { serve } = require("./worker.js");

// [recipe]
async function withLock(knex, connection, key, { timeout = null, shared = false, scope = "session" }, work) {
  const run = (sql, ...values) => knex.raw(sql, values).connection(connection);
  const close = async (error) => { await connection?.end(); throw error; };
  await run("CALL pglock.lock(?, ?, ?, ?)", key, timeout, shared, scope).catch((error) => {
    if (!error.severity) return close(error); // not the server's answer
    throw error;
  });
  try {
    return await work();
  } catch (error) {
    if (scope === "session") await run("ROLLBACK").catch(close);
    throw error;
  } finally {
    if (scope === "session") await run("SELECT pglock.release(?, ?)", key, shared).catch(close);
  }
}
// [end]

async function example(knex) {
  // [example]
  const connection = await knex.client.acquireConnection();
  try {
    await withLock(knex, connection, "order:42", { timeout: "5s" }, async () => {
      await knex("orders").where({ id: 42 }).update({ state: "paid" }).connection(connection);
    });
  } finally {
    knex.client.releaseConnection(connection);
  }
  // [end]
}

const open = (max, queryTimeout) =>
  require("knex")({ client: "pg", connection: { query_timeout: queryTimeout }, pool: { min: 1, max } });
let knex;
let connection;
let trx; // the transaction that we are in

serve({
  package: "knex",
  async connect(prepared, queryTimeout) {
    knex = open(1, queryTimeout);
    connection = await knex.client.acquireConnection();
  },
  lock: (key, options, work) => withLock(trx ?? knex, trx ? undefined : connection, key, options, work),
  async example() {
    knex.client.releaseConnection(connection);
    await example(knex);
    connection = await knex.client.acquireConnection();
  },
  async transaction(work) {
    try {
      await knex.transaction((begun) => work((trx = begun)), { connection });
    } finally {
      trx = undefined;
    }
  },
  begin: () => knex.raw("BEGIN").connection(connection),
  run: async (sql) => Object.values((await knex.raw(sql.replaceAll("?", "\\?")).connection(connection)).rows[0])[0],
  async trap(key) {
    const pool = open(2);
    const { rows } = await pool.transaction(async (begun) => {
      await begun.raw("SELECT pglock.acquire(?)", [key]);
      return pool.raw("SELECT pglock.release(?)", [key]);
    });
    await pool.destroy();
    return rows[0].release;
  },
  sqlstate: (error) => error.code,
  async close() {
    knex.client.releaseConnection(connection);
    await knex.destroy();
  },
});
