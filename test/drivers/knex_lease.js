// knex. Its parameters are question marks.

"use strict";

const knex = require("knex")({ client: "pg", connection: {} });
const { serve } = require("./lease_worker.js");

// [recipe]
const query = async (call, values) => (await knex.raw(call.replace(/\$\d/g, "?"), values)).rows;

const write = (key, token, work) =>
  knex.transaction(async (trx) => {
    await trx.raw("SELECT pglock.check_lease(?, ?)", [key, token]);
    await work(trx);
  });
// [end]

// [example]
const pay = (order, token) =>
  write("billing", token, (trx) => trx("orders").where({ id: order }).update({ state: "paid" }));
// [end]

serve({
  package: "knex",
  query,
  write,
  pay,
  insert: (trx, key) => trx("written").insert({ key }),
  sqlstate: (error) => error.code,
  close: () => knex.destroy(),
});
