// node-postgres. A client is in autocommit until it is told to BEGIN. The lock is this client's: don't use the pool
// in its place, each query may get another one from there.

"use strict";

const interval = require("postgres-interval");
const pg = require("pg");
const { serve } = require("./worker.js");

// [recipe]
async function withLock(client, key, { timeout = null, shared = false, scope = "session", signal }, work) {
  await take(client, "CALL pglock.lock($1, $2, $3, $4)", [key, timeout, shared, scope], signal);
  return holding(client, scope === "session" && ["SELECT pglock.release($1, $2)", [key, shared]], work);
}

// `release` is a statement and its values, or false.
async function holding(client, release, work) {
  try {
    return await work();
  } catch (error) {
    await client.query("ROLLBACK").catch(() => client.end());
    throw error;
  } finally {
    if (release) await client.query(...release).catch(() => client.end());
  }
}

// If the program gives up before the server has answered, by `signal` or the driver's query_timeout, the server may
// still grant the lock. Closing the connection is the only safe way.
async function take(client, call, values, signal) {
  const close = () => client.end();
  signal?.throwIfAborted();
  signal?.addEventListener("abort", close);
  try {
    const { rows } = await client.query(call, values);
    signal?.throwIfAborted();
    return rows[0];
  } catch (error) {
    const answered = error.severity;
    if (!answered) await client.end();
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", close);
  }
}
// [end]

async function example() {
  // [example]
  await withLock(client, "order:42", { timeout: "5s" }, async () => {
    await client.query("UPDATE orders SET state = 'paid' WHERE id = 42");
  });
  // [end]
}

// [slot recipe]
async function withSlot(client, key, slots, { timeout = null, signal }, work) {
  const { slot } = await take(client, "CALL pglock.slot($1, $2, $3)", [key, slots, timeout], signal);
  return holding(client, ["SELECT pglock.release_slot($1, $2)", [key, slot]], () => work(slot));
}
// [end]

async function sessionSlotExample() {
  // [slot example]
  await withSlot(client, "workers", 5, { timeout: "5s" }, async (slot) => {
    await client.query("UPDATE orders SET state = 'paid' WHERE mod(id, 5) + 1 = $1", [slot]);
  });
  // [end]
}

async function transactionSlotExample() {
  // [slot in a transaction]
  await client.query("BEGIN");
  const { rows } = await client.query("CALL pglock.slot('workers', 5, '5s', 'transaction')");
  await client.query("UPDATE orders SET state = 'paid' WHERE mod(id, 5) + 1 = $1", [rows[0].slot]);
  await client.query("COMMIT");
  // [end]
}

let client = new pg.Client();

// Gives up after `milliseconds` while it takes a lock, and counts what came of it.
async function interrupted(race, milliseconds) {
  const giveUp = new AbortController();
  await reconnect(race.how === "query_timeout" ? { query_timeout: Math.ceil(milliseconds) } : {});
  const timer = race.how === "abort" && setTimeout(() => giveUp.abort(), milliseconds);
  try {
    const options = { timeout: "60s", signal: giveUp.signal };
    const work = async () => clearTimeout(timer);
    if (race.manner === "bare")
      await Promise.race([client.query("SELECT pglock.acquire('raced', '60s')"), aborted(giveUp.signal)]);
    else if (race.manner === "slot") await withSlot(client, "raced", 1, options, work);
    else await withLock(client, "raced", options, work);
  } catch {
    race.interrupted++;
    await look(race);
  }
  clearTimeout(timer);
}

function aborted(signal) {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}

async function look(race) {
  const own = "SELECT count(*)::int AS locks FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
  try {
    race.left += (await client.query({ text: own, query_timeout: 60000 })).rows[0].locks;
  } catch {
    race.closed++;
  }
}

async function reconnect(options) {
  await client.end();
  client = new pg.Client(options);
  await client.connect();
}

// Has node-postgres prepare what has parameters: it does so for queries with a name.
function prepare() {
  const query = client.query.bind(client);
  client.query = (text, values) => query(values ? { name: text.replace(/\W+/g, "_"), text, values } : text);
}

const driver = {
  package: "pg",
  async connect(prepared) {
    await client.connect();
    if (prepared) prepare();
  },
  lock(key, options, work) {
    if (options.timeout) options.timeout = Object.assign(interval(""), { milliseconds: parseInt(options.timeout) });
    return withLock(client, key, options, work);
  },
  slot: (key, slots, options, work) => withSlot(client, key, slots, options, work),
  example,
  slotExamples: { session: sessionSlotExample, transaction: transactionSlotExample },
  async transaction(work) {
    await client.query("BEGIN");
    try {
      await work();
      await client.query("COMMIT");
    } catch (error) {
      await client.query("ROLLBACK");
      throw error;
    }
  },
  begin: () => client.query("BEGIN"),
  async interrupt(how, rounds, microseconds, manner) {
    const race = { how, manner, interrupted: 0, left: 0, closed: 0 };
    for (; rounds > 0 && !(manner === "bare" && race.left); rounds--) {
      await interrupted(race, (Math.random() * microseconds) / 1e3);
    }
    await reconnect();
    return [race.interrupted, race.left, race.closed];
  },
  run: async (sql) => (await client.query({ text: sql, rowMode: "array" })).rows[0][0],
  sqlstate: (error) => error.code,
  close: () => client.end(),
};

if (require.main === module) serve(driver);
else module.exports = { withLock };
