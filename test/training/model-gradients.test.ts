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
import { valuesOf } from "../../src/forward/values.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { lookUp } from "../../src/look-up.js";
import { stateOf, type Architecture, type BlockSpec } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { EmbeddingGradient } from "../../src/training/embedding-gradient.js";
import { HeadGradient } from "../../src/training/head-gradient.js";
import {
  accumulateGradients,
  BlockGradients,
  groupOfBlock,
  lossUnderMasks,
  stepStates,
} from "../../src/training/model-gradients.js";
import { FULL_PRECISION, ParameterStore } from "../../src/training/parameter-store.js";
import type { ParameterSpec } from "../../src/training/parameters.js";
import { wordsOf } from "../../src/training/projection.js";
import { SquareHead } from "../../src/training/square-head.js";
import { endGroups, readEnds, TextEnds, type Teacher } from "../../src/training/text-ends.js";
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
  const place = { tokens: TOKENS, width: architecture.state.width, memoryBytes: 2 ** 24 };
  await using embedded = await HiddenStates.create({
    ...{ ...place, sequences: SEQUENCES, scratchFile: join(directory, "e") },
  });
  await embedTokens(model, sequences, embedded);
  const other = normals(SEQUENCES * embedded.sequenceLength, 5); // a teacher that says something else
  const dense = await readEnds(model.checkpoint, architecture);
  const teacher: Teacher = {
    head: dense.head,
    hidden: (first, count) => {
      const [from, to] = [first, first + count].map((each) => each * embedded.sequenceLength);
      return Promise.resolve(borrowed("taught", other.slice(from, to), [count * TOKENS, architecture.hiddenSize]));
    },
  };
  await using final = await HiddenStates.create({ ...place, sequences: SEQUENCES, scratchFile: join(directory, "f") });
  await embedded.copyTo(final);
  for (const block of architecture.blocks)
    await new Stream(runner, final).pass(block, await readBlockWeights(model.checkpoint, block), { moves: true });
  await applyFinalNorm(model, final);
  const perToken = (await nextTokenLosses(model, final, sequences)).flatMap((losses) => [...losses]);
  const crossEntropy = perToken.reduce((sum, loss) => sum + loss, 0) / perToken.length;
  const losses = new Map<string, number>();
  const square = await squareHeadOf(architecture, { directory, sequences: SEQUENCES, weight: 0.4 });
  await using _taught = square.taught;

  await using gradients = new BlockGradients(runner, architecture);

  await using embedding = await EmbeddingGradient.compile(runner.executor, model);

  for (const { distillation, tileRows, sequencesPerRun, memoryBytes, areEndsTrained, term } of [
    { distillation: 0, tileRows: 8192, sequencesPerRun: undefined, memoryBytes: 2 ** 28, areEndsTrained: true },
    { distillation: 1, tileRows: 8192, sequencesPerRun: 2, memoryBytes: 2 ** 28, areEndsTrained: false },
    // States and all that is trained on the disk as well.
    { distillation: 0.3, tileRows: 1500, sequencesPerRun: 2, memoryBytes: 2 ** 15, areEndsTrained: true },
    ...[
      { distillation: 0, tileRows: 8192, sequencesPerRun: 2, memoryBytes: 2 ** 28, areEndsTrained: false, ...square },
    ],
  ]) {
    await using head = await HeadGradient.compile(runner.executor, architecture, {
      ...{ isProjectionTrained: areEndsTrained, isDistilled: distillation > 0, tileRows },
    });
    await using states = await stepStates(architecture, {
      ...{ sequences: SEQUENCES, tokens: TOKENS, memoryBytes, scratchFile: join(directory, "s") },
    });
    /** The loss with all that is trained moved along fixed directions, and the gradient along them. */
    const lossAt = async (shift: number): Promise<{ readonly loss: number; readonly along: number }> => {
      const move = (specs: readonly ParameterSpec[]): ParameterSpec[] =>
        specs.map((spec, at) => ({
          ...spec,
          values: spec.values.map((value, i) => value + shift * Math.sin(i * 1.3 + at)),
        }));
      const blocks = architecture.blocks.map((block) => ({
        name: groupOfBlock(block),
        async load() {
          const weights = await readBlockWeights(model.checkpoint, block);
          return [...block.tensors].map(([name, { shape }]) => {
            return { name, shape, values: weights.get(name) as Float32Array, isMasked: false };
          });
        },
      }));
      const groups = [...blocks, ...(areEndsTrained ? endGroups(model.checkpoint, architecture) : [])];
      await using store = await ParameterStore.create({
        ...{ device, memoryBytes, formats: FULL_PRECISION, directory: join(directory, "store") },
        groups: groups.map(({ name, load }) => ({ name, load: async () => move(await load()) })),
      });
      const fixed = areEndsTrained ? undefined : dense;
      const ends = new TextEnds({ architecture, embedding, head, fixed, store, teacher, distillation });
      ends.choose([2, 0, 1].map((index) => sequences[index] as Int32Array));
      const { loss, squares } = await accumulateGradients({
        ...{ architecture, runner, gradients, store, ends, sequences: SEQUENCES, states, sequencesPerRun, term },
      });
      let [along, expectedSquares] = [0, 0];
      for (const group of store.names)
        await store.use(group, { reads: ["gradient"] }, (own) => {
          for (const [at, { gradient: found }] of [...own].entries())
            found.host.forEach((value, i) => {
              along += value * Math.sin(i * 1.3 + at);
              expectedSquares += value * value;
            });
          return Promise.resolve();
        });
      assert.ok(Math.abs(squares - expectedSquares) < 1e-4 * expectedSquares, `${squares}, ${expectedSquares}`);
      return { loss, along };
    };
    const step = 2e-4;
    const { along, loss } = await lossAt(0);
    losses.set(`${distillation}${term === undefined ? "" : " and blocks"}`, loss);
    const expected = ((await lossAt(step)).loss - (await lossAt(-step)).loss) / (2 * step);
    // Float32 losses of about 8 differ by about 1e-3 here: their rounding is a thousandth of that.
    const off = Math.abs(along - expected);
    assert.ok(off < 0.01 * Math.abs(expected) + 0.01, `${distillation}: ${along}, differences say ${expected}`);
  }
  const [text, taught, mixture] = ["0", "1", "0.3"].map((share) => lookUp(losses, share)) as [number, number, number];
  assert.ok(Math.abs(text - crossEntropy) < 1e-4, `${text}, evaluated ${crossEntropy}`);
  assert.ok(Math.abs(taught - text) > 0.1, "the teacher says something else than the text");
  assert.ok(Math.abs(mixture - (0.7 * text + 0.3 * taught)) < 1e-4, `${mixture} of ${text} and ${taught}`);
  await embedded.copyTo(final, [2, 0, 1]);
  let apart = 0;
  for (const block of architecture.blocks) {
    await new Stream(runner, final).pass(block, await readBlockWeights(model.checkpoint, block), { moves: true });
    let [missing, all] = [0, 0];
    for (let sequence = 0; sequence < SEQUENCES; sequence++) {
      const hidden = valuesOf(await final.read(sequence, 1));
      const target = valuesOf(await square.taught.read(block.index * SEQUENCES + sequence, 1));
      missing += hidden.reduce((sum, value, i) => sum + (value - target[i]) ** 2, 0);
      all += target.reduce((sum, value) => sum + value ** 2, 0);
    }
    apart += missing / (all + 2 ** -7 * SEQUENCES * embedded.sequenceLength);
  }
  const squared = lookUp(losses, "0 and blocks") - text;
  assert.ok(Math.abs(squared - 0.4 * apart) < 1e-4, `${squared}, computed ${0.4 * apart}`);
});

