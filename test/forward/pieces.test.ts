/**
 * What is done piece by piece because it may be large gives the same in small pieces as in one: the embedding table,
 * the vocabulary, the lower triangle of a Gram matrix.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { borrowed, type HostArray } from "../../src/array.js";
import { valuesOf } from "../../src/forward/values.js";
import { lookUp } from "../../src/look-up.js";
import { measureDivergence } from "../../src/evaluation/divergence.js";
import { gramPanels } from "../../src/forward/block-graph.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import type { Checkpoint } from "../../src/checkpoint/checkpoint.js";
import { embedTokens, type EmbeddingOptions } from "../../src/forward/embedding.js";
import { applyFinalNorm, computeLogits, nextTokenStatistics, vocabularyTiles } from "../../src/forward/head.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import type { BlockSpec } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { fixturePath } from "../helpers/architectures.js";
import { readStates, runBlock } from "../helpers/forward.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { readTensors, relativeError, rowsOf, tensorOf } from "../helpers/tensors.js";

/** One with embeddings narrower than its hidden states, one with a bias at its head, one with a softcap. */
const FOLDERS = ["llama", "opt_350m_style", "phi", "gemma2", "gemma3n_text"];

function idsOf(folder: string): Int32Array[] {
  return rowsOf(tensorOf(readTensors(fixturePath(folder, "golden.safetensors")), "input_ids"));
}

async function embedded(
  t: TestContext,
  model: Model,
  ids: readonly Int32Array[],
  options: EmbeddingOptions = {},
): Promise<HiddenStates> {
  const states = await HiddenStates.create({
    sequences: ids.length,
    tokens: ids[0]?.length ?? 0,
    width: model.architecture.state.width,
    memoryBytes: 2 ** 24,
    scratchFile: join(temporaryDirectory(t), "scratch.bin"),
  });
  await embedTokens(model, ids, states, options);
  return states;
}

test("of tables that tokens are looked up in, rows that nobody asked for are not read where they lie apart", async (t) => {
  await using model = await openModel(fixturePath("gemma3n_text"));
  const ids = idsOf("gemma3n_text");
  const { embedding, sideTables } = model.architecture;
  const read = new Map<string, number>();
  const readRows: Checkpoint["readRows"] = (tensor, first, count) => {
    read.set(tensor, (read.get(tensor) ?? 0) + count);
    return model.checkpoint.readRows(tensor, first, count);
  };
  const readTensor: Checkpoint["readTensor"] = (...asked) => model.checkpoint.readTensor(...asked);
  const checkpoint = { readRows, readTensor } as Checkpoint;
  await using whole = await embedded(t, model, ids);
  await using apart = await embedded(t, { ...model, checkpoint }, ids, { farBytes: 0 });
  assert.deepEqual(await readStates(apart, 0, ids.length), await readStates(whole, 0, ids.length));
  const wanted = new Set(ids.flatMap((sequence) => [...sequence]));
  const [side] = sideTables;
  assert.ok(side && [...wanted].some((id) => id >= side.rows), "some tokens have no row of their own");
  const ofSide = new Set([...wanted].map((id) => (id < side.rows ? id : 0)));
  assert.deepEqual(Object.fromEntries(read), { [embedding]: wanted.size, [side.tensor]: ofSide.size });
});

for (const folder of FOLDERS) {
  test(`${folder}: an embedding table read in pieces gives the same states as in one`, async (t) => {
    await using model = await openModel(fixturePath(folder));
    const ids = idsOf(folder);
    const { vocabularySize, embeddingWidth } = model.architecture;
    await using whole = await embedded(t, model, ids);
    const expected = await readStates(whole, 0, ids.length);
    for (const rows of [1, 7, vocabularySize - 1]) {
      await using pieces = await embedded(t, model, ids, { pieceBytes: rows * embeddingWidth * 4 });
      assert.deepEqual(await readStates(pieces, 0, ids.length), expected, `${rows} rows at a time`);
    }
  });

  test(`${folder}: the head over many tiles of the vocabulary is the head over one`, async (t) => {
    await using model = await openModel(fixturePath(folder));
    const ids = idsOf(folder);
    await using states = await embedded(t, model, ids);
    await applyFinalNorm(model, states, 1);
    const { vocabularySize } = model.architecture;
    const logits = await computeLogits(model, states, { batch: 2 });
    const statistics = await nextTokenStatistics(model, states, ids, { batch: 2 });
    const other = { ...states, sequences: states.sequences, tokens: states.tokens, read: shifted };
    const { logPartitions } = statistics;
    const compared = await measureDivergence({ model, states, logPartitions }, { model, states: other }, { batch: 1 });
    for (const tileRows of [13, Math.ceil(vocabularySize / 2)]) {
      assert.ok(vocabularyTiles(vocabularySize, { tileRows }).length > 1);
      // The same products and sums in float32, tile by tile: a few roundings apart.
      assert.ok(relativeError(await computeLogits(model, states, { batch: 2, tileRows }), logits) < 1e-6);
      const tiled = await nextTokenStatistics(model, states, ids, { batch: 2, tileRows });
      tiled.losses.forEach((losses, index) => {
        assert.ok(relativeError(losses, statistics.losses[index] ?? []) < 1e-5);
      });
      const divergence = await measureDivergence(
        { model, states, logPartitions },
        { model, states: other },
        {
          batch: 1,
          tileRows,
        },
      );
      assert.deepEqual(divergence.agreements, compared.agreements);
      assert.ok(relativeError(divergence.klDivergences, compared.klDivergences) < 1e-4);
    }

    async function shifted(first: number, count: number): Promise<HostArray> {
      const values = (await readStates(states, first, count)).map((value, i) => value + 0.3 * Math.sin(i * 0.9));
      return borrowed("shifted", values, [count * states.tokens, states.sequenceLength / states.tokens]);
    }
  });
}

