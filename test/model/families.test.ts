/**
 * Every family against stored forwards: embeddings, hidden states of every block, the inputs of the linears of one block
 * or of all, its groups and their stages, logits. Correct float32 implementations agree to 3e-5; 1e-4 is what the fixtures'
 * authors accept, since a wrong epsilon or activation already costs 4e-4.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { BlockSpec } from "../../src/model/architecture.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { embedTokens } from "../../src/forward/embedding.js";
import { gramPanels } from "../../src/forward/block-graph.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { lookUp } from "../../src/look-up.js";
import { applyFinalNorm, computeLogits, nextTokenLosses } from "../../src/forward/head.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import {
  copyFixture,
  fixturePath,
  fixtures,
  readJson,
  sampleBlock,
  storedModule,
  TOLERANCE,
  toleranceOf,
  type Fixture,
} from "../helpers/architectures.js";
import { stackExperts } from "../helpers/checkpoint-variants.js";
import { type PlainTap, readStates, runBlock, streamByStream, writeStates } from "../helpers/forward.js";
import { readTensors, relativeError, rowsOf, tensorOf, type StoredTensor } from "../helpers/tensors.js";

function checkInputs(
  folder: string,
  block: BlockSpec,
  taps: ReadonlyMap<string, PlainTap>,
  golden: ReadonlyMap<string, StoredTensor>,
): void {
  for (const group of block.groups) {
    const input = lookUp(taps, group.name).parts[0] ?? new Float32Array(0);
    for (const { name, role, inFeatures } of group.linears) {
      const stored = `inputs/${storedModule(block, role, name)}`;
      if (group.isRouted === true && !golden.has(stored)) continue; // the library has all experts of a layer as one
      const expected = tensorOf(golden, stored);
      assert.deepEqual([input.length / inFeatures, inFeatures], expected.shape, `shape of the input of ${name}`);
      if (input.length === 0) continue; // an expert that no token reaches
      const error = relativeError(input, expected.values);
      assert.ok(error < toleranceOf(folder, name), `input of ${name}: ${error}`);
    }
  }
}

/** Whether the numbers are as the reference library's own run gave them: every block by itself, and all inputs. */
function isFromLibrary(golden: ReadonlyMap<string, StoredTensor>): boolean {
  return golden.has("block/0");
}

/** What leaves a block. */
function statesAfter(golden: ReadonlyMap<string, StoredTensor>, block: number): Float64Array {
  if (isFromLibrary(golden)) return tensorOf(golden, `block/${block}`).values;
  const { shape, values } = tensorOf(golden, "hidden_states");
  const size = values.length / (shape[0] ?? 1);
  return values.subarray(block * size, (block + 1) * size);
}

/** The stored forward of a folder against that of a checkpoint, which may store the same model otherwise. */
async function compareForward({ folder }: Fixture, directory: string): Promise<void> {
  const golden = readTensors(fixturePath(folder, "golden.safetensors"));
  const ids = rowsOf(tensorOf(golden, "input_ids"));
  const tokens = ids[0]?.length ?? 0;
  await using model = await openModel(directory);
  const { architecture } = model;
  await using states = await HiddenStates.create({
    sequences: 2,
    tokens,
    width: architecture.state.width,
    memoryBytes: tokens * architecture.state.width * 4, // one sequence: the second goes through the scratch file
    scratchFile: join(directory, "scratch.bin"),
  });
  await embedTokens(model, ids, states);
  const embedError = relativeError(
    streamByStream(architecture, await readStates(states, 0, 2)),
    tensorOf(golden, "embed").values,
  );
  assert.ok(embedError < TOLERANCE, `embeddings: ${embedError}`);

  await using runner = new BlockRunner(architecture);
  for (const block of architecture.blocks) {
    const weights = await readBlockWeights(model.checkpoint, block);
    const groups = block.groups.map((group) => group.name);
    const isTapped = isFromLibrary(golden) || block === sampleBlock(architecture);
    const taps = isTapped ? ({ kind: "inputs", groups } as const) : undefined;
    const result = await runBlock(
      runner,
      block,
      weights,
      await readStates(states, 0, 2),
      { batch: 2, tokens: tokens },
      { hidden: true, taps },
    );
    assert.ok(result.hidden);
    if (taps !== undefined) checkInputs(folder, block, result.taps, golden);
    const error = relativeError(streamByStream(architecture, result.hidden), statesAfter(golden, block.index));
    assert.ok(error < TOLERANCE, `hidden states of block ${block.index}: ${error}`);
    await writeStates(states, 0, result.hidden);
  }
  // A model that is stored without its last blocks: what left them, for the head.
  const left = golden.get("head_input");
  if (left !== undefined) await writeStates(states, 0, Float32Array.from(left.values));
  await applyFinalNorm(model, states, 2);
  const logits = tensorOf(golden, "logits").values;
  const logitError = relativeError(await computeLogits(model, states, { batch: 1 }), logits);
  assert.ok(logitError < TOLERANCE, `logits: ${logitError}`);
  await checkLosses(model, states, ids, logits);
}

