// Reads mutated files with the program's own readers: nothing but a PruneError may come of it, within 5 seconds and 200 MB.
//
//   node scripts/fuzz.mjs [--targets header,config,…] [--share 0.1] [--seed N] [--findings N] [--into FOLDER]
//
// --share takes a part of each target's runs. What a finding was made of is written into FOLDER; the same seed makes it again.
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    targets: { type: "string" },
    share: { type: "string", default: "1" },
    seed: { type: "string", default: "1" },
    findings: { type: "string", default: "10" },
    into: { type: "string" },
  },
});
const { TARGETS } = await import("../dist/test/fuzz/targets.js");
process.exitCode = await mutated();

/** Each target in a process of its own, so that the peak of memory is its own. */
async function mutated() {
  const names = flags.targets?.split(",") ?? TARGETS.map(({ name }) => name);
  if (names.length === 1) return mutatedOf(names[0]);
  const rest = process.argv.slice(2).filter((arg, at, all) => arg !== "--targets" && all[at - 1] !== "--targets");
  const statuses = names.map(
    (name) =>
      spawnSync(process.execPath, [process.argv[1], ...rest, "--targets", name], { stdio: "inherit" }).status ?? 1,
  );
  return Math.max(...statuses);
}

async function mutatedOf(name) {
  const target = TARGETS.find((each) => each.name === name);
  if (target === undefined)
    throw new Error(`no target ${name}; there are ${TARGETS.map((each) => each.name).join(", ")}`);
  const { fuzzTarget, LONGEST_SECONDS, MOST_BYTES } = await import("../dist/test/fuzz/run-target.js");
  const runs = Math.ceil(target.runs * Number(flags.share));
  const options = { target: name, seed: Number(flags.seed), runs, mostFindings: Number(flags.findings) };
  const report = await fuzzTarget(options);
  const { taken, seconds, slowestSeconds, bytes, findings } = report;
  console.log(
    `${name}: ${report.runs} inputs, ${taken} of them taken, in ${seconds.toFixed(0)} s; slowest ${slowestSeconds.toFixed(2)} s, ` +
      `${(bytes / 1e6).toFixed(0)} MB more at most; ${findings.length} findings`,
  );
  for (const { seed, problem, input } of findings) {
    console.log(`  seed ${seed}: ${problem.split("\n").slice(0, 4).join(" | ")}`);
    if (flags.into === undefined) continue;
    mkdirSync(flags.into, { recursive: true });
    writeFileSync(join(flags.into, `${name}-${seed}`), input);
  }
  return findings.length === 0 && slowestSeconds <= LONGEST_SECONDS && bytes <= MOST_BYTES ? 0 : 1;
}
