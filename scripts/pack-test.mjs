// `npm run pack-test`: packs the package as it would be published, installs it into an empty folder as its users do, and prunes the demo
// model there. Needs a registry: without one it says so and ends with 0, unless REQUIRE_REGISTRY is set.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installAndBuild, ROOT } from "./install.mjs";

installAndBuild();
if (run("npm", ["ping"], ROOT).status !== 0) {
  process.stderr.write("no npm registry can be reached: the installation was not tried\n");
  process.exit(process.env.REQUIRE_REGISTRY === undefined ? 0 : 1);
}
const { name, version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
const folder = mkdtempSync(join(tmpdir(), "prune-pack-"));
try {
  // What prepack does was done.
  expect(run("npm", ["pack", "--ignore-scripts", "--pack-destination", folder], ROOT), "npm pack");
  const tarball = readdirSync(folder).find((file) => file.endsWith(".tgz"));
  writeFileSync(join(folder, "package.json"), "{}");
  const flags = ["--ignore-scripts", "--no-audit", "--no-fund"];
  expect(run("npm", ["install", join(folder, tarball), ...flags], folder), "npm install");
  const command = join(folder, "node_modules/.bin/prune");
  const said = expect(run(command, ["--version"], folder), "prune --version").trim();
  if (said !== version) throw new Error(`prune --version says ${said}, not ${version}`);
  const pruned = expect(run(command, ["--sparsity", "0.5", "--nsamples", "4", "--json"], folder), "prune");
  const { sparsity } = JSON.parse(pruned);
  const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
  process.stdout.write(
    `${name} ${version}: tarball ${megabytes(statSync(join(folder, tarball)).size)}, installed ` +
      `${megabytes(sizeOf(join(folder, "node_modules")))}; pruned the demo model to ${sparsity.achieved}\n`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function run(command, args, cwd) {
  return spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 2 ** 26, shell: process.platform === "win32" });
}

function expect({ status, stdout, stderr }, what) {
  if (status === 0) return stdout;
  throw new Error(`${what} ended with ${status}\n${stderr}`);
}

function sizeOf(path) {
  const files = readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.reduce((sum, entry) => sum + statSync(join(entry.parentPath ?? entry.path, entry.name)).size, 0);
}