test("a block gives the same in memory that is used again once disposed of", async () => {
  await using model = await openModel(fixturePath("qwen2_moe"));
  const { architecture, checkpoint } = model;
  const block = architecture.blocks[1] as BlockSpec;
  const weights = await readBlockWeights(checkpoint, block);
  const [batch, tokens] = [2, 9];
  await using runner = new BlockRunner(architecture);
  const values = new Float32Array(batch * tokens * architecture.hiddenSize).map((_, i) => Math.sin(i * 0.7) + 0.3);
  const groups = block.groups.map(({ name }) => name);
  const request = { hidden: true, taps: { kind: "gram", groups, hasMoments: true } } as const;
  const expected = await runBlock(runner, block, weights, values, { batch, tokens }, request);
  const hidden = borrowed("hidden", values, [batch * tokens, architecture.hiddenSize]);
  const used = new Set<ArrayBufferLike>();
  for (let round = 0; round < 3; round++) {
    using found = await runner.run(block, weights, hidden, { batch, tokens }, request);
    assert.ok(found.hidden !== undefined);
    assert.deepEqual(found.hidden.shape, [batch * tokens, architecture.hiddenSize]);
    assert.deepEqual(valuesOf(found.hidden), expected.hidden);
    for (const [group, tap] of expected.taps) {
      const { parts, moments, rows } = lookUp(found.taps, group);
      assert.ok(moments !== undefined);
      assert.deepEqual(parts.map(valuesOf), tap.parts, group);
      assert.deepEqual([rows, valuesOf(moments.sums)], [tap.rows, tap.moments?.sums], group);
      const panels = gramPanels(parts.at(-1)?.shape[1] ?? 0);
      assert.deepEqual(
        parts.map(({ shape }) => shape),
        panels.map(({ first, end }) => [end - first, end]),
      );
    }
    used.add(valuesOf(found.hidden).buffer);
  }
  assert.equal(used.size, 1);
});

test("a Gram matrix in narrow panels is that of the inputs", async () => {
  await using model = await openModel(fixturePath("llama"));
  const { architecture, checkpoint } = model;
  const block = architecture.blocks[0] as BlockSpec;
  const weights = await readBlockWeights(checkpoint, block);
  const [batch, tokens, gramPanelWidth] = [2, 9, 16];
  await using runner = new BlockRunner(architecture, { gramPanelWidth });
  const hidden = new Float32Array(batch * tokens * architecture.hiddenSize).map((_, i) => Math.sin(i * 0.7) + 0.3);
  const groups = block.groups.map(({ name }) => name);
  const run = (kind: "inputs" | "gram") =>
    runBlock(runner, block, weights, hidden, { batch, tokens }, { hidden: false, taps: { kind, groups } });
  const [inputs, grams] = [await run("inputs"), await run("gram")];
  for (const { name, inFeatures: n } of block.groups) {
    const x = lookUp(inputs.taps, name).parts[0] as Float32Array;
    const panels = gramPanels(n, gramPanelWidth);
    assert.ok(panels.length >= 3, name);
    const { parts } = lookUp(grams.taps, name);
    assert.equal(parts.length, panels.length);
    panels.forEach(({ first, end }, index) => {
      const expected = Float64Array.from({ length: (end - first) * end }, (_, at) => {
        const [i, j] = [first + Math.floor(at / end), at % end];
        let sum = 0;
        for (let row = 0; row < batch * tokens; row++) sum += (x[row * n + i] ?? 0) * (x[row * n + j] ?? 0);
        return sum;
      });
      assert.ok(relativeError(parts[index] ?? [], expected) < 1e-5, `${name} panel ${index}`);
    });
  }
});
