// slonik, which makes its queries of templates: this one has the statement and its parameters apart. Its limit for a
// statement, 60 s, is one for the wait for the lease, too.

"use strict";

const { createPool, sql } = require("slonik");
const { serve } = require("./lease_worker.js");

let pool;

// [recipe]
const query = (call, values) => pool.any({ ...sql.unsafe``, sql: call, values });

const write = (key, token, work) =>
  pool.transaction(async (tx) => {
    await tx.query(sql.unsafe`SELECT pglock.check_lease(${key}, ${token})`);
    await work(tx);
  });
// [end]

// [example]
const pay = (order, token) =>
  write("billing", token, (tx) => tx.query(sql.unsafe`UPDATE orders SET state = 'paid' WHERE id = ${order}`));
// [end]

const driver = {
  package: "slonik",
  query,
  write,
  pay,
  insert: (tx, key) => tx.query(sql.unsafe`INSERT INTO written VALUES (${key})`),
  sqlstate: (error) => error.cause?.code ?? error.code,
  close: () => pool.end(),
};

createPool("postgresql://").then((created) => {
  pool = created;
  return serve(driver);
});
