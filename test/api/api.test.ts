/** The program as functions: what the documentation shows runs, and everything arrives where it is said to. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import ts from "typescript";
import { gzipSync } from "node:zlib";
import {
  compare,
  createMemoryLogger,
  devices,
  evaluate,
  families,
  inspect,
  InterruptedError,
  methods,
  plan,
  prune,
  PruneError,
  type EngineEvent,
} from "../../src/index.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { repositoryPath } from "../helpers/paths.js";

const IDS = repositoryPath("test/fixtures/models/demo-self.safetensors");
const SMALL = { calibration: `${IDS}#calib`, nsamples: 4, seqlen: 64, device: "cpu" } as const;

test("the example of docs/node-api.md runs as it stands", { timeout: 120_000 }, (t) => {
  const directory = temporaryDirectory(t);
  const [, example = ""] = /```ts\n([\s\S]*?)```/.exec(readFileSync(repositoryPath("docs/node-api.md"), "utf8")) ?? [];
  assert.match(example, /await prune\(/);
  const { outputText } = ts.transpileModule(example, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  writeFileSync(join(directory, "example.mjs"), outputText);
  mkdirSync(join(directory, "node_modules/@prune-llm"), { recursive: true });
  symlinkSync(repositoryPath("."), join(directory, "node_modules/@prune-llm/prune"));
  cpSync(repositoryPath("models/demo"), join(directory, "Llama-3.2-1B"), { recursive: true });
  const config = join(directory, "Llama-3.2-1B/config.json");
  const values = JSON.parse(readFileSync(config, "utf8")) as object;
  writeFileSync(config, JSON.stringify({ ...values, max_position_embeddings: 64 })); // short sequences
  const text = readFileSync(repositoryPath("models/demo/calibration.txt"), "utf8");
  const documents = text.match(/[\s\S]{1,600}/g) ?? [];
  const lines = documents.map((document) => `${JSON.stringify({ text: document })}\n`);
  writeFileSync(join(directory, "c4.jsonl.gz"), gzipSync(lines.join("")));
  cpSync(repositoryPath("models/demo/evaluation.txt"), join(directory, "wiki.test.txt"));
  const { status, stdout, stderr } = spawnSync(process.execPath, ["example.mjs"], { cwd: directory, encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^block 1 of 6: \d+ zeros\n[\s\S]*\n0\.69\d+ 42 [\d.]+\n[\d.]+ 42\n$/, stderr);
});

test("plain values are taken; events, notes and the report arrive; the output is that of the command line", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const events: EngineEvent[] = [];
  const logger = createMemoryLogger();
  const request = { ...SMALL, method: "sparsegpt", methodOptions: { blockSize: 64 }, pattern: "2:4", out };
  const report = await prune({ ...request, logger, onEvent: (event) => events.push(event) });
  assert.deepEqual([report.schema, report.out, report.sparsity.achieved], ["prune.run/v1", out, 0.5]);
  assert.equal(events.filter(({ type }) => type === "block").length, 6);
  assert.match(logger.lines[0]?.message ?? "", /no --model given: taking the embedded demo model/);
  const recipe = readFileSync(join(out, "recipe.yaml"), "utf8");
  assert.match(recipe, /blockSize: 64/);

  const { perplexity, windows } = await evaluate({ model: out, text: `${IDS}#evaluation`, seqlen: 64, maxWindows: 2 });
  assert.ok(perplexity > 1 && windows === 2);
  const { sparsity } = await inspect({ model: out });
  assert.equal(sparsity, 0.5);
  const planned = await plan({ ...request, out: `${out}-2`, ignore: ["*.q_proj"] });
  assert.deepEqual([planned.schema, planned.linears, existsSync(`${out}-2`)], ["prune.plan/v1", 36, false]);
});

test("a sweep takes lists", async (t) => {
  const work = join(temporaryDirectory(t), "work");
  const axes = { methods: ["magnitude"], sparsities: [0.5], patterns: ["unstructured"], allocation: ["er"] };
  const { rows } = await compare({ ...SMALL, ...axes, text: `${IDS}#evaluation`, maxWindows: 1, work });
  assert.deepEqual(
    rows.map(({ method, allocation }) => [method, allocation]),
    [["magnitude", "er"]],
  );
});

test("an AbortSignal stops between steps, and resume goes on", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const stop = new AbortController();
  const request = { ...SMALL, sparsity: 0.5, out };
  const onEvent = ({ type }: EngineEvent): void => {
    if (type === "block") stop.abort();
  };
  await assert.rejects(prune({ ...request, onEvent, signal: stop.signal }), (error) => {
    assert.ok(error instanceof InterruptedError);
    assert.deepEqual([error.details["signal"], error.details["resumable"]], ["abort", true]);
    return true;
  });
  assert.ok((await prune({ ...request, resume: true })).resumedBlocks >= 1);
});

test("all problems of a request are one error of the documented classes", async () => {
  const wrong = { model: "absent", sparsity: 70, nsample: 4, device: "cpu" } as Parameters<typeof prune>[0];
  await assert.rejects(prune(wrong), (error) => {
    assert.ok(error instanceof PruneError && error.code === "E_SEVERAL");
    const codes = (error.details["problems"] as { code: string }[]).map(({ code }) => code);
    assert.deepEqual(codes, ["E_SPARSITY", "E_OPTION_UNKNOWN", "E_MODEL_MISSING"]);
    return true;
  });
  await assert.rejects(evaluate({}), /--text: missing[\s\S]*--model: missing/);
  await assert.rejects(inspect({ model: "absent" }), { code: "E_MODEL_MISSING" });
});

test("what there is can be asked for", async () => {
  assert.ok(methods().methods.some(({ name }) => name === "wanda"));
  assert.ok(methods().allocations.includes("owl"));
  assert.ok(families().families.some(({ name }) => name === "llama"));
  assert.equal((await devices()).schema, "prune.devices/v1");
});
