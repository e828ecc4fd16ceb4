// Installs what is missing and builds what is stale, so that `npm run demo` and `npm test` work on a fresh clone.
// Uses only Node's own modules, because nothing else is there yet. Everything it prints goes to stderr.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const STAMP = join(ROOT, "dist/.built");
/** What the build reads. */
const SOURCES = [
  "src",
  "test",
  "bench",
  "scripts/build-wasm.mjs",
  "tsconfig.json",
  "package.json",
  "package-lock.json",
];

export function installAndBuild() {
  requireNode();
  if (!isInstalled()) {
    // The script of onnxruntime-node only fetches CUDA libraries, which this program does not use.
    const env = { ...process.env, ONNXRUNTIME_NODE_INSTALL: "skip" };
    run("installing dependencies", npmCommand(["ci", "--no-audit", "--no-fund"]), env);
  }
  if (isStale()) {
    run("compiling", [process.execPath, join(ROOT, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.json"]);
    run("compiling WebAssembly", [process.execPath, join(ROOT, "scripts/build-wasm.mjs")]);
    writeFileSync(STAMP, "");
  }
}

function requireNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  fail(`Node ${process.versions.node} is too old: prune needs 20.19 or newer.`);
}

/** npm writes node_modules/.package-lock.json last, so an interrupted installation counts as missing. */
function isInstalled() {
  const installed = join(ROOT, "node_modules/.package-lock.json");
  return existsSync(installed) && statSync(installed).mtimeMs >= statSync(join(ROOT, "package-lock.json")).mtimeMs;
}

function isStale() {
  if (!existsSync(STAMP)) return true;
  const builtAt = statSync(STAMP).mtimeMs;
  return SOURCES.some((source) => newest(join(ROOT, source)) > builtAt);
}

/** Latest change below a path; folders count too, so that a deleted file is noticed. */
function newest(path) {
  if (!existsSync(path)) return 0;
  const status = statSync(path);
  if (!status.isDirectory()) return status.mtimeMs;
  return Math.max(status.mtimeMs, ...readdirSync(path).map((name) => newest(join(path, name))));
}

/** npm through the node that runs us where npm said how; through the shell on Windows, where npm is a script. */
function npmCommand(args) {
  const { npm_execpath: npm } = process.env;
  if (npm !== undefined && /npm-cli\.js$/.test(npm)) return [process.execPath, npm, ...args];
  return process.platform === "win32" ? ["cmd", "/c", "npm", ...args] : ["npm", ...args];
}

function run(what, [command, ...args], env = process.env) {
  process.stderr.write(`${what} …\n`);
  const { status, error } = spawnSync(command, args, { cwd: ROOT, env, stdio: ["ignore", 2, 2] });
  if (error !== undefined) fail(`${what}: ${command}: ${error.message}`);
  if (status !== 0) fail(`${what} failed: ${[command, ...args].join(" ")}`);
}

function fail(message) {
  process.stderr.write(`error: ${message}\n`);
  process.exit(1);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) installAndBuild();
