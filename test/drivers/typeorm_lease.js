// TypeORM. The transaction is the manager's: `dataSource` runs on another connection.

"use strict";

const { DataSource, EntitySchema } = require("typeorm");
const { serve } = require("./lease_worker.js");

const Order = new EntitySchema({
  name: "Order",
  tableName: "orders",
  columns: { id: { type: Number, primary: true }, state: { type: String } },
});

const { PGHOST, PGPORT, PGUSER, PGDATABASE } = process.env;
const dataSource = new DataSource({ type: "postgres", host: PGHOST, port: PGPORT, username: PGUSER, database: PGDATABASE,
  entities: [Order] });

// [recipe]
const query = (call, values) => dataSource.query(call, values);

const write = (key, token, work) =>
  dataSource.transaction(async (manager) => {
    await manager.query("SELECT pglock.check_lease($1, $2)", [key, token]);
    await work(manager);
  });
// [end]

// [example]
const pay = (order, token) => write("billing", token, (manager) => manager.update(Order, order, { state: "paid" }));
// [end]

const driver = {
  package: "typeorm",
  query,
  write,
  pay,
  insert: (manager, key) => manager.query("INSERT INTO written VALUES ($1)", [key]),
  sqlstate: (error) => error.code,
  close: () => dataSource.destroy(),
};

dataSource.initialize().then(() => serve(driver));
