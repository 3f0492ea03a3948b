// Drizzle, over node-postgres' pool, which is `db.$client`.

"use strict";

const { eq, sql } = require("drizzle-orm");
const { drizzle } = require("drizzle-orm/node-postgres");
const { pgTable, integer, text } = require("drizzle-orm/pg-core");
const { Pool } = require("pg");
const { serve } = require("./lease_worker.js");

const orders = pgTable("orders", { id: integer("id"), state: text("state") });
const db = drizzle(new Pool());

// [recipe]
const query = async (call, values) => (await db.$client.query(call, values)).rows;

const write = (key, token, work) =>
  db.transaction(async (tx) => {
    await tx.execute(sql`SELECT pglock.check_lease(${key}, ${token})`);
    await work(tx);
  });
// [end]

// [example]
const pay = (order, token) =>
  write("billing", token, (tx) => tx.update(orders).set({ state: "paid" }).where(eq(orders.id, order)));
// [end]

serve({
  package: "drizzle-orm",
  query,
  write,
  pay,
  insert: (tx, key) => tx.execute(sql`INSERT INTO written VALUES (${key})`),
  // `query` has node-postgres' errors
  sqlstate: (error) => (error.cause ?? error).code,
  close: () => db.$client.end(),
});
