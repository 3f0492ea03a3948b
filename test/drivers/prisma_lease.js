// Prisma 7, over node-postgres.

"use strict";

const { PrismaPg } = require("@prisma/adapter-pg");
const { PrismaClient } = require("prisma-client");
const { serve } = require("./lease_worker.js");

const { PGHOST, PGPORT, PGUSER, PGDATABASE } = process.env;
const adapter = new PrismaPg({ host: PGHOST, port: Number(PGPORT), user: PGUSER, database: PGDATABASE });
const prisma = new PrismaClient({ adapter });

// [recipe]
const query = (call, values) => prisma.$queryRawUnsafe(call, ...values);

const write = (key, token, work) =>
  prisma.$transaction(async (tx) => {
    await tx.$executeRaw`SELECT pglock.check_lease(${key}, ${token})`;
    await work(tx);
  });
// [end]

// [example]
const pay = (order, token) =>
  write("billing", token, (tx) => tx.order.update({ where: { id: order }, data: { state: "paid" } }));
// [end]

serve({
  package: "@prisma/client",
  query,
  write,
  pay,
  insert: (tx, key) => tx.$executeRaw`INSERT INTO written VALUES (${key})`,
  sqlstate: (error) => error.meta?.code ?? error.meta?.driverAdapterError?.cause?.originalCode,
  close: () => prisma.$disconnect(),
});
