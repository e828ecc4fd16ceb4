/** Statistics collected over several runs of a block against plain float64 sums over the block's tapped inputs. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { collectStatistics } from "../../src/calibration/statistics.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { NumericalError } from "../../src/errors.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { gramPanels } from "../../src/forward/block-graph.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { lookUp } from "../../src/look-up.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { Stream } from "../../src/forward/stream.js";
import { openModel } from "../../src/model/open-model.js";
import type { StatisticName } from "../../src/solvers/solver.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { readStates, runBlock, writeStates } from "../helpers/forward.js";
import { repositoryPath } from "../helpers/paths.js";
import { writeSyntheticLlama } from "../helpers/synthetic-model.js";
import { relativeError } from "../helpers/tensors.js";
import { referenceMatmul } from "../reference/products.js";

const SEQUENCES = 5;
const TOKENS = 7;
const TOLERANCE = 1e-5; // 35 float32 terms

test("column norms, Gram matrices and moments are those of all sequences", async (t) => {
  await using model = await openModel(repositoryPath("test/fixtures/architectures/llama"));
  const { architecture } = model;
  const block = architecture.blocks[1];
  const weights = await readBlockWeights(model.checkpoint, block);
  const scratchFile = join(temporaryDirectory(t), "scratch");
  const shape = { sequences: SEQUENCES, tokens: TOKENS, width: architecture.state.width };
  await using states = await HiddenStates.create({ ...shape, memoryBytes: 2 ** 20, scratchFile });
  await writeStates(
    states,
    0,
    Float32Array.from({ length: SEQUENCES * TOKENS * shape.width }, (_, i) => Math.sin(i * 0.31) + 0.2),
  );
  await using runner = new BlockRunner(architecture);
  await using device = await createCpuDevice({ threads: 1 });
  const names = block.groups.map((group) => group.name);
  const taps = { kind: "inputs", groups: names } as const;
  const inputs = await runBlock(
    runner,
    block,
    weights,
    await readStates(states, 0, SEQUENCES),
    { batch: SEQUENCES, tokens: TOKENS },
    {
      hidden: false,
      taps,
    },
  );

  for (const needs of [["column-norms"], ["gram"], ["gram", "input-moments"], ["input-moments"]] as StatisticName[][]) {
    // Two sequences a run, so that the last run is a shorter one.
    const common = { stream: new Stream(runner, states, 2), block, weights, device };
    const collected = await collectStatistics({ ...common, groups: block.groups, needs });
    for (const { name, inFeatures: n } of block.groups) {
      const x = lookUp(inputs.taps, name).parts[0];
      using grown = lookUp(collected, name);
      const statistics = await grown.finish();
      assert.deepEqual([statistics.tokenCount, statistics.sequenceCount], [SEQUENCES * TOKENS, SEQUENCES]);
      const channel = (c: number, sequence: number): number[] =>
        Array.from({ length: TOKENS }, (_, token) => x[(sequence * TOKENS + token) * n + c]);
      const overSequences = (c: number, value: (values: number[]) => number): number =>
        Array.from({ length: SEQUENCES }, (_, s) => value(channel(c, s))).reduce((a, b) => a + b, 0);
      const perChannel = (value: (values: number[]) => number): Float64Array =>
        Float64Array.from({ length: n }, (_, c) => overSequences(c, value));
      const squares = perChannel((values) => values.reduce((sum, v) => sum + v * v, 0));
      assert.ok(relativeError(statistics.squareSums ?? [], squares) < TOLERANCE, `${name} squares`);
      if (needs.includes("gram")) {
        assert.ok(statistics.gram);
        const gram = await device.download({ matrix: statistics.gram });
        for (let i = 0; i < n; i++) {
          for (let j = 0; j <= i; j++) {
            let sum = 0;
            for (let row = 0; row < SEQUENCES * TOKENS; row++) sum += x[row * n + i] * x[row * n + j];
            const scale = Math.sqrt(squares[i] * squares[j]);
            assert.ok(Math.abs(gram[i * n + j] - sum) <= TOLERANCE * scale, `${name} gram ${i}, ${j}`);
          }
        }
      }
      assert.equal(statistics.moments !== undefined, needs.includes("input-moments"));
      if (statistics.moments === undefined) continue;
      const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
      const sums = perChannel((values) => mean(values) * TOKENS);
      const variances = perChannel((values) => mean(values.map((v) => (v - mean(values)) ** 2)) / SEQUENCES);
      assert.ok(relativeError(statistics.moments.sums, sums) < TOLERANCE, `${name} sums`);
      assert.ok(relativeError(statistics.moments.variances, variances) < TOLERANCE, `${name} variances`);
    }
  }
  assert.deepEqual([...device.liveBytes()], []);
});

test("inherited errors compare with the dense model's inputs, token by token", async (t) => {
  await using model = await openModel(repositoryPath("test/fixtures/architectures/llama"));
  const { architecture } = model;
  const block = architecture.blocks[1];
  const weights = await readBlockWeights(model.checkpoint, block);
  const pruned = new Map(
    [...weights].map(([role, values]) => [role, values.map((value, i) => (i % 3 === 0 ? 0 : value))]),
  );
  const create = async (name: string, phase: number): Promise<HiddenStates> => {
    const scratchFile = join(temporaryDirectory(t), name);
    const shape = { sequences: SEQUENCES, tokens: TOKENS, width: architecture.state.width };
    const states = await HiddenStates.create({ ...shape, memoryBytes: 2 ** 20, scratchFile });
    const length = SEQUENCES * TOKENS * shape.width;
    await writeStates(
      states,
      0,
      Float32Array.from({ length }, (_, i) => Math.sin(i * 0.31 + phase) + 0.2),
    );
    return states;
  };
  await using states = await create("seen", 0);
  await using denseStates = await create("dense", 0.1);
  await using runner = new BlockRunner(architecture);
  await using device = await createCpuDevice({ threads: 1 });
  const taps = { kind: "inputs", groups: block.groups.map((group) => group.name) } as const;
  const tap = async (of: HiddenStates, with_: ReadonlyMap<string, Float32Array>) =>
    (
      await runBlock(
        runner,
        block,
        with_,
        await readStates(of, 0, SEQUENCES),
        { batch: SEQUENCES, tokens: TOKENS },
        { hidden: false, taps },
      )
    ).taps;
  const [seen, dense] = [await tap(states, pruned), await tap(denseStates, weights)];
  const stream = new Stream(runner, states, 2);
  const options = { stream, block, weights: pruned, groups: block.groups, device };
  const needs = ["gram", "inherited-errors"] as const;
  const compared = { weights, stream: new Stream(runner, denseStates, 2) };
  const collected = await collectStatistics({ ...options, needs, dense: compared });
  for (const { name, inFeatures: n } of block.groups) {
    using grown = lookUp(collected, name);
    const { errors, gram } = await grown.finish();
    assert.ok(errors !== undefined && gram !== undefined);
    const actual = await device.download({ matrix: errors });
    const [x, truth] = [lookUp(seen, name).parts[0], lookUp(dense, name).parts[0]];
    const differences = Float64Array.from(truth, (value, i) => value - x[i]);
    const expected = referenceMatmul(differences, x, { m: n, n, k: SEQUENCES * TOKENS }, true);
    assert.ok(relativeError(actual, expected) < TOLERANCE, `${name}: ${relativeError(actual, expected)}`);
  }
  const unknown = await collectStatistics({ ...options, needs });
  for (const group of unknown.values()) {
    using grown = group;
    assert.equal((await grown.finish()).errors, undefined);
  }
  assert.deepEqual([...device.liveBytes()], []);
});

test("inputs that are not finite are refused with the channel, whatever collects them", async (t) => {
  await using model = await openModel(repositoryPath("test/fixtures/architectures/llama"));
  const { architecture } = model;
  const block = architecture.blocks[1];
  const weights = await readBlockWeights(model.checkpoint, block);
  const shape = { sequences: 2, tokens: TOKENS, width: architecture.state.width };
  const scratchFile = join(temporaryDirectory(t), "scratch");
  await using states = await HiddenStates.create({ ...shape, memoryBytes: 2 ** 20, scratchFile });
  const values = new Float32Array(2 * TOKENS * shape.width).fill(0.5);
  values[values.length - 1] = NaN; // of the last sequence: earlier batches are fine
  await writeStates(states, 0, values);
  await using runner = new BlockRunner(architecture);
  await using device = await createCpuDevice({ threads: 1 });
  const stream = new Stream(runner, states, 1);
  const [group] = block.groups;
  const cases: readonly (readonly StatisticName[])[] = [["column-norms"], ["gram"], ["gram", "inherited-errors"]];
  for (const needs of cases) {
    const options = { stream, block, weights, groups: [group], needs, device, dense: { weights, stream } };
    const collected = await collectStatistics(options);
    using grown = lookUp(collected, group.name);
    await assert.rejects(grown.finish(), (error) => {
      assert.ok(error instanceof NumericalError && error.code === "E_NON_FINITE_ACTIVATIONS", String(error));
      assert.match(error.message, /model\.layers\.1 .*: input channel 0 /);
      return true;
    });
  }
});

test("a Gram matrix of more than one panel is that of the inputs, at the widths that real models have", async (t) => {
  const directory = temporaryDirectory(t);
  await writeSyntheticLlama(directory, { intermediate: 1200 });
  await using model = await openModel(directory);
  const { architecture } = model;
  const [block] = architecture.blocks;
  const weights = await readBlockWeights(model.checkpoint, block);
  const [sequences, tokens] = [3, 8];
  const shape = { sequences, tokens, width: architecture.state.width };
  await using states = await HiddenStates.create({ ...shape, memoryBytes: 2 ** 20, scratchFile: "" });
  const length = sequences * tokens * shape.width;
  await writeStates(
    states,
    0,
    Float32Array.from({ length }, (_, i) => Math.sin(i * 0.31) + 0.2),
  );
  await using runner = new BlockRunner(architecture);
  await using device = await createCpuDevice({ threads: 2 });
  const groups = block.groups.filter(({ inFeatures }) => inFeatures === 1200);
  const [{ name, inFeatures: n }] = groups;
  assert.ok(gramPanels(n).length > 1);
  const taps = { kind: "inputs", groups: [name] } as const;
  const size = { batch: sequences, tokens };
  const values = await readStates(states, 0, sequences);
  const inputs = await runBlock(runner, block, weights, values, size, { hidden: false, taps });
  const x = lookUp(inputs.taps, name).parts[0];
  const stream = new Stream(runner, states, 2); // two batches: panels are added up
  const collected = await collectStatistics({ stream, block, weights, groups, device, needs: ["gram"] });
  using grown = lookUp(collected, name);
  const { gram, squareSums } = await grown.finish();
  assert.ok(gram !== undefined && squareSums !== undefined);
  const found = await device.download({ matrix: gram });
  const expected = referenceMatmul(x, x, { m: n, n, k: sequences * tokens }, true);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const scale = Math.sqrt(expected[i * n + i] * expected[j * n + j]);
      const error = Math.abs(found[i * n + j] - expected[i * n + j]);
      assert.ok(error <= TOLERANCE * scale, `gram ${i}, ${j}: ${found[i * n + j]}, ${expected[i * n + j]}`);
    }
    assert.equal(squareSums[i], found[i * n + i]);
  }
});
