import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { COMMANDS } from "../../src/cli/commands/index.js";
import { buildProgram } from "../../src/cli/program.js";
import { DEMO_MODEL, ROOT, runPrune } from "../helpers/cli.js";

/** Parse a command line and return which command was told what, and what every command has. */
async function parse(args: readonly string[]): Promise<unknown[]> {
  let heard: unknown[] = [];
  const program = buildProgram("0.0.0", COMMANDS, async ({ name }, said, common) => {
    heard = [name, { ...said, ...(JSON.parse(JSON.stringify(common)) as object) }];
  });
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({ writeErr: () => undefined });
  await program.parseAsync([...args], { from: "user" });
  return heard;
}

const TABLE: readonly [string, unknown[]][] = [
  ["", ["run", {}]],
  ["run", ["run", {}]],
  [
    "--model m --method wanda --sparsity 0.7 --out o",
    ["run", { model: "m", method: "wanda", sparsity: "0.7", out: "o" }],
  ],
  ["run --model m --pattern 2:4 --force", ["run", { model: "m", pattern: "2:4", force: true }]],
  [
    "--calibration c#n --nsamples 4 --seqlen 8 --seed 1",
    ["run", { calibration: "c#n", nsamples: "4", seqlen: "8", seed: "1" }],
  ],
  [
    "--device cpu --memory 1GB --dry-run --resume",
    ["run", { device: "cpu", memory: "1GB", dryRun: true, resume: true }],
  ],
  ["--family llama --starved magnitude", ["run", { family: "llama", starved: "magnitude" }]],
  ["eval m --text t --family qwen2", ["eval", { model: "m", text: "t", family: "qwen2" }]],
  ["inspect m --family qwen2", ["inspect", { model: "m", family: "qwen2" }]],
  ["m/m --sparsity 0.5", ["run", { model: "m/m", sparsity: "0.5" }]],
  ["run m", ["run", { model: "m" }]],
  [
    "hf://m@r --revision r --token t --offline",
    ["run", { model: "hf://m@r", revision: "r", token: "t", offline: true }],
  ],
  ["eval --model m --text t", ["eval", { model: "m", text: "t" }]],
  ["inspect m --model m --offline", ["inspect", { model: "m", offline: true }]],
  ["compare org/m --methods wanda", ["compare", { model: "org/m", methods: "wanda" }]],
  ["families --json", ["families", { json: true }]],
  ["methods -q", ["methods", { quiet: true }]],
  [
    "--recipe r.yaml --then a b --option x=1 y=z --allocation owl:M=5",
    ["run", { recipe: "r.yaml", then: ["a", "b"], option: ["x=1", "y=z"], allocation: "owl:M=5" }],
  ],
  [
    "compare --methods a,b+c --sparsities 0.5 --patterns 2:4 --text t --work w --resume --csv",
    [
      "compare",
      { methods: "a,b+c", sparsities: "0.5", patterns: "2:4", text: "t", work: "w", resume: true, csv: true },
    ],
  ],
  [
    "compare --allocation owl:M=3,lambda=0.1 --allocation uniform",
    ["compare", { allocation: ["owl:M=3,lambda=0.1", "uniform"] }],
  ],
  ["--method magnitude --measure-loss", ["run", { method: "magnitude", measureLoss: true }]],
  ["eval m --text t --reference d", ["eval", { model: "m", text: "t", reference: "d" }]],
  [
    "eval m --text t --max-ppl 9 --max-ppl-ratio 1.05 --max-kl 0.1",
    ["eval", { model: "m", text: "t", maxPpl: "9", maxPplRatio: "1.05", maxKl: "0.1" }],
  ],
  [
    "--ignore a b --propagation group --damping 0.1 --block-size 64",
    ["run", { ignore: ["a", "b"], propagation: "group", damping: "0.1", blockSize: "64" }],
  ],
  [
    "--json --quiet -v --log-file f --log-format json",
    ["run", { json: true, quiet: true, verbose: true, logFile: "f", logFormat: "json" }],
  ],
  [
    "eval m --text t --seqlen 8 --max-windows 2 --json",
    ["eval", { model: "m", text: "t", seqlen: "8", maxWindows: "2", json: true }],
  ],
  [
    "generate-calibration m --out o.jsonl --force --nsamples 4 --seqlen 8 --seed 1 --top-k 5 --top-p 0.9 --temperature 0.7",
    [
      "generate-calibration",
      {
        model: "m",
        out: "o.jsonl",
        force: true,
        nsamples: "4",
        seqlen: "8",
        seed: "1",
        topK: "5",
        topP: "0.9",
        temperature: "0.7",
      },
    ],
  ],
  [
    "generate-calibration m --greedy-tokens 2 --prompts p --batch-size 3 --memory 1GB --json",
    [
      "generate-calibration",
      { model: "m", greedyTokens: "2", prompts: "p", batchSize: "3", memory: "1GB", json: true },
    ],
  ],
  ["inspect m --json -q", ["inspect", { model: "m", json: true, quiet: true }]],
  ["inspect m --config", ["inspect", { model: "m", config: true }]],
  ["devices --json", ["devices", { json: true }]],
];

