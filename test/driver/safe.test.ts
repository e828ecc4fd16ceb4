/** `--method safe` and `safe+` through the whole run. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { BlockTrainingReport, EngineEvent, RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { ConfigError, InterruptedError } from "../../src/errors.js";
import { lookUp } from "../../src/look-up.js";
import { takeMatrix } from "../../src/model/logical-matrix.js";
import { openModel } from "../../src/model/open-model.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { reconstruct } from "../../src/training/reconstruct.js";
import { safeSchema } from "../../src/training/safe.js";
import { fixturePath } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL, runPrune } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const MODEL = mkdtempSync(join(tmpdir(), "prune-safe-"));
before(() => writeShortDemo(MODEL, { blocks: 2 }));
after(() => rmSync(MODEL, { recursive: true }));

const optionsOf = (given: object = {}): Record<string, unknown> => ({
  ...safeSchema.parse({ epochs: 3, batchSize: 2, interval: 2, ...given }),
});

function run(out: string, given: object = {}, overrides: Partial<RunConfig> = {}): RunConfig {
  const base = { model: MODEL, method: "safe", sparsity: 0.7, nsamples: 4, seqlen: 32 };
  return demoRun(out, { ...base, methodOptions: optionsOf(given), ...overrides });
}

const prune = (config: RunConfig): Promise<RunReport> => pruneModel(config, createTestContext());

async function tensorsOf(directory: string): Promise<Map<string, Float32Array>> {
  await using checkpoint = await openCheckpoint(directory);
  const tensors = new Map<string, Float32Array>();
  for (const name of checkpoint.tensors.keys()) tensors.set(name, await checkpoint.readTensor(name));
  return tensors;
}

const firstOf = ({ training }: RunReport): BlockTrainingReport => training?.[0] ?? assert.fail();

test("every linear has its exact zeros, the first block's error falls below wanda's, and norms are trained", async (t) => {
  const directory = temporaryDirectory(t);
  const losses = new Map<string, BlockTrainingReport>();
  for (const method of ["safe", "safe+"]) {
    const overrides = [{ match: "re:.*layers.1.mlp.*", sparsity: 0.5 }];
    const given = { epochs: 8, lr: 1e-3 };
    const report = await prune(run(join(directory, method), given, { method, overrides }));
    for (const { name, zeros, elements } of report.layers)
      assert.equal(zeros, Math.floor(elements * (name.includes("layers.1.mlp") ? 0.5 : 0.7)), name);
    assert.deepEqual(
      report.training?.map(({ name, step, steps }) => [name, step, steps]),
      [0, 1].map((block) => [`model.layers.${block}`, method, 16]),
    );
    for (const block of report.training ?? []) assert.ok(block.after < block.before, JSON.stringify(block));
    losses.set(method, firstOf(report));
  }
  const [dense, pruned] = [await tensorsOf(MODEL), await tensorsOf(join(directory, "safe"))];
  for (const [tensor, values] of pruned)
    if (tensor.includes("layers.")) assert.notDeepEqual(values, lookUp(dense, tensor), tensor);
  // Training at a rate that changes nothing measures what another method left.
  const still = reconstruct.schema.parse({ epochs: 1, lr: 1e-12, targets: "block", heldOut: 0 });
  const then = [{ method: "reconstruct", methodOptions: { ...still } }];
  const wanda = firstOf(await prune(run(join(directory, "wanda"), {}, { method: "wanda", methodOptions: {}, then })));
  const [safe, plus] = [lookUp(losses, "safe"), lookUp(losses, "safe+")];
  assert.ok(plus.before < safe.before, "the norms of inputs tell more than magnitudes");
  for (const untrained of [wanda.before, plus.before])
    assert.ok(plus.after < 0.98 * untrained, `${plus.after}, untrained ${untrained}`);
  assert.ok(safe.after < 0.98 * safe.before, `${safe.after} of ${safe.before}`);
});

const FAMILIES = ["gpt2", "phi3", "mixtral", "bloom"];

for (const folder of FAMILIES)
  test(`${folder}: exact counts and 2 of every 4 inputs in each logical matrix`, async (t) => {
    const directory = temporaryDirectory(t);
    const model = fixturePath(folder);
    await using opened = await openModel(model);
    for (const [method, pattern] of [
      ["safe", "unstructured"],
      ["safe+", "unstructured"],
      ["safe+", "2:4"],
    ] as const) {
      const out = join(directory, `${method}-${pattern}`);
      const sparsity = pattern === "2:4" ? 0.5 : 0.7;
      const calibration = { file: fixturePath(folder, "golden.safetensors"), tensor: "input_ids" };
      const place = { model, calibration, nsamples: 2, seqlen: 4, method, sparsity };
      const { layers } = await prune(
        run(out, { epochs: 2, batchSize: 1, interval: 2 }, { ...place, pattern: parsePattern(pattern) }),
      );
      for (const { name, zeros, elements } of layers) assert.equal(zeros, Math.floor(elements * sparsity), name);
      if (pattern === "unstructured") continue;
      await using written = await openCheckpoint(out);
      for (const block of opened.architecture.blocks)
        for (const linear of block.groups.flatMap((group) => group.linears)) {
          const { tensor, shape } = lookUp(block.tensors, linear.role);
          const matrix = takeMatrix(await written.readTensor(tensor), shape, linear);
          for (let first = 0; first < matrix.length; first += 4)
            assert.equal(
              matrix.subarray(first, first + 4).filter((value) => value === 0).length,
              2,
              `${linear.name} at ${first}`,
            );
        }
    }
  });

test("targets are what the dense block makes of the pruned model's states, whatever came before", async (t) => {
  const directory = temporaryDirectory(t);
  const overrides = [{ match: "re:.*layers.1.*", sparsity: 0 }];
  const { training } = await prune(run(join(directory, "spared"), { lambda: 0 }, { overrides }));
  const [first, second] = training ?? [];
  assert.ok((first?.before ?? 0) > 0.05 && (second?.before ?? 1) < 1e-9, JSON.stringify(training));
  const steps = (...methods: string[]): Partial<RunConfig> => {
    const optionsBy = (method: string): Record<string, unknown> =>
      method.startsWith("safe")
        ? optionsOf()
        : method === "reconstruct"
          ? { ...reconstruct.schema.parse({ epochs: 1 }) }
          : {};
    const [method, ...then] = methods.map((name) => ({ method: name, methodOptions: optionsBy(name) }));
    return { ...method, then };
  };
  const chained = await prune(
    run(join(directory, "chained"), {}, steps("wanda", "safe+", "reconstruct", "safe", "reconstruct")),
  );
  assert.deepEqual(
    chained.training?.map(({ name, step }) => `${name} ${step}`),
    [0, 1].flatMap((block) => ["safe+", "reconstruct", "safe", "reconstruct"].map((s) => `model.layers.${block} ${s}`)),
  );
  const alone = await prune(run(join(directory, "alone"), {}, steps("safe+")));
  const [after, from] = [firstOf(chained), firstOf(alone)];
  assert.ok(after.before > 0.05, "wanda's own block is no target");
  assert.ok(after.before !== from.before, "it begins with the weights that wanda left");
  for (const { zeros, elements, name } of chained.layers) assert.equal(zeros, Math.floor(0.7 * elements), name);
});

test("a block where nothing is pruned stays as it is, and a linear that is left out stays dense", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const { training } = await prune(run(out, {}, { ignore: ["re:.*layers.1.*", "*.v_proj"] }));
  assert.deepEqual(
    training?.map(({ name }) => name),
    ["model.layers.0"],
  );
  const [dense, written] = [await tensorsOf(MODEL), await tensorsOf(out)];
  for (const [tensor, values] of written) {
    const own = lookUp(dense, tensor);
    if (tensor.includes("layers.1.")) assert.deepEqual(values, own, tensor);
    if (tensor.includes("v_proj")) assert.ok(values.filter((value) => value === 0).length < 10, tensor);
  }
});

test("a run that is stopped between and inside blocks is resumed to the same bytes, and not with other options", async (t) => {
  const directory = temporaryDirectory(t);
  const whole = run(join(directory, "whole"), {}, { method: "safe+" });
  const expected = await prune(whole);
  for (const steps of [3, 9]) {
    const stopped = run(join(directory, `stopped-${steps}`), {}, { method: "safe+" });
    let seen = 0;
    const stopping = {
      ...createTestContext({ stop: { requested: () => (seen >= steps ? "SIGINT" : undefined) } }),
      emit: (event: EngineEvent) =>
        void (seen += Number(event.type === "block" || (event.type === "stage" && event.stage.startsWith("safe+,")))),
    };
    await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
    for (const given of [{ rho: 0 }, { schedule: "cosine" }])
      await assert.rejects(
        prune({ ...stopped, methodOptions: optionsOf(given), resume: true }),
        (error: unknown) => error instanceof ConfigError && error.code === "E_FINGERPRINT",
      );
    const resumed = await prune({ ...stopped, resume: true });
    assert.deepEqual(await tensorsOf(stopped.out), await tensorsOf(whole.out), `stopped at ${steps}`);
    assert.deepEqual(resumed.training, expected.training);
  }
});

test("the command says what was trained, with the flags that set it", async (t) => {
  const calibration = ["--calibration", join(DEMO_MODEL, "calibration.txt"), "--nsamples", "4", "--seqlen", "32"];
  const flags = ["--batch-size", "2", "--lr", "1e-4", "--lambda", "0.01", "--interval", "2", "--option", "epochs=2"];
  const place = ["--model", MODEL, "--out", join(temporaryDirectory(t), "out")];
  const said = await runPrune(["run", ...place, "--method", "safe", "--sparsity", "0.7", ...calibration, ...flags]);
  assert.equal(said.code, 0, said.stderr);
  assert.match(said.stdout, /safe\s+2 blocks, loss 0\.\d+ to 0\.\d+ relative to their outputs/);
});
