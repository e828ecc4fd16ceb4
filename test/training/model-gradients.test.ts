/** Gradients of the whole model's loss, block by block, against differences of that loss. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { borrowed } from "../../src/array.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { embedTokens } from "../../src/forward/embedding.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { applyFinalNorm, nextTokenLosses } from "../../src/forward/head.js";
import { Stream } from "../../src/forward/stream.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { openModel } from "../../src/model/open-model.js";
import { CalibratedEnds } from "../../src/training/calibrated-ends.js";
import { HeadGradient } from "../../src/training/head-gradient.js";
import { accumulateGradients, BlockGradients, stepStates } from "../../src/training/model-gradients.js";
import { Parameters } from "../../src/training/parameters.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { normals } from "../reference/random.js";

const [SEQUENCES, TOKENS] = [3, 12];

test("the gradient along a direction is the loss's change along it, at either end of the mixture, in runs and tiles", async (t) => {
  const directory = temporaryDirectory(t);
  await writeShortDemo(join(directory, "model"), { blocks: 2 });
  await using model = await openModel(join(directory, "model"));
  await using device = await createCpuDevice();
  await using runner = new BlockRunner(model.architecture);
  const { architecture } = model;
  const sequences = Array.from({ length: SEQUENCES }, (_, s) =>
    Int32Array.from({ length: TOKENS }, (_, i) => (s * 997 + i * i * 31 + 7) % 4096),
  );
  const place = { tokens: TOKENS, hiddenSize: architecture.hiddenSize, memoryBytes: 2 ** 24 };
  await using embedded = await HiddenStates.create({
    ...place,
    sequences: SEQUENCES,
    scratchFile: join(directory, "e"),
  });
  await using taught = await HiddenStates.create({ ...place, sequences: SEQUENCES, scratchFile: join(directory, "t") });
  await embedTokens(model, sequences, embedded);
  const other = normals(SEQUENCES * taught.sequenceLength, 5); // a teacher that says something else
  for (let row = 0; row < SEQUENCES * TOKENS; row++)
    await taught.writeRow(row, other.subarray(256 * row, 256 * (row + 1)));
  const head = {
    tensors: new Map([
      ["model.norm.weight", borrowed("norm", await model.checkpoint.readTensor("model.norm.weight"), [256])],
    ]),
    projection: await model.checkpoint.readTensor("model.embed_tokens.weight"),
  };
  assert.deepEqual([...architecture.head.tensors.keys()], ["model.norm.weight"]);
  await using final = await HiddenStates.create({ ...place, sequences: SEQUENCES, scratchFile: join(directory, "f") });
  await embedded.copyTo(final);
  for (const block of architecture.blocks)
    await new Stream(runner, final).pass(block, await readBlockWeights(model.checkpoint, block), { moves: true });
  await applyFinalNorm(model, final);
  const perToken = (await nextTokenLosses(model, final, sequences)).flatMap((losses) => [...losses]);
  const crossEntropy = perToken.reduce((sum, loss) => sum + loss, 0) / perToken.length;
  const losses = new Map<number, number>();

  await using gradients = new BlockGradients(runner, architecture);

  for (const { distillation, tileRows, sequencesPerRun, memoryBytes } of [
    { distillation: 0, tileRows: 8192, sequencesPerRun: undefined, memoryBytes: 2 ** 24 },
    { distillation: 1, tileRows: 8192, sequencesPerRun: 2, memoryBytes: 2 ** 24 },
    { distillation: 0.3, tileRows: 1500, sequencesPerRun: 2, memoryBytes: 2 ** 15 }, // states on the disk as well
  ]) {
    await using gradient = await HeadGradient.compile(runner.executor, architecture, {
      ...{ isProjectionTrained: false, isDistilled: distillation > 0, tileRows },
    });
    const ends = new CalibratedEnds({ head, gradient, sequences, embedded, taught, distillation });
    await using states = await stepStates(architecture, {
      ...{ sequences: SEQUENCES, tokens: TOKENS, memoryBytes, scratchFile: join(directory, "s") },
    });
    const originals = await Promise.all(architecture.blocks.map((block) => readBlockWeights(model.checkpoint, block)));
    /** The loss with all weights of both blocks moved along fixed directions, and the gradient along them. */
    const lossAt = async (shift: number): Promise<{ readonly loss: number; readonly along: number }> => {
      const parameters = architecture.blocks.map((block, index) => {
        const specs = [...block.tensors].map(([name, { shape }], place) => {
          const values = originals[index]?.get(name) as Float32Array;
          const moved = values.map((value, i) => value + shift * Math.sin(i * 1.3 + place));
          return { name, shape, values: moved, isMasked: false };
        });
        return new Parameters(device, specs);
      });
      ends.choose([2, 0, 1]);
      const loss = await accumulateGradients({
        ...{ architecture, runner, gradients, parameters, ends, sequences: SEQUENCES, states, sequencesPerRun },
      });
      let along = 0;
      for (const own of parameters)
        for (const [place, { gradient: found }] of [...own].entries())
          found.host.forEach((value, i) => (along += value * Math.sin(i * 1.3 + place)));
      parameters.forEach((own) => own[Symbol.dispose]());
      return { loss, along };
    };
    const step = 2e-4;
    const { along, loss } = await lossAt(0);
    losses.set(distillation, loss);
    const expected = ((await lossAt(step)).loss - (await lossAt(-step)).loss) / (2 * step);
    // Float32 losses of about 8 differ by about 1e-3 here: their rounding is a thousandth of that.
    const off = Math.abs(along - expected);
    assert.ok(off < 0.01 * Math.abs(expected) + 0.01, `${distillation}: ${along}, differences say ${expected}`);
  }
  const [text, teacher, mixture] = [0, 1, 0.3].map((share) => losses.get(share) as number) as [number, number, number];
  assert.ok(Math.abs(text - crossEntropy) < 1e-4, `${text}, evaluated ${crossEntropy}`);
  assert.ok(Math.abs(teacher - text) > 0.1, "the teacher says something else than the text");
  assert.ok(Math.abs(mixture - (0.7 * text + 0.3 * teacher)) < 1e-4, `${mixture} of ${text} and ${teacher}`);
});