for (const [line, expected] of TABLE) {
  test(`"prune ${line}" is understood`, async () => {
    assert.deepEqual(await parse(line === "" ? [] : line.split(" ")), expected);
  });
}

test("help leads with examples, groups the options, and explains N:M in words", async () => {
  const { code, stdout, stderr } = await runPrune(["--help"]);
  assert.equal(code, 0);
  assert.equal(stderr, "");
  assert.match(stdout, /^Examples:\n {2}prune meta-llama\/Llama/);
  for (const group of ["What to prune:", "How to prune:", "Calibration:", "Running:", "Output:", "Commands:"]) {
    assert.ok(stdout.includes(`\n${group}\n`), group);
  }
  assert.match(stdout.replace(/\s+/g, " "), /2:4 keeps 2 of every 4 weights along the input dimension/);
  const subcommand = await runPrune(["eval", "-h"]);
  assert.equal(subcommand.code, 0);
  assert.match(subcommand.stdout, /^Examples:\n {2}prune eval/);
});

test("version is package.json's", async () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  assert.equal((await runPrune(["-V"])).stdout, `${version}\n`);
});

test("--help loads commander and tables of words, and nothing that is slow to load", async () => {
  const hook =
    'import{writeSync}from"node:fs";export async function load(u,c,n){writeSync(2,"LOADED "+u+"\\n");return n(u,c)}';
  const register = `import{register}from"node:module";register("data:text/javascript,${encodeURIComponent(hook)}");`;
  const { code, stderr } = await runPrune(["--help"], {
    nodeOptions: ["--import", `data:text/javascript,${encodeURIComponent(register)}`],
  });
  assert.equal(code, 0);
  const files = [...stderr.matchAll(/^LOADED file:(.*)$/gm)].map(([, path]) =>
    fileURLToPath(`file:${path ?? ""}`).slice(ROOT.length),
  );
  assert.ok(files.includes("dist/src/cli/main.js"), stderr);
  const ours =
    /^dist\/src\/(cli\/[\w/-]+|files\/(door|file-errors|program-files|request-files|stream-files)|options\/[\w-]+|sparsity\/pattern|errors|is-record|version|nearest-name)\.js$/;
  const allowed = new RegExp(`^bin/prune\\.js$|${ours.source}|^(.*/)?node_modules/commander/`);
  assert.deepEqual(
    files.filter((file) => !allowed.test(file)),
    [],
  );
});

const USAGE_ERRORS: readonly { args: readonly string[]; stderr: RegExp }[] = [
  { args: ["--sparsty", "0.7"], stderr: /^error: unknown option '--sparsty'\.\nhint: Did you mean --sparsity\?/ },
  { args: ["eval", "m", "--txet", "t"], stderr: /^error: unknown option '--txet'\.\nhint: Did you mean --text\?/ },
  { args: ["--nothing-like-it"], stderr: /^error: unknown option '--nothing-like-it'\.\nhint: `prune help`/ },
  {
    args: ["evla", "m"],
    stderr: /^error: "evla" is not a command, .*Did you mean "eval"\?\nhint: Commands: run, eval/,
  },
  { args: ["methdos"], stderr: /^error: "methdos" is not a command, .*Did you mean "methods"\?/ },
  {
    args: ["nowhere", "--sparsity", "0.5"],
    stderr: /^error: "nowhere" is not a command, and no directory\.\nhint: .*hf:\/\//,
  },
  { args: [DEMO_MODEL, "./another"], stderr: /^error: too many arguments/ },
  { args: [DEMO_MODEL, "--model", "./another"], stderr: /^error: --model \.\/another: .* is named as well/ },
  { args: ["eval"], stderr: /problems:\n {2}--text: missing.*\n {2}--model: missing/ },
  { args: ["eval", DEMO_MODEL], stderr: /^error: --text: missing/ },
  { args: ["inspect", "a", "b"], stderr: /^error: too many arguments/ },
  { args: ["--model"], stderr: /^error: option '--model <model>' argument missing\./ },
  { args: ["--log-format", "xml"], stderr: /^error: option '--log-format <format>' argument 'xml' is invalid/ },
  {
    args: ["--sparsity", "70"],
    stderr: /^error: --sparsity: "70" is not a fraction below 1; for 70% write 0\.7 or 70%\.\nhint: /,
  },
];

for (const { args, stderr } of USAGE_ERRORS) {
  test(`"prune ${args.join(" ").replace(ROOT, "")}" ends with 2 and says why on stderr`, async () => {
    const finished = await runPrune(args);
    assert.equal(finished.code, 2);
    assert.match(finished.stderr, stderr);
    assert.doesNotMatch(finished.stderr, /\n\s+at /, "no stack without -v");
    assert.equal(finished.stdout, "");
  });
}