/** SquareHead with a teacher that says something else behind every block; the states are the caller's. */
async function squareHeadOf(
  { blocks, state }: Architecture,
  { directory, sequences, weight }: { readonly directory: string; readonly sequences: number; readonly weight: number },
): Promise<{ readonly term: SquareHead; readonly taught: HiddenStates }> {
  const place = { tokens: TOKENS, width: state.width, memoryBytes: 2 ** 24 };
  const taught = await HiddenStates.create({
    ...{ ...place, sequences: sequences * blocks.length, scratchFile: join(directory, "taught") },
  });
  const term = new SquareHead(weight, sequences, taught, state);
  await using said = await HiddenStates.create({ ...place, sequences, scratchFile: join(directory, "said") });
  for (const block of blocks) {
    const values = normals(sequences * said.sequenceLength, 50 + block.index).map((value) => value * (1 + block.index));
    await said.write(0, borrowed("said", values, [sequences * TOKENS, state.width]));
    await term.learn(block, said);
  }
  return { term, taught };
}

test("SquareHead compares hidden states: what is carried beside them has no part in it and gets no gradient", async (t) => {
  const place = { tokens: 2, width: 3, memoryBytes: 2 ** 20 };
  await using taught = await HiddenStates.create({ ...place, sequences: 1, scratchFile: temporaryDirectory(t) });
  await using said = await HiddenStates.create({ ...place, sequences: 1, scratchFile: temporaryDirectory(t) });
  const term = new SquareHead(0.5, 1, taught, stateOf(2, [{ name: "carried", width: 1 }]));
  const rows = (...values: readonly number[]) => borrowed("rows", Float32Array.from(values), [2, 3]);
  await said.write(0, rows(1, 2, 100, 0, 2, 100));
  const block = { index: 0, name: "block" } as BlockSpec;
  await term.learn(block, said);
  const gradient = rows(0, 0, 7, 0, 0, 7);
  const share = await term.add(block, { first: 0, count: 1 }, rows(2, 2, 0, 0, 4, 0), gradient);
  const factor = 0.5 / (9 + 2 ** -7 * 4);
  assert.ok(Math.abs(share - 5 * factor) < 1e-12, `${share}`);
  assert.deepEqual(valuesOf(gradient), Float32Array.of(2 * factor, 0, 7, 0, 4 * factor, 7));
});

