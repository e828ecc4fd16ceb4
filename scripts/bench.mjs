// Runs the benchmarks (all, or those whose name contains an argument) one after another, each in its own process.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { installAndBuild } from "./install.mjs";

installAndBuild();
const folder = new URL("../dist/bench/", import.meta.url);
const filters = process.argv.slice(2);
const files = readdirSync(folder)
  .filter((name) => name.endsWith(".bench.js"))
  .filter((name) => filters.length === 0 || filters.some((filter) => name.includes(filter)));
for (const file of files) {
  const { status } = spawnSync(process.execPath, [fileURLToPath(new URL(file, folder))], { stdio: "inherit" });
  if (status !== 0) process.exitCode = status ?? 1;
}
