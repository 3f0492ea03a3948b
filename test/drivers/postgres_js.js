// postgres.js. `await sql.reserve()` gets a connection of one's own, which is in autocommit until it is told to BEGIN.
// The lock is that connection's: don't use the pool, `sql`, in its place. Warnings come by the option `onnotice`.

"use strict";

const postgres = require("postgres");
const { serve } = require("./worker.js");

// [recipe]
async function withLock(reserved, key, { timeout = null, shared = false, scope = "session" }, work) {
  const close = async (error) => {
    await reserved`SELECT pg_terminate_backend(pg_backend_pid())`.catch(() => {}); // only the server can close it
    throw error;
  };
  await reserved`CALL pglock.lock(${key}, ${timeout}, ${shared}, ${scope})`;
  try {
    return await work();
  } catch (error) {
    if (scope === "session") await reserved`ROLLBACK`.catch(close);
    throw error;
  } finally {
    if (scope === "session") await reserved`SELECT pglock.release(${key}, ${shared})`.catch(close);
  }
}
// [end]

async function example(sql) {
  // [example]
  const reserved = await sql.reserve();
  try {
    await withLock(reserved, "order:42", { timeout: "5s" }, async () => {
      await reserved`UPDATE orders SET state = 'paid' WHERE id = 42`;
    });
  } finally {
    reserved.release();
  }
  // [end]
}

let sql;
let reserved;

serve({
  package: "postgres",
  async connect(prepare) {
    sql = postgres({ host: process.env.PGHOST, port: process.env.PGPORT, max: 1, prepare, onnotice() {} });
    reserved = await sql.reserve();
  },
  lock: (key, options, work) => withLock(reserved, key, options, work),
  async example() {
    reserved.release();
    await example(sql);
    reserved = await sql.reserve();
  },
  async transaction(work) {
    await reserved`BEGIN`;
    try {
      await work();
      await reserved`COMMIT`;
    } catch (error) {
      await reserved`ROLLBACK`;
      throw error;
    }
  },
  begin: () => reserved`BEGIN`,
  run: async (text) => Object.values((await reserved.unsafe(text))[0])[0],
  async trap(key) {
    const pool = postgres({ host: process.env.PGHOST, port: process.env.PGPORT, max: 2, onnotice() {} });
    const [{ release }] = await pool.begin(async (transaction) => {
      await transaction`SELECT pglock.acquire(${key})`;
      return pool`SELECT pglock.release(${key})`;
    });
    await pool.end();
    return release;
  },
  sqlstate: (error) => error.code,
  close: () => sql.end({ timeout: 1 }),
});
