/** `--then finetune` through the whole run. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { EngineEvent, RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError } from "../../src/errors.js";
import { finetune } from "../../src/training/finetune.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const training = (options: object = {}): Partial<RunConfig> => ({
  sparsity: 0.7,
  nsamples: 8,
  then: [{ method: "finetune", methodOptions: { ...finetune.schema.parse({ steps: 12, ...options }) } }],
});

const hashOf = (directory: string): string =>
  createHash("sha256")
    .update(readFileSync(join(directory, "model.safetensors")))
    .digest("hex");

test("the loss falls, zeros stay where they are, and nothing but blocks is changed", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 2 });
  for (const distillation of [1, 0]) {
    const run = demoRun(join(directory, `${distillation}`), { ...training({ distillation, batchSize: 4 }), model });
    const plain = demoRun(join(directory, `plain-${distillation}`), { ...training(), model, then: [] });
    const { trained: trainings, layers } = await pruneModel(run, createTestContext());
    const before = await pruneModel(plain, createTestContext());
    const [finetuned] = trainings ?? [];
    assert.equal(finetuned?.steps, 12);
    assert.ok(finetuned.last < finetuned.first, JSON.stringify(finetuned));
    assert.deepEqual(
      layers.map(({ name, zeros }) => [name, zeros]),
      before.layers.map(({ name, zeros }) => [name, zeros]),
    );
    await using dense = await openCheckpoint(plain.out);
    await using trained = await openCheckpoint(run.out);
    for (const tensor of dense.tensors.keys()) {
      const [was, is] = [await dense.readTensor(tensor), await trained.readTensor(tensor)];
      if (!tensor.includes("layers")) assert.deepEqual(is, was, tensor);
      else assert.notDeepEqual(is, was, tensor);
      if (tensor.includes("proj")) was.forEach((value, i) => value === 0 && assert.equal(is[i], 0, `${tensor}[${i}]`));
    }
    assert.ok(!existsSync(join(run.out, "training")));
  }
});

test("squareHead adds what is missing to the dense model's blocks: nothing while nothing is pruned", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 2 });
  const firstLoss = async (sparsity: number, squareHead: number): Promise<number> => {
    const options = { steps: 1, batchSize: 2, distillation: 0, squareHead };
    const run = demoRun(join(directory, "out"), {
      ...training(options),
      method: "wanda",
      sparsity,
      model,
      force: true,
    });
    return (await pruneModel(run, createTestContext())).trained?.[0]?.first ?? assert.fail();
  };
  assert.equal(await firstLoss(0, 1), await firstLoss(0, 0));
  const [without, once, twice] = [await firstLoss(0.7, 0), await firstLoss(0.7, 1), await firstLoss(0.7, 2)];
  assert.ok(once > without + 0.01, `${once}, ${without}`);
  assert.ok(Math.abs(twice - without - 2 * (once - without)) < 1e-4, `${without}, ${once}, ${twice}`);
});

test("a mask that evolves keeps its counts, changes its places, and is resumed to the same bytes", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 2 });
  const options = training({ steps: 5, batchSize: 2, evolve: 0.4, evolveEvery: 2 });
  const [whole, fixed, stopped] = ["whole", "fixed", "stopped"].map((name) =>
    demoRun(join(directory, name), { ...(name === "fixed" ? training({ steps: 5, batchSize: 2 }) : options), model }),
  ) as [RunConfig, RunConfig, RunConfig];
  const { layers } = await pruneModel(whole, createTestContext());
  const countsOf = (some: typeof layers): unknown => some.map(({ name, zeros }) => [name, zeros]);
  assert.deepEqual(countsOf(layers), countsOf((await pruneModel(fixed, createTestContext())).layers));
  await using moved = await openCheckpoint(whole.out);
  await using still = await openCheckpoint(fixed.out);
  for (const tensor of [...moved.tensors.keys()].filter((name) => name.includes("proj"))) {
    const [one, two] = [await moved.readTensor(tensor), await still.readTensor(tensor)];
    const entered = one.filter((value, i) => value !== 0 && two[i] === 0).length / one.length;
    assert.ok(entered > 0.02 && entered < 0.3 * 0.4 * 2, `${tensor}: ${entered}`);
  }
  let steps = 0;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (steps >= 3 ? "SIGINT" : undefined) } }),
    emit: ({ type }: { readonly type: string }) => void (steps += Number(type === "training")),
  };
  await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
  await pruneModel({ ...stopped, resume: true }, createTestContext());
  assert.equal(hashOf(stopped.out), hashOf(whole.out));
});

test("stopped in a step, or killed while tensors are overwritten, a run is resumed to the same bytes", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 2 });
  const whole = demoRun(join(directory, "whole"), { ...training({ steps: 3 }), model });
  const expected = await pruneModel(whole, createTestContext());

  const stopped = demoRun(join(directory, "stopped"), { ...training({ steps: 3 }), model });
  let steps = 0;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (steps >= 2 ? "SIGINT" : undefined) } }),
    emit: ({ type }: { readonly type: string }) => void (steps += Number(type === "training")),
  };
  await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
  const resumed = await pruneModel({ ...stopped, resume: true }, createTestContext());
  assert.deepEqual(resumed.trained, expected.trained);
  assert.equal(hashOf(stopped.out), hashOf(whole.out));

  // A failure in the middle of overwriting leaves blocks that are half pruned and half trained.
  const torn = demoRun(join(directory, "torn"), { ...training({ steps: 3 }), model });
  let writes = 0;
  const tearing = {
    ...createTestContext(),
    emit: (event: { readonly type: string; readonly stage?: string }) => {
      if (event.stage?.startsWith("write") === true && ++writes === 5) throw new Error("torn");
    },
  };
  await assert.rejects(pruneModel(torn, tearing), /torn/);
  mkdirSync(join(`${torn.out}.partial`, "training", "1-finetune"), { recursive: true });
  writeFileSync(join(`${torn.out}.partial`, "training", "1-finetune", "states.bin"), "left by a run that was killed");
  const mended = await pruneModel({ ...torn, resume: true }, createTestContext());
  assert.equal(hashOf(torn.out), hashOf(whole.out));
  assert.deepEqual(readdirSync(torn.out).sort(), readdirSync(whole.out).sort());
  assert.deepEqual(
    mended.layers,
    expected.layers.map((layer, i) => ({ ...layer, seconds: mended.layers[i]?.seconds })),
  );
});

test("a training that is given a time finds how many steps fit into it, and a resumed one has as many", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 1 });
  const config = demoRun(join(directory, "out"), { ...training({ minutes: 0.05, batchSize: 1 }), model });
  let steps: number | undefined;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (steps === undefined ? undefined : "SIGINT") } }),
    emit: (event: EngineEvent) => void (steps ??= event.type === "training" ? event.steps : undefined),
  };
  await assert.rejects(pruneModel(config, stopping), InterruptedError);
  assert.ok(steps !== undefined && steps >= 1 && steps !== 300, `${steps}`);
  const resumed = await pruneModel({ ...config, resume: true }, createTestContext());
  assert.equal(resumed.trained?.[0]?.steps, steps);
  const tiny = demoRun(join(directory, "tiny"), { ...training({ minutes: 1e-9, batchSize: 1 }), model });
  assert.equal((await pruneModel(tiny, createTestContext())).trained?.[0]?.steps, 1);
});

test("the same step twice trains twice, from where the first one ended, and is resumed in the second", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 1 });
  const [step] = training({ steps: 3, batchSize: 1 }).then ?? [];
  const twice = (out: string): RunConfig =>
    demoRun(join(directory, out), { ...training(), model, then: [step, step] as RunConfig["then"] });
  const once = demoRun(join(directory, "once"), { ...training(), model, then: [step] as RunConfig["then"] });
  await pruneModel(once, createTestContext());
  const { trained } = await pruneModel(twice("whole"), createTestContext());
  assert.equal(trained?.length, 2);
  assert.notEqual(hashOf(twice("whole").out), hashOf(once.out));
  let steps = 0;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (steps >= 5 ? "SIGINT" : undefined) } }),
    emit: ({ type }: { readonly type: string }) => void (steps += Number(type === "training")),
  };
  await assert.rejects(pruneModel(twice("stopped"), stopping), InterruptedError);
  await pruneModel({ ...twice("stopped"), resume: true }, createTestContext());
  assert.equal(hashOf(twice("stopped").out), hashOf(twice("whole").out));
});
