// node-postgres. The times are milliseconds, and a token arrives as a string, which is as well.

"use strict";

const pg = require("pg");
const { blocks, say, versionOf } = require("./worker.js");

// [recipe]
async function withLease(pool, key, { ttl = 30_000, timeout = null }, work) {
  const ask = async (call, ...values) => Object.values((await pool.query(call, [key, ...values])).rows[0])[0];
  const token = await ask("CALL pglock.lease($1, $2, $3)", `${ttl} ms`, timeout === null ? null : `${timeout} ms`);
  const lost = new AbortController();
  let end;
  const renew = async () => {
    const sent = performance.now();
    const renewed = await ask("SELECT pglock.renew_lease($1, $2)", token);
    clearTimeout(end);
    end = setTimeout(() => lost.abort(), renewed ? sent + 0.9 * ttl - performance.now() : 0).unref();
  };
  await renew();
  const keeper = setInterval(() => renew().catch(() => {}), ttl / 3); // if one fails, the next may succeed
  try {
    return await work(token, lost.signal);
  } finally {
    clearInterval(keeper);
    await ask("SELECT pglock.release_lease($1, $2)", token);
  }
}
// [end]

async function example() {
  // [example]
  await withLease(pool, "billing", {}, async (token, lost) => {
    const client = await pool.connect();
    try {
      for (const order of [42, 43]) {
        lost.throwIfAborted();
        await client.query("BEGIN");
        await client.query("SELECT pglock.check_lease($1, $2)", ["billing", token]);
        await client.query("UPDATE orders SET state = 'paid' WHERE id = $1", [order]);
        await client.query("COMMIT");
      }
    } finally {
      client.release(true);
    }
  });
  // [end]
}

// a worker: see test/perl/Worker.pm
const pool = new pg.Pool();
let lost;

const commands = {
  async lease(key, ttl, timeout) {
    const options = { ttl: Number(ttl), timeout: timeout ? Number(timeout) : null };
    await withLease(pool, key, options, async (token, signal) => {
      lost = signal;
      say("held", token);
      await block();
    });
    say(lost.aborted ? "lost" : "released");
  },
  async lose() {
    const hours = setInterval(() => {}, 3_600_000);
    if (!lost.aborted) await new Promise((resolve) => lost.addEventListener("abort", resolve));
    clearInterval(hours);
    return false;
  },
  async write(key, token) {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      await client.query("SELECT pglock.check_lease($1, $2)", [key, token]);
      await client.query("INSERT INTO written VALUES ($1)", [key]);
      await client.query("COMMIT");
    } finally {
      client.release(true);
    }
    say("written");
  },
  async example() {
    await example();
    say("done");
  },
};

const block = blocks(commands, (error) => error.code);

async function main() {
  say("ready", versionOf("pg"));
  await block();
  await pool.end();
}

main();
