// The JavaScript drivers' half of the protocol of those who take leases (see test/perl/Worker.pm).

"use strict";

const { withLease, example } = require("./lease.js");
const { blocks, say, versionOf } = require("./worker.js");

// Serves a driver, an object with: package, query(call, values), write(key, token, work), pay(order, token),
// insert(transaction, key), which writes into the table `written`, sqlstate(error), close().
async function serve(driver) {
  let lost;

  const commands = {
    async lease(key, ttl, timeout) {
      const options = { ttl: Number(ttl), timeout: timeout ? Number(timeout) : null };
      await withLease(driver.query, key, options, async (token, signal) => {
        lost = signal;
        say("held", token);
        await block();
      });
      say(lost.aborted ? "lost" : "released");
    },
    async lose() {
      if (!lost.aborted) await new Promise((resolve) => lost.addEventListener("abort", resolve));
      return false;
    },
    async write(key, token) {
      await driver.write(key, token, (transaction) => driver.insert(transaction, key));
      say("written");
    },
    async example() {
      await example(driver);
      say("done");
    },
  };

  const block = blocks(commands, driver.sqlstate);

  say("ready", versionOf(driver.package));
  await block();
  await driver.close();
}

module.exports = { serve };
