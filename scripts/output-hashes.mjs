/**
 * Whether a change of the program changes what it writes: runs a matrix of commands through bin/prune.js and notes the
 * SHA-256 of every output file, the losses and the perplexities. Rounding differs between machines, so a record is good
 * on the machine that made it.
 *
 *   node scripts/output-hashes.mjs record FILE            before a refactor
 *   node scripts/output-hashes.mjs compare FILE [FILTER]  after every step; FILTER: a part of the cells' names
 *
 * `--quick` takes about a third of the cells. The webgpu cells are left out where there is no adapter (run it through
 * the environment that `npm test` sets up: VK_ICD_FILENAMES).
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./install.mjs";

const FIXTURES = join(ROOT, "test/fixtures/architectures");
const IDS = join(ROOT, "test/fixtures/models/demo-self.safetensors");

/** A run of the demo model: its own calibration ids, 10 sequences of 64 tokens unless the cell says otherwise. */
const demo = (...flags) => ["--calibration", `${IDS}#calib`, "--nsamples", "10", "--seqlen", "64", ...flags];
/** A run of a stored architecture on the ids of its golden forward. */
const fixture = (name, ...flags) => [
  ...["--model", join(FIXTURES, name), "--calibration", `${join(FIXTURES, name, "golden.safetensors")}#input_ids`],
  ...["--nsamples", "2", ...flags],
];

const METHODS = ["magnitude", "wanda", "sparsegpt", "thanos", "admm", "alps", "ria", "random"];
const ALLOCATIONS = "owl dlp alphapruning atp er erk lamp global global:score=wanda owl:granularity=projection".split(
  " ",
);

