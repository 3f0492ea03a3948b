// The JavaScript drivers' half of the workers' protocol (see test/perl/Worker.pm).

"use strict";

const fs = require("fs");
const path = require("path");
const readline = require("readline");

const failure = new Error("told to fail");

function say(...words) {
  process.stdout.write(words.join("\t") + "\n");
}

// The version of a package, which it need not export.
function versionOf(name) {
  const files = require.resolve.paths(name).map((folder) => path.join(folder, name, "package.json"));
  return JSON.parse(fs.readFileSync(files.find(fs.existsSync))).version;
}

// Returns a function that does what it is told until the end of the block that it is in: it returns true; or of the
// input: false. A command that returns false ends its block, as `end` does. An error without an SQLSTATE ends them all.
function blocks(commands, sqlstate) {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

  return async () => {
    for (let line; !(line = await lines.next()).done; ) {
      const [command, ...values] = line.value.split("\t");
      if (command === "end") return true;
      try {
        if ((await commands[command](...values)) === false) return true;
      } catch (error) {
        const state = error !== failure && sqlstate(error);
        if (!state) throw error;
        say("error", state);
      }
    }
    return false;
  };
}

// The transaction that a driver is in which passes it along.
class Transactions {
  current;

  async within(begun, work) {
    const outer = this.current;
    this.current = begun;
    try {
      return await work();
    } finally {
      this.current = outer;
    }
  }
}

// Serves a driver, an object with: package, connect(prepared, queryTimeout), lock(key, options, work), example(),
// transaction(work), begin(), trap(key), interrupt(how, rounds, microseconds, manner), run(sql), sqlstate(error), close();
// and, if it has slots, slot(key, slots, options, work) and slotExamples, a function for each scope.
async function serve(driver) {
  const commands = {
    async lock(key, type, timeout, shared, scope) {
      const options = { shared: shared === "shared", scope };
      if (timeout) options.timeout = `${timeout} ms`;
      await driver.lock(type === "integer" ? Number(key) : key, options, () => begun("held"));
      say("released");
    },
    async slot(key, slots, timeout) {
      const options = timeout ? { timeout: `${timeout} ms` } : {};
      await driver.slot(key, Number(slots), options, (number) => begun("held", number));
      say("released");
    },
    async example() {
      await driver.example();
      say("done");
    },
    async slot_example(scope) {
      await driver.slotExamples[scope]();
      say("done");
    },
    async transaction() {
      await driver.transaction(() => begun("begun"));
      say("committed");
    },
    async begin() {
      await driver.begin();
      say("begun");
    },
    async trap(key) {
      say("trapped", await driver.trap(key));
    },
    // By the driver's timeout: a promise that nobody awaits any more goes on.
    async give_up(key) {
      process.on("SIGUSR2", () => {});
      await driver.close();
      await driver.connect(false, 1000);
      await driver.lock(key, {}, block).catch((error) => {
        if (driver.sqlstate(error)) throw error;
      });
      const session = await driver.run("SELECT pg_backend_pid()::text").catch(() => "none");
      await driver.close().catch(() => {});
      await driver.connect(false);
      say("gave up", session);
    },
    async interrupt(how, rounds, microseconds, manner) {
      say("interrupted", ...(await driver.interrupt(how, Number(rounds), Number(microseconds), manner)));
    },
    async run(sql) {
      say("row", await driver.run(sql));
    },
    async fail() {
      throw failure;
    },
  };

  function begun(...answer) {
    say(...answer);
    return block();
  }

  const block = blocks(commands, driver.sqlstate);

  await driver.connect(process.argv.includes("prepared"));
  say("ready", versionOf(driver.package));
  for (let more = true; more; ) {
    try {
      more = await block();
    } catch (error) {
      if (error !== failure) throw error;
      say("failed");
    }
  }
  await driver.close();
}

module.exports = { Transactions, blocks, say, serve, versionOf };
