// Drizzle, over node-postgres. Give `drizzle` a client of the pool's, not the pool: each query may get another client
// from there, and a pool closes a client that is idle, or at an error. An array has to be `sql.param(array)`.

"use strict";

const { sql } = require("drizzle-orm");
const { drizzle } = require("drizzle-orm/node-postgres");
const { pgTable, integer, text } = require("drizzle-orm/pg-core");
const { eq } = require("drizzle-orm");
const { Pool } = require("pg");
const { serve } = require("./worker.js");

// [recipe]
async function withLock(db, key, { timeout = null, shared = false, scope = "session" }, work) {
  const close = async (error) => { await db.$client?.end(); throw error; };
  await db.execute(sql`CALL pglock.lock(${key}, ${timeout}, ${shared}, ${scope})`).catch((error) => {
    if (!error.cause?.severity) return close(error); // not the server's answer: the wait goes on there
    throw error;
  });
  try {
    return await work();
  } catch (error) {
    if (scope === "session") await db.execute(sql`ROLLBACK`).catch(close);
    throw error;
  } finally {
    if (scope === "session") await db.execute(sql`SELECT pglock.release(${key}, ${shared})`).catch(close);
  }
}
// [end]

const orders = pgTable("orders", { id: integer("id"), state: text("state") });

async function example(pool) {
  // [example]
  const client = await pool.connect();
  try {
    const db = drizzle(client);
    await withLock(db, "order:42", { timeout: "5s" }, async () => {
      await db.update(orders).set({ state: "paid" }).where(eq(orders.id, 42));
    });
  } finally {
    client.release();
  }
  // [end]
}

let pool;
let client;
let db;

async function connect() {
  client = await pool.connect();
  db = drizzle(client);
}

serve({
  package: "drizzle-orm",
  connect(prepared, queryTimeout) {
    pool = new Pool({ max: 1, query_timeout: queryTimeout });
    return connect();
  },
  lock: (key, options, work) => withLock(db, key, options, work),
  async example() {
    client.release();
    await example(pool);
    await connect();
  },
  transaction: (work) => db.transaction(work),
  begin: () => db.execute(sql`BEGIN`),
  run: async (text) => Object.values((await db.execute(sql.raw(text))).rows[0])[0],
  async trap(key) {
    const two = new Pool({ max: 2 });
    const { rows } = await drizzle(two).transaction(async (tx) => {
      await tx.execute(sql`SELECT pglock.acquire(${key})`);
      return drizzle(two).execute(sql`SELECT pglock.release(${key})`);
    });
    await two.end();
    return rows[0].release;
  },
  sqlstate: (error) => error.cause?.code,
  async close() {
    client.release();
    await pool.end();
  },
});