function cells() {
  const list = new Map();
  const add = (name, args, isQuick = false) => list.set(name, { args, isQuick });
  for (const method of METHODS) {
    add(`demo ${method} 0.5`, demo("--method", method, "--sparsity", "0.5"), method === "sparsegpt");
    add(`demo ${method} 2:4`, demo("--method", method, "--pattern", "2:4"), method === "wanda");
    for (const propagation of ["group", "dense"])
      add(
        `demo ${method} 0.6 ${propagation}`,
        demo("--method", method, "--sparsity", "0.6", "--propagation", propagation),
      );
    add(
      `demo ${method} 0.7 reproduce`,
      demo("--method", method, "--sparsity", "0.7", "--reproduce", "model"),
      method === "alps",
    );
    add(
      `demo ${method} 4:8 permuted`,
      demo("--method", method, "--pattern", "4:8", "--permutation", "channels"),
      method === "sparsegpt",
    );
  }
  for (const allocation of ALLOCATIONS)
    add(
      `demo wanda 0.7 ${allocation}`,
      demo("--sparsity", "0.7", "--allocation", allocation),
      allocation.endsWith("wanda") || allocation === "alphapruning",
    );
  for (const proxy of ["method", "wanda"])
    add(
      `demo sparsegpt 0.7 evolutionary ${proxy}`,
      demo(
        "--method",
        "sparsegpt",
        "--sparsity",
        "0.7",
        "--allocation",
        `evolutionary:generations=2,offspring=4,heldOut=4,proxy=${proxy}`,
      ),
      false,
    );
  add("demo auto 2:4", demo("--method", "auto", "--pattern", "2:4"));
  add(
    "demo auto 0.7",
    demo("--method", "auto", "--sparsity", "0.7", "--allocation", "evolutionary:generations=1,offspring=2,heldOut=2"),
  );
  for (const then of ["dsnot", "obs-update", "admm-update", "cg-update"])
    add(`demo wanda+${then}`, demo("--sparsity", "0.6", "--then", then), then === "dsnot");
  add("demo wanda+dsnot 2:4 group", demo("--pattern", "2:4", "--then", "dsnot", "--propagation", "group"));
  add(
    "demo sparsegpt activation order",
    demo("--method", "sparsegpt", "--sparsity", "0.5", "--option", "order=activation"),
  );
  add(
    "demo sparsegpt ignored measured",
    demo("--method", "sparsegpt", "--sparsity", "0.5", "--ignore", "*.down_proj", "--measure-loss"),
    true,
  );
  add("demo wanda measured permuted", demo("--pattern", "2:4", "--measure-loss", "--permutation", "channels"));
  add(
    "demo wanda reproduce permuted measured group",
    demo("--method", "alps", "--pattern", "2:4", "--measure-loss", "--permutation", "channels", "--reproduce", "model"),
  );
  add(
    "demo sparsegpt spilled",
    demo("--method", "sparsegpt", "--sparsity", "0.5", "--memory", "200kB", "--reproduce", "model"),
  );
  add("demo magnitude uncalibrated", ["--method", "magnitude", "--sparsity", "0.5"], true);
  for (const name of readdirSync(FIXTURES)) {
    add(
      `${name} sparsegpt 0.5`,
      fixture(name, "--method", "sparsegpt", "--sparsity", "0.5"),
      name === "mixtral" || name === "gpt2",
    );
    add(`${name} wanda 2:4 group`, fixture(name, "--pattern", "2:4", "--propagation", "group"));
    add(
      `${name} alps 0.6 reproduce permuted`,
      fixture(name, "--method", "alps", "--pattern", "2:4", "--reproduce", "model", "--permutation", "channels"),
    );
  }
  for (const name of ["mixtral", "qwen3_moe", "qwen2_moe", "deepseek_v2"]) {
    for (const starved of ["all-tokens", "magnitude", "skip"]) {
      const flags = ["--method", "sparsegpt", "--sparsity", "0.5", "--starved", starved];
      add(
        `${name} starved ${starved}`,
        fixture(name, ...flags, "--nsamples", "1"),
        starved === "all-tokens" && name === "qwen2_moe",
      );
      add(
        `${name} starved ${starved} dense measured`,
        fixture(name, ...flags, "--propagation", "dense", "--measure-loss"),
      );
    }
    add(`${name} owl`, fixture(name, "--sparsity", "0.6", "--allocation", "owl:M=2"));
    add(
      `${name} evolutionary`,
      fixture(
        name,
        "--method",
        "sparsegpt",
        "--sparsity",
        "0.6",
        "--allocation",
        "evolutionary:generations=2,offspring=2,heldOut=1",
      ),
    );
  }
  for (const method of ["wanda", "sparsegpt", "thanos", "admm"]) {
    add(
      `webgpu llama ${method} 0.5`,
      fixture("llama", "--device", "webgpu", "--method", method, "--sparsity", "0.5"),
      method === "sparsegpt",
    );
    add(
      `webgpu llama ${method} 2:4`,
      fixture("llama", "--device", "webgpu", "--method", method, "--pattern", "2:4", "--permutation", "channels"),
    );
  }
  add(
    "webgpu llama alps reproduce",
    fixture("llama", "--device", "webgpu", "--method", "alps", "--sparsity", "0.5", "--reproduce", "model"),
    true,
  );
  add(
    "webgpu mixtral sparsegpt",
    fixture("mixtral", "--device", "webgpu", "--method", "sparsegpt", "--sparsity", "0.5", "--measure-loss"),
  );
  add("webgpu demo magnitude", ["--device", "webgpu", "--method", "magnitude", "--sparsity", "0.5"]);
  const evaluate = (model, text, ...flags) => ["eval", model, "--text", text, ...flags];
  add("eval demo", evaluate(join(ROOT, "models/demo"), `${IDS}#evaluation`, "--max-windows", "8"), true);
  add(
    "eval demo text",
    evaluate(
      join(ROOT, "models/demo"),
      join(ROOT, "models/demo/evaluation.txt"),
      "--max-windows",
      "4",
      "--seqlen",
      "100",
    ),
  );
  for (const name of readdirSync(FIXTURES))
    add(
      `eval ${name}`,
      evaluate(
        join(FIXTURES, name),
        `${join(FIXTURES, name, "golden.safetensors")}#input_ids`,
        "--reference",
        join(FIXTURES, name),
      ),
      name === "bloom" || name === "opt_350m_style",
    );
  const compare = (...flags) => [
    "compare",
    "--calibration",
    `${IDS}#calib`,
    "--text",
    `${IDS}#evaluation`,
    "--max-windows",
    "4",
    "--nsamples",
    "6",
    "--seqlen",
    "64",
    ...flags,
  ];
  add(
    "compare demo",
    compare(
      "--methods",
      "wanda,sparsegpt,wanda+admm-update",
      "--sparsities",
      "0.7",
      "--allocation",
      "uniform",
      "--allocation",
      "owl",
    ),
    true,
  );
  add(
    "compare demo dense",
    compare("--methods", "wanda,sparsegpt,alps", "--sparsities", "0.5", "--propagation", "dense"),
  );
  return list;
}

