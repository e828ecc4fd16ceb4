// Kills and fails a run, a resume and a comparison of a tiny model at their system calls, one at a time, and looks at what is left:
// `--resume` gives the same bytes, or nothing was there and the command itself gives them. Needs strace and a build.
//
//   node scripts/torture-processes.mjs [--modes run,resume,compare] [--faults SIGKILL,ENOSPC,EIO] [--calls pwrite64,rename,…] [--most N] [--directory D]
//
// --most 5 takes five calls of each kind, spread evenly. A fault is injected by `strace -e inject`, into calls on the command's own files alone; UV_THREADPOOL_SIZE=1
// makes their order the same every time.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PRUNE = join(ROOT, "bin/prune.js");
const { values: flags } = parseArgs({
  options: {
    modes: { type: "string", default: "run,resume,compare" },
    faults: { type: "string", default: "SIGKILL,ENOSPC,EIO" },
    calls: {
      type: "string",
      default: "openat,mkdir,pwrite64,write,ftruncate,fsync,fdatasync,copy_file_range,chmod,rename,unlink,rmdir",
    },
    most: { type: "string", default: "Infinity" },
    directory: { type: "string", default: tmpdir() },
  },
});
const CALLS = flags.calls.split(",");

const { writeSyntheticLlama, writeRandomIds } = await import("../dist/test/helpers/synthetic-model.js");
const folder = mkdtempSync(join(flags.directory, "prune-torture-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = join(folder, "model");
await writeSyntheticLlama(model, { hidden: 32, intermediate: 64 });
await writeRandomIds(model, { sequences: 4, tokens: 16 });
const ids = join(model, "ids.safetensors");

const common = ["--model", model, "--calibration", ids, "--seqlen", "16", "--device", "cpu", "-q", "--json"];
/** Each with spilled states: a sequence takes 2 KiB. */
const MODES = {
  run: {
    args: (out) => ["run", ...common, "--sparsity", "0.5", "--memory", "6KB", "--out", out],
    resultOf: hashesOf,
  },
  resume: {
    args: (out) => ["run", ...common, "--sparsity", "0.5", "--memory", "6KB", "--out", out, "--resume"],
    resultOf: hashesOf,
    prepare: (out) =>
      cpSync(join(folder, "interrupted"), `${out}.partial`, { recursive: true, preserveTimestamps: true }),
  },
  compare: {
    args: (out) => [
      ...["compare", ...common, "--text", ids, "--methods", "magnitude,wanda", "--sparsities", "0.5", "--work", out],
    ],
    resultOf: (_out, stdout) =>
      JSON.parse(stdout).rows.map(({ method, perplexity, layers }) => [
        method,
        perplexity,
        layers.map(({ zeros }) => zeros),
      ]),
  },
};

function hashesOf(out) {
  return readdirSync(out, { recursive: true })
    .map(String)
    .filter((name) => statSync(join(out, name)).isFile())
    .sort()
    .map((name) => [
      name,
      name === "recipe.yaml"
        ? ""
        : createHash("sha256")
            .update(readFileSync(join(out, name)))
            .digest("hex"),
    ]);
}

/** @param traced strace's options, or none */
function command(args, traced = []) {
  const [file, ...rest] = [...(traced.length > 0 ? ["strace", "-f", ...traced] : []), process.execPath, PRUNE, ...args];
  const env = { ...process.env, UV_THREADPOOL_SIZE: "1" };
  return spawnSync(file, rest, { env, encoding: "utf8", maxBuffer: 2 ** 28, cwd: folder });
}

/** Files whose calls are failed: strace wants them by name. */
function pathsOf(out) {
  const partial = [".", "journal.jsonl", "model.safetensors", "config.json", "ids.safetensors", "hidden-states.bin"];
  const made = ["clone-complete", "clone-complete.tmp", "cloning.tmp", "recipe.yaml"];
  const works = ["compare.jsonl", "compare.jsonl.tmp", "dense.bin", "pruned.bin", "statistics"];
  const runs = [`${out}.partial`, join(out, "pruned.partial")].flatMap((at) =>
    [...partial, ...made].map((name) => join(at, name)),
  );
  const finished = [out, join(out, "pruned")].flatMap((at) => [...partial, ...made].map((name) => join(at, name)));
  const all = [
    out,
    folder,
    `${out}.lock`,
    join(out, "pruned.lock"),
    ...runs,
    ...finished,
    ...works.map((name) => join(out, name)),
  ];
  return all.flatMap((path) => ["-P", path]);
}

function fresh(mode, name) {
  const out = join(folder, name);
  for (const ending of ["", ".partial", ".lock"]) rmSync(out + ending, { recursive: true, force: true });
  MODES[mode].prepare?.(out);
  return out;
}

/** How often each call is made of these files. */
function countCalls(mode) {
  const out = fresh(mode, "traced");
  const log = join(folder, "trace.txt");
  const run = command(MODES[mode].args(out), ["-o", log, "-e", `trace=${CALLS.join(",")}`, ...pathsOf(out)]);
  if (run.status !== 0) throw new Error(`${mode} does not run under strace: ${run.stderr}`);
  const counts = new Map(CALLS.map((call) => [call, 0]));
  for (const [, call] of readFileSync(log, "utf8").matchAll(/^\d+ +(\w+)\(/gm))
    counts.set(call, (counts.get(call) ?? 0) + 1);
  return { counts, expected: JSON.stringify(MODES[mode].resultOf(out, run.stdout)) };
}

/** What went wrong with a fault at one call, or undefined. */
function tryFault(mode, fault, call, number, expected) {
  const { args, resultOf } = MODES[mode];
  const out = fresh(mode, "victim");
  const isKill = fault === "SIGKILL";
  const inject = `inject=${call}:${isKill ? `signal=${fault}` : `error=${fault}`}:when=${number}`;
  const failed = command(args(out), ["-o", "/dev/null", "-e", `trace=${call}`, "-e", inject, ...pathsOf(out)]);
  const ended = failed.status ?? failed.signal;
  if (!isKill && ![0, 2, 4, 5].includes(ended)) return `ended with ${ended}: ${String(failed.stderr).split("\n")[0]}`;
  const isFinished = existsSync(join(out, "recipe.yaml"));
  if (mode !== "compare" && ended === 0 && !isFinished) return "exit 0 and no output";
  let result = failed;
  // Killed between the last rename and the end: a resume goes on from before it, or says that nothing is left to do.
  if (mode !== "compare" && isFinished && existsSync(join(out, "clone-complete"))) {
    result = command([...args(out).filter((arg) => arg !== "--resume"), "--resume"]);
    if (result.status !== 0 && !(result.status === 2 && /is complete/.test(result.stderr)))
      return `afterwards ${result.status}: ${result.stderr.split("\n")[0]}`;
  }
  if (mode === "compare" ? ended !== 0 : !isFinished) {
    const isResumable = mode === "compare" ? existsSync(out) : existsSync(`${out}.partial`);
    const again = args(out).filter((arg) => arg !== "--resume");
    result = command(isResumable ? [...again, "--resume"] : again);
    if (result.status !== 0) return `afterwards ${result.status}: ${result.stderr.split("\n")[0]}`;
  }
  if (JSON.stringify(resultOf(out, result.stdout)) !== expected) return "other bytes";
  if (isFinished && !isKill && ended === 0) return undefined;
  for (const left of [`${out}.partial`, `${out}.lock`])
    if (!isFinished && existsSync(left)) return `${left} is left behind`;
  return undefined;
}

if (spawnSync("strace", ["-V"]).status !== 0) throw new Error("strace is not installed");
prepareInterrupted();
let [tried, wrong] = [0, 0];
for (const mode of flags.modes.split(",")) {
  const { counts, expected } = countCalls(mode);
  for (const fault of flags.faults.split(",")) {
    const row = [];
    for (const [call, count] of counts) {
      let here = 0;
      const numbers = Math.min(count, Number(flags.most));
      for (let i = 0; i < numbers; i++) {
        const number = 1 + Math.floor((i * count) / numbers);
        const problem = tryFault(mode, fault, call, number, expected);
        here++;
        if (problem === undefined) continue;
        wrong++;
        console.log(`  ${mode}, ${fault} at ${call} ${number} of ${count}: ${problem}`);
      }
      tried += here;
      if (here > 0) row.push(`${call} ${here}/${count}`);
    }
    console.log(`${mode} ${fault}: ${row.join(", ")}`);
  }
}
console.log(`${tried} faults, ${wrong} of them with a wrong end`);
process.exitCode = wrong === 0 ? 0 : 1;

/** A run that was killed once its clone was sealed and its first block was written: when its states are forwarded. */
function prepareInterrupted() {
  const out = fresh("run", "interrupted-run");
  const inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=SIGKILL:when=3"];
  command(MODES.run.args(out), ["-o", "/dev/null", ...inject, "-P", join(`${out}.partial`, "journal.jsonl")]);
  mkdirSync(join(folder, "interrupted"));
  cpSync(`${out}.partial`, join(folder, "interrupted"), { recursive: true, preserveTimestamps: true });
  for (const ending of [".partial", ".lock"]) rmSync(out + ending, { recursive: true, force: true });
}
