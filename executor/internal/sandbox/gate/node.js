// Holds a started interpreter until its program is there. Loaded by --require,
// in worker threads too, where it only removes itself.
"use strict";

const gate = process.env.CRUCIBLE_GATE;
const fs = require("fs");

// wait returns what the release says; without one, the interpreter is not needed.
function wait(fd) {
  const chunks = [];
  for (;;) {
    const chunk = Buffer.alloc(1 << 16);
    const n = fs.readSync(fd, chunk);
    if (n === 0) break;
    chunks.push(chunk.subarray(0, n));
  }
  if (chunks.length === 0) process.reallyExit(0);
  fs.closeSync(fd);
  return Buffer.concat(chunks).toString("utf8").split("\0").slice(0, -1);
}

function apply(release) {
  const limits = Number(release[0]); // set from outside
  const args = 2 + limits;
  const env = args + Number(release[1]);
  process.argv.push(...release.slice(args, env));
  for (const entry of release.slice(env)) {
    const at = entry.indexOf("=");
    process.env[entry.slice(0, at)] = entry.slice(at + 1);
  }
}

// What would tell the program, or reach its children.
const option = process.execArgv.indexOf("--require");
if (option >= 0 && process.execArgv[option + 1] === __filename) process.execArgv.splice(option, 2);
if (process._preload_modules) process._preload_modules.length = 0;
delete require.cache[__filename];
const { _pathCache } = require("module");
for (const key of Object.keys(_pathCache)) delete _pathCache[key];
if (module.parent) module.parent.children.length = 0;

if (gate !== undefined) {
  delete process.env.CRUCIBLE_GATE;
  require("net"); // what most programs need first, to write to a pipe
  try {
    apply(wait(Number(gate)));
  } catch {
    process.reallyExit(1);
  }
}
