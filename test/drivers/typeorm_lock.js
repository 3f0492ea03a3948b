// TypeORM. A QueryRunner is one connection, in autocommit: `dataSource.query` and repositories of the data source may
// get another one from the pool. Its repositories are those of `runner.manager`.

"use strict";

const { DataSource, EntitySchema } = require("typeorm");
const { serve } = require("./worker.js");

// [recipe]
async function withLock(runner, key, { timeout = null, shared = false, scope = "session" }, work) {
  const close = async (error) => { await (await runner.connect()).end(); throw error; };
  await runner.query("CALL pglock.lock($1, $2, $3, $4)", [key, timeout, shared, scope]).catch((error) => {
    if (!error.severity) return close(error); // not the server's answer: the wait goes on there
    throw error;
  });
  try {
    return await work();
  } catch (error) {
    if (scope === "session" && runner.isTransactionActive) await runner.rollbackTransaction().catch(close);
    throw error;
  } finally {
    if (scope === "session") await runner.query("SELECT pglock.release($1, $2)", [key, shared]).catch(close);
  }
}
// [end]

const Order = new EntitySchema({
  name: "Order",
  tableName: "orders",
  columns: { id: { type: Number, primary: true }, state: { type: String } },
});

async function example(dataSource) {
  // [example]
  const runner = dataSource.createQueryRunner();
  try {
    await withLock(runner, "order:42", { timeout: "5s" }, async () => {
      await runner.manager.update(Order, { id: 42 }, { state: "paid" });
    });
  } finally {
    await runner.release();
  }
  // [end]
}

const { PGHOST, PGPORT, PGUSER, PGDATABASE } = process.env;
const open = (poolSize, queryTimeout) => new DataSource({ type: "postgres", host: PGHOST, port: PGPORT, username: PGUSER,
  database: PGDATABASE, poolSize, entities: [Order], extra: { query_timeout: queryTimeout } });
let dataSource;
let runner;

serve({
  package: "typeorm",
  async connect(prepared, queryTimeout) {
    dataSource = await open(1, queryTimeout).initialize();
    runner = dataSource.createQueryRunner();
  },
  lock: (key, options, work) => withLock(runner, key, options, work),
  async example() {
    await runner.release();
    await example(dataSource);
    runner = dataSource.createQueryRunner();
  },
  async transaction(work) {
    await runner.startTransaction();
    try {
      await work();
      await runner.commitTransaction();
    } catch (error) {
      if (runner.isTransactionActive) await runner.rollbackTransaction();
      throw error;
    }
  },
  begin: () => runner.startTransaction(),
  run: async (sql) => Object.values([(await runner.query(sql))].flat(2)[0])[0],
  async trap(key) {
    const two = await open(2).initialize();
    const [{ release }] = await two.transaction(async (manager) => {
      await manager.query("SELECT pglock.acquire($1)", [key]);
      return two.query("SELECT pglock.release($1)", [key]);
    });
    await two.destroy();
    return release;
  },
  sqlstate: (error) => error.code,
  async close() {
    await runner.release();
    await dataSource.destroy();
  },
});
