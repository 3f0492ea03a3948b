// postgres.js. `sql.unsafe` takes the statement and its parameters apart.

"use strict";

const postgres = require("postgres");
const { serve } = require("./lease_worker.js");

const sql = postgres({ host: process.env.PGHOST, port: process.env.PGPORT, onnotice() {} });

// [recipe]
const query = (call, values) => sql.unsafe(call, values);

const write = (key, token, work) =>
  sql.begin(async (tx) => {
    await tx`SELECT pglock.check_lease(${key}, ${token})`;
    await work(tx);
  });
// [end]

// [example]
const pay = (order, token) => write("billing", token, (tx) => tx`UPDATE orders SET state = 'paid' WHERE id = ${order}`);
// [end]

serve({
  package: "postgres",
  query,
  write,
  pay,
  insert: (tx, key) => tx`INSERT INTO written VALUES (${key})`,
  sqlstate: (error) => error.code,
  close: () => sql.end({ timeout: 1 }),
});
