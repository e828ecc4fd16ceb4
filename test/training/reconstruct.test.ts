/** Blocks trained to give what they gave in the dense model, on every device. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { Stream } from "../../src/forward/stream.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import type { BlockSpec } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { BlockLoss } from "../../src/training/block-loss.js";
import {
  reconstruct,
  reconstructBlock,
  type ReconstructionReport,
  type ReconstructOptions,
} from "../../src/training/reconstruct.js";
import { NumericalError } from "../../src/errors.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import type { Device } from "../../src/device/device.js";
import { describeOnDevices } from "../helpers/devices.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { repositoryPath } from "../helpers/paths.js";
import { normals } from "../reference/random.js";

const [SEQUENCES, TOKENS] = [6, 16];

interface Trained {
  readonly report: ReconstructionReport;
  readonly before: ReadonlyMap<string, Float32Array>;
  readonly after: ReadonlyMap<string, Float32Array>;
  readonly losses: readonly number[];
}

/** Block 0 of the demo model with its smallest weights removed, trained towards what the dense one gives. */
async function train(
  directory: string,
  device: Device,
  given: object,
  { sparsity = 0.7, targetScale = 1, sequencesPerRun = undefined as number | undefined } = {},
): Promise<Trained> {
  const options: ReconstructOptions = reconstruct.schema.parse(given);
  await using model = await openModel(repositoryPath("models/demo"));
  const { architecture } = model;
  const block = architecture.blocks[0] as BlockSpec;
  await using runner = new BlockRunner(architecture);
  const states = (name: string): Promise<HiddenStates> =>
    HiddenStates.create({
      ...{ sequences: SEQUENCES, tokens: TOKENS, width: architecture.state.width },
      ...{ memoryBytes: 2 ** 20, scratchFile: join(directory, name) },
    });
  await using inputs = await states("inputs");
  await using targets = await states("targets");
  const noise = normals(SEQUENCES * inputs.sequenceLength, 1);
  for (let i = 0; i < SEQUENCES; i++) {
    const values = noise.subarray(i * inputs.sequenceLength, (i + 1) * inputs.sequenceLength);
    for (let j = 0; j < TOKENS; j++) await inputs.writeRow(i * TOKENS + j, values.subarray(256 * j, 256 * (j + 1)));
  }
  await inputs.copyTo(targets);
  const weights = await readBlockWeights(model.checkpoint, block);
  await new Stream(runner, targets).pass(block, weights, { moves: true });
  if (targetScale !== 1) {
    using read = await targets.read(0, 1);
    const scaled = (read as unknown as { readonly values: Float32Array }).values.map((value) => value * targetScale);
    await targets.writeRow(0, scaled.subarray(0, 256));
  }
  const masked = new Set(block.groups.flatMap((group) => group.linears.map(({ role }) => role)));
  for (const role of masked) {
    const values = weights.get(role) as Float32Array;
    const limit = [...values].map(Math.abs).sort((a, b) => a - b)[Math.floor(sparsity * values.length)] as number;
    values.forEach((value, i) => (values[i] = Math.abs(value) < limit ? 0 : value));
  }
  const before = new Map([...weights].map(([role, values]) => [role, values.slice()]));
  await using loss = await BlockLoss.compile(runner, architecture, block, [...block.tensors.keys()]);
  const losses: number[] = [];
  const report = await reconstructBlock(
    {
      ...{ block, weights, masked, inputs, targets, loss, device, seed: 3, sequencesPerRun },
      onStep: (step) => losses.push(step.loss),
    },
    options,
  );
  return { report, before, after: weights, losses };
}

await describeOnDevices((device) => {
  test("training lowers the loss, on what is held out too, and leaves zeros where they are", async (t) => {
    const { report, before, after, losses } = await train(temporaryDirectory(t), device(), {
      ...{ epochs: 6, batchSize: 2, heldOut: 0.34 },
    });
    assert.equal(report.steps, 12);
    assert.equal(losses.length, 12);
    assert.ok(report.after < 0.7 * report.before, `${report.before} to ${report.after}`);
    assert.ok((report.heldOutAfter as number) < (report.heldOutBefore as number), JSON.stringify(report));
    let changed = 0;
    for (const [role, values] of before)
      values.forEach((value, i) => {
        const now = after.get(role)?.[i] as number;
        if (value === 0 && role.endsWith("proj.weight")) assert.ok(Object.is(now, 0), `${role}[${i}] was pruned`);
        else if (now !== value) changed++;
      });
    assert.ok(changed > 100_000, `${changed} weights changed`);
    const norm = (weights: ReadonlyMap<string, Float32Array>): unknown => weights.get("input_layernorm.weight");
    assert.notDeepEqual(norm(after), norm(before));
  });
});

test("where nothing was pruned there is nothing to learn", async (t) => {
  await using device = await createCpuDevice();
  const { report } = await train(temporaryDirectory(t), device, { epochs: 1 }, { sparsity: 0 });
  assert.ok(report.before < 1e-10, `${report.before}`);
});

test("a rate that does harm leaves the weights that were best on what is held out: those from before", async (t) => {
  await using device = await createCpuDevice();
  const { report, before, after } = await train(temporaryDirectory(t), device, { epochs: 1, lr: 0.5, heldOut: 0.34 });
  assert.equal(report.heldOutAfter, report.heldOutBefore);
  assert.deepEqual(after.get("mlp.up_proj.weight"), before.get("mlp.up_proj.weight"));
});

test("a step of several runs is that of one, and two trainings are the same to the bit", async (t) => {
  await using device = await createCpuDevice();
  const run = (sequencesPerRun: number): Promise<Trained> =>
    train(temporaryDirectory(t), device, { epochs: 2, batchSize: 3, heldOut: 0 }, { sequencesPerRun });
  const [whole, again, apart] = [await run(3), await run(3), await run(2)];
  assert.equal(whole.report.steps, 4);
  assert.equal(whole.report.heldOutBefore, null);
  assert.ok(whole.report.after < whole.report.before);
  const weightsOf = ({ after }: Trained): Float32Array => after.get("mlp.up_proj.weight") as Float32Array;
  assert.deepEqual(weightsOf(again), weightsOf(whole));
  for (const [step, loss] of whole.losses.entries())
    assert.ok(
      Math.abs((apart.losses[step] as number) / loss - 1) < 1e-3,
      `step ${step}: ${apart.losses[step]}, ${loss}`,
    );
  const mean = whole.losses[0] as number; // three of the six sequences as they were
  assert.ok(Math.abs(mean / whole.report.before - 1) < 0.2, `${mean} of ${whole.report.before}`);
});

test("a loss that is not finite is refused with the block and the step", async (t) => {
  await using device = await createCpuDevice();
  await assert.rejects(
    train(temporaryDirectory(t), device, { epochs: 1, heldOut: 0 }, { targetScale: NaN }),
    (error: unknown) =>
      error instanceof NumericalError &&
      error.code === "E_NON_FINITE" &&
      /model\.layers\.0.*step 0/.test(error.message),
  );
});
