// Prisma 7, over node-postgres. One connection is an interactive transaction's: the lock is the transaction's, too.
// It ends after 5 s if it is not told otherwise, the wait for the lock included, and the lock with it: the next query
// fails with P2028. Let `limit` be longer than the wait and the work together.

"use strict";

const { PrismaPg } = require("@prisma/adapter-pg");
const { PrismaClient } = require("prisma-client");
const { Transactions, serve } = require("./worker.js");

// [recipe]
async function withLock(prisma, key, { timeout = null, shared = false, limit = 60_000 }, work) {
  const options = { isolationLevel: "ReadCommitted", maxWait: limit, timeout: limit }; // sees what the last holder wrote
  return prisma.$transaction(async (tx) => {
    await tx.$executeRaw`CALL pglock.lock(${String(key)}, ${timeout}::interval, ${shared}, 'transaction')`;
    return work(tx);
  }, options);
}
// [end]

async function example(prisma) {
  // [example]
  await withLock(prisma, "order:42", { timeout: "5s" }, async (tx) => {
    await tx.order.update({ where: { id: 42 }, data: { state: "paid" } });
  });
  // [end]
}

const { PGHOST, PGPORT, PGUSER, PGDATABASE } = process.env;
const adapter = new PrismaPg({ host: PGHOST, port: Number(PGPORT), user: PGUSER, database: PGDATABASE, max: 1,
  idleTimeoutMillis: 0 });
const prisma = new PrismaClient({ adapter });

const transactions = new Transactions();

serve({
  package: "@prisma/client",
  connect() {},
  // a transaction within a transaction is a savepoint
  lock: (key, options, work) =>
    withLock(transactions.current ?? prisma, key, options, (tx) => transactions.within(tx, work)),
  example: () => example(prisma),
  transaction(work) {
    const patience = { maxWait: 60_000, timeout: 60_000 };
    return (transactions.current ?? prisma).$transaction((tx) => transactions.within(tx, work), patience);
  },
  begin() {},
  run: async (sql) => Object.values((await (transactions.current ?? prisma).$queryRawUnsafe(sql))[0])[0],
  async trap(key) {
    const held = withLock(prisma, key, { limit: 100 }, (tx) => tx.$queryRaw`SELECT pg_sleep(0.2)::text`);
    return held.catch((error) => error.code);
  },
  sqlstate: (error) => error.meta?.code ?? error.meta?.driverAdapterError?.cause?.originalCode,
  close: () => prisma.$disconnect(),
});