async function checkLosses(model: Model, states: HiddenStates, ids: Int32Array[], logits: Float64Array): Promise<void> {
  const losses = await nextTokenLosses(model, states, ids, { batch: 2 });
  const { vocabularySize } = model.architecture;
  ids.forEach((sequence, s) => {
    for (let t = 0; t + 1 < sequence.length; t++) {
      const row = logits.subarray((s * sequence.length + t) * vocabularySize).subarray(0, vocabularySize);
      const top = Math.max(...row);
      const logSumExp = top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
      const loss = logSumExp - (row[sequence[t + 1] ?? 0] ?? 0);
      // Logits of these fixtures reach 30: an error of TOLERANCE · rms in two of them.
      assert.ok(Math.abs((losses[s]?.[t] ?? NaN) - loss) < TOLERANCE * 10, `loss of sequence ${s} token ${t}`);
    }
  });
}

/** Linears of the library that decide, mix or scale, and are never pruned. */
const KEPT = /\.(router|gate|shared_expert_gate|modality_router|prediction_coefs|correction_coefs)$/;

async function compareGroups({ folder, directory }: Fixture): Promise<void> {
  const golden = readTensors(fixturePath(folder, "golden.safetensors"));
  await using model = await openModel(directory);
  for (const block of model.architecture.blocks) {
    const modules = [...golden.keys()]
      .filter((name) => name.startsWith(`inputs/${block.name}.`))
      .map((name) => name.slice("inputs/".length));
    const pruned = new Set<string>();
    for (const group of block.groups) {
      const places = group.linears.map(({ name, role }) => storedModule(block, role, name));
      const known = places.filter((place) => golden.has(`inputs/${place}`));
      assert.ok(known.length === places.length || group.isRouted === true, group.name);
      for (const place of known) {
        pruned.add(place);
        const [first, own] = [known[0] as string, place].map((each) => tensorOf(golden, `inputs/${each}`).values);
        assert.deepEqual(own, first, `${place} reads what ${known[0]} reads`);
      }
    }
    const kept = modules.filter((module) => !pruned.has(module));
    assert.deepEqual(
      kept.filter((module) => !KEPT.test(module)),
      [],
    );
  }
  const config = readJson<{ tie_word_embeddings: boolean }>(fixturePath(folder, "config.json"));
  assert.equal(model.architecture.isHeadTied, config.tie_word_embeddings);
}

interface StoredGroups {
  readonly block: number;
  readonly orientation: "out_in" | "in_out";
  readonly tied_head: boolean;
  readonly stages: readonly (readonly (readonly string[])[])[];
}

for (const fixture of fixtures()) {
  const { folder, skip } = fixture;
  for (const config of fixture.configs) {
    test(`${folder} with ${config} gives the stored hidden states, linear inputs and logits`, { skip }, async (t) =>
      compareForward(fixture, await copyFixture(t, fixture, config)),
    );
  }

  if (!existsSync(fixturePath(folder, "groups.json"))) {
    test(`${folder}: what the library has as linears is pruned, those of a group read one input`, { skip }, () =>
      compareGroups(fixture),
    );
    continue;
  }

  test(`${folder}: groups, stages, orientation and tie are the stored ones`, { skip }, async () => {
    const expected = readJson<StoredGroups>(fixturePath(folder, "groups.json"));
    await using model = await openModel(fixture.directory);
    const block = model.architecture.blocks[expected.block];
    assert.ok(block);
    const stages: string[][][] = [];
    for (const group of block.groups) {
      const modules = new Set(group.linears.map(({ name, role }) => storedModule(block, role, name)));
      (stages[group.stage] ??= []).push([...modules]);
      assert.ok(
        group.linears.every(({ inFeatures }) => inFeatures === group.inFeatures),
        group.name,
      );
      assert.ok(group.linears.every(({ inputAxis }) => inputAxis === (expected.orientation === "in_out" ? 0 : 1)));
    }
    assert.deepEqual(stages, expected.stages);
    assert.equal(model.architecture.isHeadTied, expected.tied_head);
  });
}

