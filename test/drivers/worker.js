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

// Serves a driver, an object with: package, connect(prepared, queryTimeout), lock(key, options, work), example(),
// transaction(work), begin(), trap(key), run(sql), sqlstate(error), close(). An error without an SQLSTATE ends the worker.
async function serve(driver) {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

  const commands = {
    async lock(key, type, timeout, shared, scope) {
      const options = { shared: shared === "shared", scope };
      if (timeout) options.timeout = `${timeout} ms`;
      await driver.lock(type === "integer" ? Number(key) : key, options, () => begun("held"));
      say("released");
    },
    async example() {
      await driver.example();
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
    async run(sql) {
      say("row", await driver.run(sql));
    },
    async fail() {
      throw failure;
    },
  };

  function begun(answer) {
    say(answer);
    return block();
  }

  // Does what it is told until the end of the block that it is in: true; or of the input: false.
  async function block() {
    for (let line; !(line = await lines.next()).done; ) {
      const [command, ...values] = line.value.split("\t");
      if (command === "end") return true;
      try {
        await commands[command](...values);
      } catch (error) {
        const state = error !== failure && driver.sqlstate(error);
        if (!state) throw error;
        say("error", state);
      }
    }
    return false;
  }

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

module.exports = { serve };
