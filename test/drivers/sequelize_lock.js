// Sequelize. One connection is a transaction's: the lock is the transaction's, too. What is not given `transaction`
// runs on another connection. `replacements` would make the key a number, and a list of an array: use `bind`.

"use strict";

const { Sequelize, DataTypes } = require("sequelize");
const { Transactions, serve } = require("./worker.js");

// [recipe]
async function withLock(sequelize, key, { timeout = null, shared = false, ...options }, work) {
  const isolationLevel = Sequelize.Transaction.ISOLATION_LEVELS.READ_COMMITTED; // sees what the last holder wrote
  return sequelize.transaction({ isolationLevel, ...options }, async (transaction) => {
    const bind = [key, timeout, shared];
    await sequelize.query("CALL pglock.lock($1, $2, $3, 'transaction')", { bind, transaction });
    return work(transaction);
  });
}
// [end]

async function example(sequelize, Order) {
  // [example]
  await withLock(sequelize, "order:42", { timeout: "5s" }, async (transaction) => {
    await Order.update({ state: "paid" }, { where: { id: 42 }, transaction });
  });
  // [end]
}

const { PGDATABASE, PGUSER, PGHOST, PGPORT } = process.env;
const open = (max, queryTimeout) => new Sequelize(PGDATABASE, PGUSER, "", { dialect: "postgres", host: PGHOST, port: PGPORT,
  dialectOptions: { query_timeout: queryTimeout }, logging: false, pool: { max, idle: 3_600_000 } });
let sequelize;
let Order;

const transactions = new Transactions();

serve({
  package: "sequelize",
  connect(prepared, queryTimeout) {
    sequelize = open(1, queryTimeout);
    Order = sequelize.define("order", { state: DataTypes.TEXT }, { timestamps: false });
  },
  lock: (key, options, work) =>
    withLock(sequelize, key, { ...options, transaction: transactions.current }, (begun) => transactions.within(begun, work)),
  example: () => example(sequelize, Order),
  transaction: (work) =>
    sequelize.transaction({ transaction: transactions.current }, (begun) => transactions.within(begun, work)),
  begin() {},
  run: async (sql) => Object.values((await sequelize.query(sql, { transaction: transactions.current }))[0][0])[0],
  async trap(key) {
    const two = open(2);
    const [rows] = await withLock(two, key, {}, () => two.query("SELECT pglock.held($1)", { bind: [key] }));
    await two.close();
    return rows[0].held;
  },
  sqlstate: (error) => error.parent?.code,
  close: () => sequelize.close(),
});
