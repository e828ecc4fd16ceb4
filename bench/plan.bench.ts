/**
 * `--dry-run` against real runs: seconds and peak resident memory, planned and real, for every method on the demo model and
 * on blocks of the 1.1B shape. The plan is made right before its run, because a machine's speed drifts. Real figures are
 * those of the run's own report.
 *
 *   npm run bench plan
 *   PLAN_METHODS=wanda,sparsegpt PLAN_MODELS=demo npm run bench plan      only some
 *   PLAN_BLOCKS=1                                                         of the 1.1B shape; default 2
 */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { encodeHeader } from "../src/checkpoint/header.js";
import type { PlanReport, RunReport } from "../src/contract.js";
import { machineLine } from "./harness.js";
import { writeSyntheticCheckpoint } from "./llama-shape.js";

const VOCABULARY = 32000;
const COMMAND = fileURLToPath(new URL("../../bin/prune.js", import.meta.url));
const DEMO = fileURLToPath(new URL("../../models/demo", import.meta.url));
const SEQLEN = { demo: 256, shape: 512 };
const SEQUENCES = { demo: 64, shape: 8 };

/** Flags of each case, in the order of what they cost. */
const CASES: readonly (readonly [name: string, flags: readonly string[]])[] = [
  ["magnitude", ["--method", "magnitude"]],
  ["random", ["--method", "random"]],
  ["wanda", ["--method", "wanda"]],
  ["ria", ["--method", "ria"]],
  ["wanda 2:4", ["--method", "wanda", "--pattern", "2:4"]],
  ["wanda group", ["--method", "wanda", "--propagation", "group"]],
  ["wanda owl", ["--method", "wanda", "--allocation", "owl"]],
  ["wanda alphapruning", ["--method", "wanda", "--allocation", "alphapruning:epsilon=0.1"]],
  ["wanda + dsnot", ["--method", "wanda", "--then", "dsnot"]],
  ["sparsegpt", ["--method", "sparsegpt"]],
  ["sparsegpt group", ["--method", "sparsegpt", "--propagation", "group"]],
  ["sparsegpt dense", ["--method", "sparsegpt", "--propagation", "dense"]],
  ["sparsegpt reproduce", ["--method", "sparsegpt", "--reproduce", "model"]],
  ["wanda + obs-update", ["--method", "wanda", "--then", "obs-update"]],
  ["wanda + cg-update", ["--method", "wanda", "--then", "cg-update"]],
  ["wanda + admm-update", ["--method", "wanda", "--then", "admm-update"]],
  ["thanos", ["--method", "thanos"]],
  ["admm", ["--method", "admm"]],
  ["alps", ["--method", "alps"]],
];

async function writeIds(file: string, sequences: number, seqlen: number, vocabulary: number): Promise<void> {
  const shape = [sequences, seqlen];
  const header = encodeHeader([{ name: "ids", dtype: "I32", shape, byteLength: 4 * sequences * seqlen }]);
  const ids = Int32Array.from({ length: sequences * seqlen }, () => Math.floor(Math.random() * vocabulary));
  await writeFile(file, Buffer.concat([header.bytes, new Uint8Array(ids.buffer)]));
}

async function prune<Report>(argv: readonly string[]): Promise<Report> {
  const command = [COMMAND, "run", ...argv, "--json", "--quiet"];
  const { stdout } = await promisify(execFile)(process.execPath, command, { maxBuffer: 2 ** 26 });
  return JSON.parse(stdout) as Report;
}

const isAsked = (variable: string, name: string): boolean => {
  const asked = process.env[variable];
  return asked === undefined || asked.split(",").includes(name);
};

const work = await mkdtemp(join(process.env["BENCH_DIRECTORY"] ?? tmpdir(), "prune-bench-"));
try {
  console.log(`plans against runs (${machineLine()})`);
  for (const model of ["demo", "shape"] as const) {
    if (!isAsked("PLAN_MODELS", model)) continue;
    const directory = model === "demo" ? DEMO : join(work, "shape");
    const blocks = Number(process.env["PLAN_BLOCKS"] ?? 2);
    if (model === "shape") await writeSyntheticCheckpoint(directory, { blocks, vocabulary: VOCABULARY });
    const ids = join(work, `${model}.safetensors`);
    await writeIds(ids, SEQUENCES[model], SEQLEN[model], model === "demo" ? 4096 : VOCABULARY);
    const title = model === "demo" ? "demo model" : `${blocks} blocks of the 1.1B shape`;
    console.log(`\n${title}, ${SEQUENCES[model]} sequences of ${SEQLEN[model]} tokens`);
    console.log("| run | planned s | real s | ratio | planned MiB | real MiB | ratio |\n|---|---|---|---|---|---|---|");
    for (const [name, flags] of CASES) {
      if (!isAsked("PLAN_METHODS", name)) continue;
      const calibration = ["--calibration", ids, "--nsamples", String(SEQUENCES[model])];
      const target = flags.includes("--pattern") ? [] : ["--sparsity", "0.5"];
      const out = join(work, "out");
      const argv = [...flags, ...target, ...calibration, "--seqlen", String(SEQLEN[model]), "--device", "cpu"];
      const where = ["--model", directory, "--out", out, "--force"];
      const plan = await prune<PlanReport>([...where, ...argv, "--dry-run"]);
      const run = await prune<RunReport>([...where, ...argv]);
      await rm(out, { recursive: true });
      const seconds = [plan.estimatedSeconds, run.seconds, plan.estimatedSeconds / run.seconds];
      const bytes = [plan.peakMemoryBytes / 2 ** 20, run.peakRssBytes / 2 ** 20];
      const share = plan.peakMemoryBytes / run.peakRssBytes;
      console.log(
        `| ${name} | ${seconds.map((value) => value.toFixed(2)).join(" | ")} | ${bytes.map((value) => value.toFixed(0)).join(" | ")} | ${share.toFixed(2)} |`,
      );
    }
  }
} finally {
  await rm(work, { recursive: true, force: true });
}
