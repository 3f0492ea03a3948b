// node-postgres, with its pool.

"use strict";

const pg = require("pg");
const { serve } = require("./lease_worker.js");

const pool = new pg.Pool();

// [recipe]
const query = async (call, values) => (await pool.query(call, values)).rows;

async function write(key, token, work) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query("SELECT pglock.check_lease($1, $2)", [key, token]);
    await work(client);
    await client.query("COMMIT");
    client.release();
  } catch (error) {
    client.release(error); // closes it, and so rolls back
    throw error;
  }
}
// [end]

// [example]
const pay = (order, token) =>
  write("billing", token, (client) => client.query("UPDATE orders SET state = 'paid' WHERE id = $1", [order]));
// [end]

serve({
  package: "pg",
  query,
  write,
  pay,
  insert: (client, key) => client.query("INSERT INTO written VALUES ($1)", [key]),
  sqlstate: (error) => error.code,
  close: () => pool.end(),
});
