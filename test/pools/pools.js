// What becomes of a lock whose client goes back to the pool of node-postgres: see pools.py.

"use strict";

const { Client, Pool } = require("pg");

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

(async () => {
  await giveBack("node-postgres", "session");
  await giveBack("node-postgres", "transaction", "COMMIT");
  await giveBack("node-postgres, not ended", "transaction");
})();
