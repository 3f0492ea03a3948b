// node-postgres. A client is in autocommit until it is told to BEGIN. The lock is this client's: don't use the pool
// in its place, each query may get another one from there.

"use strict";

const interval = require("postgres-interval");
const pg = require("pg");
const readline = require("readline");

// [recipe]
async function withLock(client, key, { timeout = null, shared = false, scope = "session" }, work) {
  const take = scope === "session" ? "CALL pglock.lock($1, $2, $3)"
    : "SELECT pglock.acquire($1, $2, $3, 'transaction') AS held";
  const { rows } = await client.query(take, [key, timeout, shared]);
  if (rows.length && !rows[0].held) throw Object.assign(new Error(`no lock ${key}`), { code: "55P03" });
  try {
    return await work();
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    if (scope === "session") await client.query("SELECT pglock.release($1, $2)", [key, shared]);
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

// a worker: see test/perl/Worker.pm
const client = new pg.Client();
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const failure = new Error("told to fail");

const commands = {
  async lock(key, type, timeout, shared, scope) {
    const options = { shared: shared === "shared", scope };
    if (timeout) options.timeout = Object.assign(interval(""), { milliseconds: Number(timeout) });
    await withLock(client, type === "integer" ? Number(key) : key, options, async () => {
      say("held");
      await block();
    });
    say("released");
  },
  async example() {
    await example();
    say("done");
  },
  async transaction() {
    await commands.begin();
    await block();
    await client.query("COMMIT");
    say("committed");
  },
  async begin() {
    await client.query("BEGIN");
    say("begun");
  },
  async run(sql) {
    say("row", (await client.query({ text: sql, rowMode: "array" })).rows[0][0]);
  },
  async fail() {
    throw failure;
  },
};

function say(...words) {
  process.stdout.write(words.join("\t") + "\n");
}

// Does what it is told until the end of the block that it is in.
async function block() {
  for (let line; !(line = await lines.next()).done; ) {
    const [command, ...values] = line.value.split("\t");
    if (command === "end") return true;
    try {
      await commands[command](...values);
    } catch (error) {
      if (!error.code) throw error;
      say("error", error.code);
    }
  }
  return false;
}

// Has node-postgres prepare what has parameters: it does so for queries with a name.
function prepare() {
  const query = client.query.bind(client);
  client.query = (text, values) => query(values ? { name: text.replace(/\W+/g, "_"), text, values } : text);
}

async function main() {
  await client.connect();
  if (process.argv.includes("prepared")) prepare();
  say("ready", require("pg/package.json").version);
  for (let more = true; more; ) {
    try {
      more = await block();
    } catch (error) {
      if (error !== failure) throw error;
      say("failed");
    }
  }
  await client.end();
}

main();
