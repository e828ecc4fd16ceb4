/** `--method elsa` through the whole run. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { EngineEvent, RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { ConfigError, InterruptedError, NumericalError } from "../../src/errors.js";
import { elsa } from "../../src/training/elsa.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const model = mkdtempSync(join(tmpdir(), "prune-elsa-"));
before(() => writeShortDemo(model, { blocks: 2 }));
after(() => rmSync(model, { recursive: true }));

const options = (given: object = {}): Record<string, unknown> => ({
  ...elsa.schema.parse({ steps: 12, batchSize: 2, interval: 4, lr: 1e-3, ...given }),
});

function run(out: string, given: object = {}, overrides: Partial<RunConfig> = {}): RunConfig {
  return demoRun(out, { model, method: "elsa", methodOptions: options(given), sparsity: 0.7, ...overrides });
}

const hashOf = (directory: string): string =>
  createHash("sha256")
    .update(readFileSync(join(directory, "model.safetensors")))
    .digest("hex");

test("every linear has its exact zeros, all else is trained, and the report has the course", async (t) => {
  const directory = temporaryDirectory(t);
  const overrides = [{ match: "re:.*layers.0.mlp.*", sparsity: 0.5 }];
  const config = run(join(directory, "out"), { frozen: 0.25 }, { overrides });
  const events: EngineEvent[] = [];
  const { layers, trained, sparsity } = await pruneModel(config, {
    ...createTestContext(),
    emit: (event) => void events.push(event),
  });
  for (const { name, zeros, elements } of layers)
    assert.equal(zeros, Math.floor(elements * (name.includes("layers.0.mlp") ? 0.5 : 0.7)), name);
  assert.ok(sparsity.achieved > 0.6);
  const [report] = trained ?? [];
  assert.equal(report?.name, "elsa");
  assert.ok(report.last < report.first, `${report.first} to ${report.last}`);
  assert.ok(report.bytesPerParameter > 20 && report.bytesPerParameter < 24.2, `${report.bytesPerParameter}`);
  const projected = report.curve.filter(({ primal }) => primal !== undefined);
  assert.deepEqual(
    projected.map(({ step }) => step),
    [1, 5, 9],
  );
  for (const { projectedLoss, flips, lambda, penaltyRatio } of projected)
    assert.ok(
      (projectedLoss ?? 0) > 1 && (flips ?? 0) > 0 && lambda === 0.01 && (penaltyRatio ?? 0) > 0,
      JSON.stringify(projected),
    );
  const steps = events.flatMap((event) => (event.type === "training" ? [event] : []));
  assert.deepEqual(
    steps.map(({ step }) => step),
    [...Array(12).keys()].map((i) => i + 1),
  );
  steps.slice(1).forEach(({ fraction }, i) => assert.ok(fraction > (steps[i]?.fraction ?? 1)));
  await using dense = await openCheckpoint(model);
  await using written = await openCheckpoint(config.out);
  for (const tensor of dense.tensors.keys())
    assert.notDeepEqual(await written.readTensor(tensor), await dense.readTensor(tensor), tensor);
  assert.deepEqual(readdirSync(config.out).sort(), [...readdirSync(model), "recipe.yaml"].sort());
});

test("where the state lies, and a stop at a step, change no byte", async (t) => {
  const directory = temporaryDirectory(t);
  const whole = run(join(directory, "whole"), { steps: 8, distillation: 0.5 });
  const expected = await pruneModel(whole, createTestContext());
  const small = run(join(directory, "small"), { steps: 8, distillation: 0.5 }, { memoryBytes: 2 ** 16 });
  const { trained } = await pruneModel(small, createTestContext());
  assert.ok((trained?.[0]?.fileBytes ?? 0) > 0);
  assert.equal(hashOf(small.out), hashOf(whole.out));
  for (const stopsAfter of [3, 6]) {
    const stopped = run(join(directory, `stopped-${stopsAfter}`), { steps: 8, distillation: 0.5 });
    let steps = 0;
    const stopping = {
      ...createTestContext({ stop: { requested: () => (steps >= stopsAfter ? "SIGINT" : undefined) } }),
      emit: ({ type }: { readonly type: string }) => void (steps += Number(type === "training")),
    };
    await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
    assert.deepEqual(readdirSync(join(`${stopped.out}.partial`, "training", "1-elsa", "kept")), [`step-${stopsAfter}`]);
    const resumed = await pruneModel({ ...stopped, resume: true }, createTestContext());
    assert.equal(hashOf(stopped.out), hashOf(whole.out), `stopped after ${stopsAfter}`);
    assert.deepEqual(resumed.trained, expected.trained);
  }
});

test("a stop at any place of a step, its measured projection too, changes no byte", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 1 });
  const given = { steps: 3, batchSize: 1, interval: 1 };
  const whole = run(join(directory, "whole"), given, { model });
  await pruneModel(whole, createTestContext());
  // A block forward, back, and forward again under the masks: asked after each of them at most.
  for (const askings of [1, 2, 3]) {
    const stopped = run(join(directory, `stopped-${askings}`), given, { model });
    let [isTraining, asked] = [false, 0];
    const stopping = {
      ...createTestContext({
        stop: { requested: () => (isTraining && ++asked >= askings ? "SIGINT" : undefined) },
      }),
      emit: ({ type }: { readonly type: string }) => void (isTraining ||= type === "training"),
    };
    await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
    await pruneModel({ ...stopped, resume: true }, createTestContext());
    assert.equal(hashOf(stopped.out), hashOf(whole.out), `asked ${askings} times`);
  }
});

test("another option, or another text, is another run", async (t) => {
  const directory = temporaryDirectory(t);
  const stopped = run(join(directory, "stopped"));
  let steps = 0;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (steps >= 1 ? "SIGINT" : undefined) } }),
    emit: ({ type }: { readonly type: string }) => void (steps += Number(type === "training")),
  };
  await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
  const { calibration: _ids, ...rest } = stopped;
  const others: readonly (readonly [string, RunConfig])[] = [
    ["methodOptions", { ...stopped, methodOptions: options({ lambda: 0.02 }) }],
    ["text", { ...rest, calibration: { file: join(model, "calibration.txt") } }],
  ];
  for (const [name, other] of others)
    await assert.rejects(
      pruneModel({ ...other, resume: true }, createTestContext()),
      (error: unknown) =>
        error instanceof ConfigError && error.code === "E_FINGERPRINT" && error.message.includes(name),
    );
});

test("it goes on from another method's weights, before further training, and keeps 2 of 4", async (t) => {
  const directory = temporaryDirectory(t);
  const config = run(
    join(directory, "out"),
    {},
    {
      ...{ method: "wanda", methodOptions: {}, pattern: { kind: "n-of-m", keep: 2, group: 4 }, sparsity: 0.5 },
      then: [
        { method: "elsa", methodOptions: options({ steps: 6, state: "elsa-l", train: "blocks" }) },
        { method: "finetune", methodOptions: { steps: 4, batchSize: 2 } },
      ],
    },
  );
  const { layers, trained } = await pruneModel(config, createTestContext());
  assert.deepEqual(
    trained?.map(({ name, steps }) => [name, steps]),
    [
      ["elsa", 6],
      ["finetune", 4],
    ],
  );
  for (const { name, zeros, elements } of layers) assert.equal(zeros, elements / 2, name);
  assert.ok((trained?.[0]?.bytesPerParameter ?? 99) < 13.5);
  await using written = await openCheckpoint(config.out);
  await using dense = await openCheckpoint(model);
  const weights = await written.readTensor("model.layers.1.mlp.down_proj.weight");
  for (let i = 0; i < weights.length; i += 4)
    assert.equal(weights.subarray(i, i + 4).filter((value) => value === 0).length, 2, `${i}`);
  const table = "model.embed_tokens.weight";
  assert.deepEqual(await written.readTensor(table), await dense.readTensor(table), "only blocks are trained");
  assert.ok(!existsSync(join(config.out, "training")));
});

test("a loss that is not finite names the step and the block", async (t) => {
  const directory = temporaryDirectory(t);
  const broken = join(directory, "model");
  await writeShortDemo(broken, { blocks: 2 });
  const file = join(broken, "model.safetensors");
  const bytes = readFileSync(file);
  const header = Number(bytes.readBigUInt64LE(0));
  const tensors = JSON.parse(bytes.subarray(8, 8 + header).toString("utf8")) as Record<
    string,
    { data_offsets: number[] }
  >;
  const [first = 0] = tensors["model.layers.1.mlp.up_proj.weight"]?.data_offsets ?? [];
  bytes.fill(0xff, 8 + header + first, 8 + header + first + 2); // not a number, in either stored type
  writeFileSync(file, bytes);
  await assert.rejects(
    pruneModel(run(join(directory, "out"), {}, { model: broken, allowNonFinite: true }), createTestContext()),
    (error: unknown) =>
      error instanceof NumericalError && /NaN at step 1 of 12.*what leaves model\.layers\.1/s.test(error.message),
  );
});
