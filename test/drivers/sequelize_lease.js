// Sequelize. What is not given `transaction` runs on another connection.

"use strict";

const { Sequelize, DataTypes } = require("sequelize");
const { serve } = require("./lease_worker.js");

const { PGDATABASE, PGUSER, PGHOST, PGPORT } = process.env;
const sequelize = new Sequelize(PGDATABASE, PGUSER, "", { dialect: "postgres", host: PGHOST, port: PGPORT, logging: false });
const Order = sequelize.define("order", { state: DataTypes.TEXT }, { timestamps: false });

// [recipe]
const query = async (call, values) => (await sequelize.query(call, { bind: values }))[0];

const write = (key, token, work) =>
  sequelize.transaction(async (transaction) => {
    await sequelize.query("SELECT pglock.check_lease($1, $2)", { bind: [key, token], transaction });
    await work(transaction);
  });
// [end]

// [example]
const pay = (order, token) =>
  write("billing", token, (transaction) => Order.update({ state: "paid" }, { where: { id: order }, transaction }));
// [end]

serve({
  package: "sequelize",
  query,
  write,
  pay,
  insert: (transaction, key) => sequelize.query("INSERT INTO written VALUES ($1)", { bind: [key], transaction }),
  sqlstate: (error) => error.parent?.code,
  close: () => sequelize.close(),
});