for (const folder of ["ernie4_5_moe", "flex_olmo", "glm4_moe", "hunyuan_v1_moe", "minimax_m2", "olmoe", "phimoe"]) {
  test(`${folder} with stacked experts gives the stored hidden states and logits`, async (t) => {
    const fixture = fixtures().find((each) => each.folder === folder);
    assert.ok(fixture);
    await compareForward(fixture, await stackExperts(t, folder));
  });
}

test("the logical matrices of every fused tensor cover its outputs once", async () => {
  for (const { directory, skip } of fixtures()) {
    if (skip !== false) continue;
    await using model = await openModel(directory);
    for (const block of model.architecture.blocks) {
      const outputs = new Map<string, number[]>();
      for (const { role, outputs: ranges = [], slab = 0 } of block.groups.flatMap((group) => group.linears)) {
        const seen = outputs.get(`${role} ${slab}`) ?? [];
        for (const { first, count, step = 1 } of ranges) for (let i = 0; i < count; i++) seen.push(first + i * step);
        if (ranges.length > 0) outputs.set(`${role} ${slab}`, seen);
      }
      for (const [place, seen] of outputs) {
        const [role, slab] = place.split(" ");
        const linear = block.groups.flatMap((group) => group.linears).find((each) => each.role === role);
        const shape = lookUp(block.tensors, role ?? "").shape;
        const stored = shape[shape.length - (linear?.inputAxis === 0 ? 1 : 2)];
        seen.sort((a, b) => a - b);
        assert.deepEqual(
          seen,
          Array.from({ length: stored ?? 0 }, (_, i) => i),
          `${block.name}.${role} ${slab}`,
        );
      }
    }
  }
});

for (const folder of ["llama", "llama_bias"]) {
  test(`${folder}: column norms and Gram panels computed in the graph are those of the tapped inputs`, async () => {
    await using model = await openModel(fixturePath(folder));
    const { architecture } = model;
    const block = architecture.blocks[0];
    assert.ok(block);
    const weights = await readBlockWeights(model.checkpoint, block);
    const tokens = 9;
    const hidden = new Float32Array(3 * tokens * architecture.hiddenSize).map((_, i) => Math.sin(i * 0.7) + 0.3);
    await using runner = new BlockRunner(architecture);
    const groups = block.groups.map((group) => group.name);
    const run = (kind: "inputs" | "column-norms" | "gram") =>
      runBlock(runner, block, weights, hidden, { batch: 3, tokens }, { hidden: false, taps: { kind, groups } });
    const [inputs, norms, grams] = [await run("inputs"), await run("column-norms"), await run("gram")];
    for (const { name, inFeatures: n } of block.groups) {
      const x = lookUp(inputs.taps, name).parts[0] as Float32Array;
      const gram = new Float64Array(n * n);
      for (let t = 0; t < x.length / n; t++) {
        for (let i = 0; i < n; i++)
          for (let j = 0; j < n; j++)
            gram[i * n + j] = (gram[i * n + j] ?? 0) + (x[t * n + i] ?? 0) * (x[t * n + j] ?? 0);
      }
      // 27 terms in float32: relative error below 27 · 2⁻²⁴ ≈ 2e-6 of the largest product sum.
      const diagonal = Float64Array.from({ length: n }, (_, i) => gram[i * n + i] ?? 0);
      assert.ok(relativeError(lookUp(norms.taps, name).parts[0] ?? [], diagonal) < 1e-5, `${name} norms`);
      gramPanels(n).forEach(({ first, end }, index) => {
        const panel = lookUp(grams.taps, name).parts[index] ?? new Float32Array(0);
        const expected = Float64Array.from(
          { length: (end - first) * end },
          (_, i) => gram[(first + Math.floor(i / end)) * n + (i % end)] ?? 0,
        );
        assert.ok(relativeError(panel, expected) < 1e-5, `${name} panel ${index}`);
      });
    }
  });
}

test("wide Gram matrices are cut into panels that cover the lower triangle once", () => {
  for (const n of [1, 48, 703, 2048, 5632, 11008]) {
    const panels = gramPanels(n);
    assert.equal(panels[0]?.first, 0);
    assert.equal(panels.at(-1)?.end, n);
    panels.slice(1).forEach((panel, index) => assert.equal(panel.first, panels[index]?.end));
  }
  assert.equal(gramPanels(5632).length, 8);
});