test("the loss under masks is that of values which are zero where the masks say so, in memory and in files", async (t) => {
  const directory = temporaryDirectory(t);
  await writeShortDemo(join(directory, "model"), { blocks: 2 });
  await using model = await openModel(join(directory, "model"));
  await using device = await createCpuDevice();
  await using runner = new BlockRunner(model.architecture);
  const { architecture } = model;
  await using embedding = await EmbeddingGradient.compile(runner.executor, model);
  await using gradients = new BlockGradients(runner, architecture);
  await using head = await HeadGradient.compile(runner.executor, architecture, {
    ...{ isProjectionTrained: false, isDistilled: false },
  });
  await using states = await stepStates(architecture, {
    ...{ sequences: 2, tokens: TOKENS, memoryBytes: 2 ** 24, scratchFile: join(directory, "s") },
  });
  const square = await squareHeadOf(architecture, { directory, sequences: 2, weight: 1 });
  await using _taught = square.taught;
  const fixed = await readEnds(model.checkpoint, architecture);
  const isPruned = (name: string, i: number): boolean => name.includes("mlp") && (i * 7) % 3 === 0;
  const lossOf = async (isMasked: boolean, memoryBytes: number): Promise<readonly [plain: number, masked: number]> => {
    await using store = await ParameterStore.create({
      ...{ device, memoryBytes, formats: FULL_PRECISION, directory: join(directory, "store") },
      groups: architecture.blocks.map((block) => ({
        name: groupOfBlock(block),
        async load() {
          const weights = await readBlockWeights(model.checkpoint, block);
          return [...block.tensors].map(([name, { shape }]) => {
            const values = weights.get(name) as Float32Array;
            if (isMasked) return { name, shape, values, isMasked: false, isSplit: true };
            return { name, shape, values: values.map((v, i) => (isPruned(name, i) ? 0 : v)), isMasked: false };
          });
        },
      })),
    });
    for (const group of isMasked ? store.names : [])
      await store.use(group, { reads: ["values"], writes: ["mask"] }, async (parameters) => {
        for (const parameter of parameters) {
          const { rows, columns } = parameter.values.matrix;
          const words = wordsOf(
            parameter.values.host.map((_, i) => (isPruned(parameter.name, i) ? 0 : 1)),
            rows,
            columns,
          );
          parameter.replaceMask(device.uploadMask(words, rows, columns, "mask"));
        }
        return Promise.resolve();
      });
    const ends = new TextEnds({
      ...{ architecture, embedding, head, fixed, store, teacher: undefined, distillation: 0 },
    });
    ends.choose([1, 2].map((s) => Int32Array.from({ length: TOKENS }, (_, i) => (s * 997 + i * 31) % 4096)));
    const step = { architecture, runner, gradients, store, ends, term: square.term, sequences: 2, states };
    return [(await accumulateGradients(step)).loss, await lossUnderMasks(step)];
  };
  const [expected] = await lossOf(false, 2 ** 28);
  for (const memoryBytes of [0, 2 ** 28]) {
    const [plain, masked] = await lossOf(true, memoryBytes);
    assert.equal(masked, expected);
    assert.notEqual(plain, expected);
  }
});