/** Everything a cell leaves, by name. Times, sizes of the process and paths are left out. */
async function outcomeOf([name, { args }]) {
  const directory = mkdtempSync(join(tmpdir(), "output-hashes-"));
  const [command] = args;
  const place =
    command === "compare"
      ? ["--work", join(directory, "work")]
      : command === "eval"
        ? []
        : ["--out", join(directory, "out")];
  const device = args.includes("--device") || command === "eval" ? [] : ["--device", "cpu"];
  try {
    const { code, stdout, stderr } = await run([...args, ...place, ...device, "--json", "--quiet"]);
    if (code !== 0) return { [`${name} | failed`]: `${code}: ${stderr.slice(-400)}` };
    const report = sha256(JSON.stringify(numbersOf(JSON.parse(stdout))));
    const files = command === "eval" || command === "compare" ? {} : filesOf(join(directory, "out"));
    return {
      [`${name} | report`]: report,
      ...Object.fromEntries(Object.entries(files).map(([file, hash]) => [`${name} | ${file}`, hash])),
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function run(args) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join(ROOT, "bin/prune.js"), ...args], { cwd: ROOT });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (text) => (stdout += text));
    child.stderr.on("data", (text) => (stderr += text));
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

const VOLATILE = new Set(["seconds", "peakRssBytes", "device", "model", "out", "text", "description"]);

function numbersOf(value) {
  if (Array.isArray(value)) return value.map(numbersOf);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => !VOLATILE.has(key))
      .map(([key, inner]) => [key, numbersOf(inner)]),
  );
}

/** recipe.yaml is left out: it says how the run was asked for, not what came of it. */
function filesOf(directory) {
  const names = readdirSync(directory, { recursive: true }).map(String).sort();
  const files = names.filter((name) => name !== "recipe.yaml" && statSync(join(directory, name)).isFile());
  return Object.fromEntries(files.map((name) => [name, sha256(readFileSync(join(directory, name)))]));
}

function sha256(data) {
  return createHash("sha256").update(data).digest("hex");
}

const [mode, file, ...rest] = process.argv.slice(2);
const isQuick = rest.includes("--quick");
const [filter = ""] = rest.filter((word) => !word.startsWith("--"));
if ((mode !== "record" && mode !== "compare") || file === undefined) {
  process.stderr.write("usage: node scripts/output-hashes.mjs record|compare FILE [FILTER] [--quick]\n");
  process.exit(2);
}
const hasAdapter = process.env.VK_ICD_FILENAMES !== undefined;
const queue = [...cells()].filter(
  ([name, cell]) => name.includes(filter) && (!isQuick || cell.isQuick) && (hasAdapter || !name.startsWith("webgpu")),
);
const total = queue.length;
const found = {};
await Promise.all(
  Array.from({ length: availableParallelism() }, async () => {
    for (let cell = queue.shift(); cell !== undefined; cell = queue.shift())
      Object.assign(found, await outcomeOf(cell));
  }),
);
const failed = Object.keys(found).filter((key) => key.endsWith("| failed"));
if (mode === "record") {
  writeFileSync(file, `${JSON.stringify(Object.fromEntries(Object.entries(found).sort()), null, 1)}\n`);
  process.stdout.write(`${total} cells, ${Object.keys(found).length} hashes, ${failed.length} failed\n`);
  for (const key of failed) process.stdout.write(`${key}: ${found[key]}\n`);
} else {
  const before = JSON.parse(readFileSync(file, "utf8"));
  const differing = Object.keys(found).filter((key) => before[key] !== found[key]);
  for (const key of differing)
    process.stdout.write(`differs: ${key}${key.endsWith("| failed") ? ` (${found[key]})` : ""}\n`);
  process.stdout.write(`${total} cells, ${Object.keys(found).length} hashes, ${differing.length} differ\n`);
  process.exit(differing.length === 0 ? 0 : 1);
}
