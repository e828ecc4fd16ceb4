// `npm test`: installs and builds what is missing, finds a WGSL adapter for the kernels' tests, and hands all compiled
// tests to Node's own runner, one process per file. Arguments select files by a part of their path:
//   npm test -- calibration cli/errors
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { installAndBuild, ROOT } from "./install.mjs";

/** SwiftShader, a software Vulkan driver, as browsers ship it. */
const SWIFTSHADER = [
  "/usr/lib/chromium/vk_swiftshader_icd.json",
  "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
  "/opt/google/chrome/vk_swiftshader_icd.json",
];
/** Debian's browser brings SwiftShader. */
const PACKAGE = "chromium";

installAndBuild();
const files = testFiles(process.argv.slice(2));
if (files.length === 0) fail("no test file matches.");
// Node's own choice leaves a core idle: many tests wait for processes, timers or a single thread.
const concurrency = `--test-concurrency=${availableParallelism()}`;
const result = spawnSync(process.execPath, ["--test", concurrency, "--test-reporter=spec", ...files], {
  cwd: ROOT,
  env: { ...process.env, ...adapterEnvironment() },
  stdio: "inherit",
});
process.exit(result.status ?? 1);

/** Compiled tests whose source still exists, sorted. */
function testFiles(filters) {
  const compiled = join(ROOT, "dist/test");
  return readdirSync(compiled, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith(".test.js") && existsSync(join(ROOT, "test", name.replace(/\.js$/, ".ts"))))
    .filter((name) => filters.length === 0 || filters.some((filter) => name.includes(filter)))
    .sort()
    .map((name) => relative(ROOT, join(compiled, name)));
}

/** What makes Dawn find an adapter: nothing where it does by itself, else SwiftShader, installed where we may. */
function adapterEnvironment() {
  if (process.env.VK_ICD_FILENAMES !== undefined || hasAdapter({})) return {};
  if (swiftShader() === undefined) installSwiftShader();
  const driver = swiftShader();
  if (driver === undefined) return {};
  // The browser ships a Vulkan loader beside its driver, for systems without libvulkan1.
  const libraries = [dirname(driver), process.env.LD_LIBRARY_PATH].filter(Boolean).join(":");
  const withDriver = { VK_ICD_FILENAMES: driver };
  const found = [withDriver, { ...withDriver, LD_LIBRARY_PATH: libraries }].find(hasAdapter);
  if (found === undefined)
    say(`${driver} is there, but Dawn finds no adapter with it; try: apt-get install libvulkan1`);
  return found ?? withDriver;
}

function swiftShader() {
  return SWIFTSHADER.find((file) => existsSync(file));
}

/** Asked in a process of its own, because the driver is chosen when the native addon is loaded. */
function hasAdapter(changes) {
  const adapter = pathToFileURL(join(ROOT, "dist/src/device/webgpu/adapter.js")).href;
  const script = `const { listAdapters } = await import(${JSON.stringify(adapter)}); process.exit((await listAdapters()).length > 0 ? 0 : 3);`;
  const { status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    env: { ...process.env, ...changes },
    stdio: "ignore",
    timeout: 60_000,
  });
  return status === 0;
}

function installSwiftShader() {
  const isRoot = process.getuid?.() === 0;
  if (process.platform !== "linux" || !isRoot || !isDebianLike() || spawnSync("apt-get", ["--version"]).status !== 0) {
    say(`no WGSL adapter was found: tests of the kernels will be skipped. On Debian: apt-get install ${PACKAGE}`);
    return;
  }
  say(`no WGSL adapter was found: installing ${PACKAGE} for a software one …`);
  const options = { stdio: ["ignore", 2, 2], env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } };
  spawnSync("apt-get", ["update"], options);
  const { status } = spawnSync("apt-get", ["install", "-y", "--no-install-recommends", PACKAGE], options);
  if (status !== 0) say("the installation failed: tests of the kernels will be skipped.");
  else if (swiftShader() === undefined)
    say("the installed browser brings no SwiftShader: tests of the kernels will be skipped.");
}

function isDebianLike() {
  return existsSync("/etc/os-release") && /^ID(_LIKE)?=.*\bdebian\b/m.test(readFileSync("/etc/os-release", "utf8"));
}

function say(message) {
  process.stderr.write(`${message}\n`);
}

function fail(message) {
  say(`error: ${message}`);
  process.exit(1);
}
