// What becomes of a lock whose client goes back to the pool of node-postgres: see pools.py.

"use strict";

const { Client, Pool } = require("pg");
const { withLock } = require("../drivers/node_postgres.js");

const TAKE = {
  session: "SELECT pglock.acquire('pooled')",
  transaction: "BEGIN; SELECT pglock.acquire('pooled', scope => 'transaction')",
};

async function report(name, scope) {
  const client = new Client();
  await client.connect();
  const { rows } = await client.query("SELECT pglock.is_free('pooled') AS is_free");
  console.log([name, scope, rows[0].is_free ? "free" : "held"].join("|"));
  await client.end();
}

async function giveBack(name, scope, end) {
  const pool = new Pool({ max: 1 });
  const client = await pool.connect();
  await client.query(TAKE[scope]);
  if (end) await client.query(end);
  client.release();
  await report(name, scope);
  await pool.end();
}

// The driver gives up while the recipe waits, the client goes back, and then the lock is granted.
async function queryTimeout() {
  const pool = new Pool({ max: 1, query_timeout: 300 });
  const holder = new Client();
  await holder.connect();
  await holder.query("SELECT pglock.acquire('pooled')");
  const client = await pool.connect();
  await withLock(client, "pooled", { timeout: "10s" }, () => console.log("node-postgres, query_timeout|got|it"))
    .catch(() => {});
  client.release();
  await holder.end();
  const { rows } = await pool.query("SELECT pglock.held('pooled') AS held");
  console.log(`node-postgres, query_timeout|next user|${rows[0].held ? "holds it" : "does not hold it"}`);
  await untilFree();
  await report("node-postgres, query_timeout", "session");
  await pool.end();
}

// The session that waited for a client that has gone ends when it gets the lock.
async function untilFree() {
  const client = new Client();
  await client.connect();
  await client.query("CALL pglock.lock('pooled', '60s')");
  await client.end();
}

(async () => {
  await queryTimeout();
  await giveBack("node-postgres", "session");
  await giveBack("node-postgres", "transaction", "COMMIT");
  await giveBack("node-postgres, not ended", "transaction");
})();
