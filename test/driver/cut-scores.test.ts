/** What blocks, experts and channels are chosen by: the vectors of the specification, and sums against plain arithmetic. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { ScoringConfig, StructureReport } from "../../src/contract.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { cutModel } from "../../src/driver/cut/cut-model.js";
import { pruneStructure } from "../../src/driver/cut/prune-structure.js";
import { rowAngles, rowCosines } from "../../src/driver/cut/score-blocks.js";
import {
  chooseExperts,
  collectExperts,
  droppedAt,
  outlierThreshold,
  scoreOf,
  type ExpertSums,
} from "../../src/driver/cut/score-experts.js";
import { channelScores, refit } from "../../src/driver/cut/score-width.js";
import { readTokenTensor } from "../../src/calibration/token-tensor.js";
import { compareEvaluated, evaluateWindows } from "../../src/evaluation/perplexity.js";
import { embedTokens } from "../../src/forward/embedding.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { lookUp } from "../../src/look-up.js";
import { inputGroupOf } from "../../src/model/moe.js";
import { ROUTING } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { copyFixture, fixtures } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { readStates, runBlock } from "../helpers/forward.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { writeRandomIds } from "../helpers/synthetic-model.js";
import { verifyModel } from "../../src/driver/cut/verify.js";

function near(actual: ArrayLike<number>, expected: readonly number[], tolerance = 1e-5): void {
  assert.equal(actual.length, expected.length);
  expected.forEach((value, i) =>
    assert.ok(Math.abs((actual[i] as number) - value) < tolerance, `${actual[i]} is not ${value}`),
  );
}

test("cosines and angles of blocks and windows", () => {
  const [h0, h1, h2] = [
    [1, 0, 0, 2],
    [1, 1, 0, 3],
    [0, 2, 1, 3],
  ].map((values) => Float32Array.from(values)) as [Float32Array, Float32Array, Float32Array];
  near(rowCosines(h0, h1, 2), [0.707107, 1]);
  near(rowCosines(h1, h2, 2), [0.707107, 0.948683]);
  near(rowAngles(h0, h2, 2), [0.5, 0.102416]);
  near(rowAngles(h0, h0, 2), [0, 0], 1e-12);
});

/** T1 of the specification: four experts, two chosen of each of four tokens, with their outputs' norms. */
function table(isRenormalized: boolean): ExpertSums[] {
  const logits = [
    [2, 1, 0, -1],
    [0, 2, 1, -1],
    [1, 0, 2, -1],
    [2, 0, 1, -1],
  ];
  const norms: Record<number, number>[] = [
    { 0: 1, 1: 4 },
    { 1: 2, 2: 3 },
    { 2: 1, 0: 2 },
    { 0: 1, 2: 5 },
  ];
  const sums = logits.map(() => ({ tokens: 0, weights: 0, norms: 0, weightedNorms: 0, largest: 0, weightNorm: 0 }));
  logits.forEach((row, token) => {
    const all = row.map(Math.exp);
    const routed = Object.entries(norms[token] ?? {});
    const of = isRenormalized ? routed.map(([expert]) => all[Number(expert)] as number) : all;
    const total = of.reduce((sum, value) => sum + value, 0);
    for (const [expert, norm] of routed) {
      const own = sums[Number(expert)] as (typeof sums)[number];
      own.tokens++;
      own.norms += norm;
      own.weightedNorms += ((all[Number(expert)] as number) / total) * norm;
    }
  });
  return sums;
}

test("criteria of experts, what goes by them, and how many", () => {
  const [plain, renormalized] = [table(false), table(true)];
  const scores = (criterion: Parameters<typeof scoreOf>[0], sums = plain): number[] =>
    sums.map((one) => scoreOf(criterion, one));
  near(scores("frequency"), [3, 2, 3, 0]);
  near(scores("ean"), [4, 6, 9, 0]);
  near(scores("soft-ean"), [1.761594, 2.23536, 2.538977, 0]);
  near(scores("reap"), [0.587198, 1.11768, 0.846326, 0]);
  near(scores("reap", renormalized), [0.666667, 1.268941, 0.960863, 0]);
  const none = [false, false, false, false];
  assert.deepEqual(chooseExperts(scores("frequency"), none, 2), [0, 2]);
  assert.deepEqual(chooseExperts(scores("reap"), none, 2), [1, 2]);
  assert.deepEqual(chooseExperts(scores("reap"), [false, false, false, true], 2), [1, 3]);
  assert.deepEqual(chooseExperts(scores("reap"), none, 2, 2), [1, 2]); // one of each group of two
  assert.deepEqual(chooseExperts([1, 1, 1, 1], none, 3), [0, 1, 2]);
  assert.deepEqual([droppedAt(0.375, 8, 2), droppedAt(0.625, 8, 2)], [4, 4]);
  assert.deepEqual([256 - droppedAt(0.3, 256, 8), 288 - droppedAt(0.4, 288, 1)], [176, 173]);
  const largest = [
    [1, 2, 3, 50],
    [2, 400, 5, 30],
    [1, 9, 45, 3],
    [2, 2, 3, 300],
  ];
  const rows = largest.map(
    (row, block) => [block, row.map((value) => ({ ...(plain[0] as ExpertSums), largest: value }))] as const,
  );
  near([outlierThreshold(new Map(rows))], [392.5]);
});

test("channels: scores, and the refit of the kept ones", async () => {
  await using device = await createCpuDevice();
  using full = device.uploadMatrix(Float32Array.from([6, 1, 3, 1, 2, 1, 3, 1, 3]), 3, 3, "gram");
  const weight = Float32Array.from([1, 2, -1]);
  const given = { device, full, diagonal: Float32Array.from([6, 2, 3]), damping: 0, matrix: weight, name: "w" };
  near(await channelScores("obs", given), [3, 6.666667, 1.363636]);
  near(await channelScores("energy", given), [6, 8, 3]);
  near(await channelScores("wanda", given), [Math.sqrt(6), 2 * Math.sqrt(2), Math.sqrt(3)]);
  using dense = device.uploadMatrix(weight, 1, 3, "w");
  near((await refit({ device, full, damping: 0, dense, kept: [0, 2], name: "w" })).values, [1, -0.333333]);
  near((await refit({ device, full, damping: 0.036667, dense, kept: [0, 2], name: "w" })).values, [
    1 + 2 * 0.003929,
    -1 + 2 * 0.325426,
  ]);
  assert.deepEqual([...device.liveBytes().keys()].toSorted(), ["gram", "w"]);
});

async function fixture(t: TestContext, folder: string): Promise<string> {
  const found = fixtures().find((entry) => entry.folder === folder);
  assert.ok(found);
  return copyFixture(t, found, "config.json");
}

test("sums per expert are those of plain arithmetic on what the router passes on", async (t) => {
  await using model = await openModel(await fixture(t, "mixtral"));
  const { architecture } = model;
  await using runner = new BlockRunner(architecture);
  const ids = [0, 1, 2].map((seed) => Int32Array.from({ length: 8 }, (_, i) => (i * 29 + seed * 7) % 160));
  const place = { model, runner, memoryBytes: 2 ** 24, directory: temporaryDirectory(t), onBatch: () => undefined };
  const collected = await collectExperts(place, ids, createTestContext());
  assert.deepEqual([...collected.keys()], [0, 1, 2]);
  const [block] = architecture.blocks;
  assert.ok(block?.experts);
  const weights = await readBlockWeights(model.checkpoint, block);
  const memory = { memoryBytes: 2 ** 24, scratchFile: "/nowhere" };
  await using states = await HiddenStates.create({
    sequences: 3,
    tokens: 8,
    width: architecture.state.width,
    ...memory,
  });
  await embedTokens(model, ids, states);
  const groups = [ROUTING.experts, ROUTING.weights, ...block.experts.down.map((_, expert) => inputGroupOf(expert))];
  const { taps } = await runBlock(
    runner,
    block,
    weights,
    await readStates(states, 0, 3),
    { batch: 3, tokens: 8 },
    { hidden: false, taps: { kind: "inputs", groups } },
  );
  const [chosen, gates] = [ROUTING.experts, ROUTING.weights].map((name) => lookUp(taps, name).parts[0]) as [
    Float32Array,
    Float32Array,
  ];
  const product = (matrix: Float32Array, x: Float64Array): Float64Array =>
    Float64Array.from({ length: matrix.length / x.length }, (_, row) =>
      x.reduce((sum, value, i) => sum + value * (matrix[row * x.length + i] as number), 0),
    );
  for (const [expert, sums] of (collected.get(0) ?? []).entries()) {
    const own = gates.filter((_, slot) => chosen[slot] === expert);
    assert.equal(sums.tokens, own.length);
    const path = `block_sparse_moe.experts.${expert}`;
    const input = lookUp(taps, inputGroupOf(expert)).parts[0] ?? new Float32Array();
    const width = architecture.hiddenSize;
    let [norms, weighted, top] = [0, 0, 0];
    own.forEach((gate, row) => {
      const x = Float64Array.from(input.subarray(row * width, (row + 1) * width));
      const [w1, w2, w3] = ["w1", "w2", "w3"].map((name) => lookUp(weights, `${path}.${name}.weight`)) as [
        Float32Array,
        Float32Array,
        Float32Array,
      ];
      const up = product(w3, x);
      const inner = product(w1, x).map((value, i) => (value / (1 + Math.exp(-value))) * (up[i] as number));
      const output = product(w2, inner);
      const norm = Math.hypot(...output);
      norms += norm;
      weighted += gate * norm;
      top = Math.max(top, ...output.map(Math.abs));
    });
    near([sums.norms, sums.weightedNorms, sums.largest], [norms, weighted, top], 1e-4 * (1 + norms));
  }
  const total = [...(collected.get(0) ?? [])].reduce((sum, { tokens }) => sum + tokens, 0);
  assert.equal(total, 3 * 8 * 2);
});

async function demo(t: TestContext, blocks: number): Promise<string> {
  const directory = join(temporaryDirectory(t), "demo");
  await writeShortDemo(directory, { blocks });
  await writeRandomIds(directory, { sequences: 3, tokens: 24, vocabulary: 4096 });
  return directory;
}

async function sequencesOf(model: string): Promise<readonly Int32Array[]> {
  return (await readTokenTensor({ file: join(model, "ids.safetensors"), tensor: "calib" })).rows;
}

function configOf(model: string, out: string | undefined, task: ScoringConfig["task"]): ScoringConfig {
  const calibration = { file: join(model, "ids.safetensors"), tensor: "calib" };
  return {
    model,
    out,
    task,
    calibration,
    nsamples: 3,
    seqlen: 24,
    seed: 0,
    device: "cpu",
    memoryBytes: 2 ** 26,
    force: false,
    resume: false,
  };
}

test("greedy criteria measure the very models that they would make", async (t) => {
  const model = await demo(t, 5);
  const scored = await pruneStructure(
    configOf(model, undefined, { of: "blocks", criterion: "kl", drop: 2, ratio: undefined }),
    createTestContext(),
  );
  const losses = await pruneStructure(
    configOf(model, undefined, { of: "blocks", criterion: "perplexity", drop: 1, ratio: undefined }),
    createTestContext(),
  );
  assert.deepEqual(
    scored.rounds?.map((round) => round.map(({ block }) => block).length),
    [3, 2],
  );
  const { plan } = scored;
  const sequences = await sequencesOf(model);
  await using dense = await openModel(model);
  await using reference = await evaluateWindows(
    dense,
    sequences,
    { memoryBytes: 2 ** 24, scratchFile: "/nowhere" },
    createTestContext(),
  );
  const measure = async (blocks: readonly number[]): Promise<{ kl: number; loss: number }> => {
    const out = join(temporaryDirectory(t), "out");
    const file = `${out}.json`;
    writeFileSync(file, JSON.stringify({ ...plan, drop: { blocks } }));
    await cutModel({ model, plan: file, out, force: false, resume: false }, createTestContext());
    await using cut = await openModel(out);
    await using evaluated = await evaluateWindows(
      cut,
      sequences,
      { memoryBytes: 2 ** 24, scratchFile: "/nowhere" },
      createTestContext(),
    );
    const loss = evaluated.windowLosses.reduce((sum, value) => sum + value, 0) / sequences.length;
    return { kl: (await compareEvaluated(reference, evaluated)).klDivergence.value, loss };
  };
  const [first, second] = scored.rounds ?? [];
  for (const { block, score } of [first?.[0], first?.[2]].filter((one) => one !== undefined)) {
    const { kl, loss } = await measure([block]);
    assert.ok(Math.abs(kl - score) < 1e-5, `${kl} ${score}`);
    const found = losses.rounds?.[0]?.find((one) => one.block === block);
    assert.ok(Math.abs(loss - (found?.score ?? 0)) < 1e-5, `${loss} ${found?.score}`);
  }
  const least = (round: typeof first): number => Math.min(...(round ?? []).map(({ score }) => score));
  assert.ok(Math.abs((await measure(scored.droppedBlocks)).kl - least(second)) < 1e-5);
});

test("one pass: influence, windows of angles, the tail; all keep the first and the last block", async (t) => {
  const model = await demo(t, 5);
  const run = (criterion: "influence" | "angular" | "tail"): Promise<StructureReport> =>
    pruneStructure(
      configOf(model, undefined, { of: "blocks", criterion, drop: 2, ratio: undefined }),
      createTestContext(),
    );
  const influence = await run("influence");
  const ranked = (influence.rounds?.[0] ?? []).toSorted((a, b) => a.score - b.score).map(({ block }) => block);
  assert.deepEqual(influence.droppedBlocks, ranked.slice(0, 2).toSorted());
  assert.deepEqual(
    influence.rounds?.[0]?.map(({ block }) => block),
    [1, 2, 3],
  );
  const angular = await run("angular");
  assert.deepEqual(
    angular.rounds?.[0]?.map(({ block }) => block),
    [1, 2],
  );
  const [best] = (angular.rounds?.[0] ?? []).toSorted((a, b) => a.score - b.score);
  assert.deepEqual(angular.droppedBlocks, [best?.block, (best?.block ?? 0) + 1]);
  assert.deepEqual((await run("tail")).droppedBlocks, [2, 3]);
});

test("width: blocks narrowed one after the other are the model that is written, nearer to the dense one than without a refit", async (t) => {
  const model = await demo(t, 2);
  const out = join(temporaryDirectory(t), "out");
  const task = { of: "width", criterion: "obs", ratio: 0.2, multiple: 64, isRefitted: true } as const;
  const report = await pruneStructure(configOf(model, out, task), createTestContext());
  assert.deepEqual(report.config, [{ path: ["intermediate_size"], from: 704, to: 576 }]);
  for (const { kept, error, cutError } of report.widths ?? []) {
    assert.equal(kept, 576);
    assert.ok(error < cutError && error > 0, `${error} ${cutError}`);
  }
  assert.equal((await verifyModel({ directory: out })).parameters, report.after.parameters);
  // A refit makes the outputs that it was fitted to nearer than cutting does, measured on the written file.
  await using written = await openModel(out);
  await using dense = await openModel(model);
  const sequences = await sequencesOf(model);
  await using reference = await evaluateWindows(
    dense,
    sequences,
    { memoryBytes: 2 ** 24, scratchFile: "/nowhere" },
    createTestContext(),
  );
  await using narrowed = await evaluateWindows(
    written,
    sequences,
    { memoryBytes: 2 ** 24, scratchFile: "/nowhere" },
    createTestContext(),
  );
  const fitted = (await compareEvaluated(reference, narrowed)).klDivergence.value;
  const bare = join(temporaryDirectory(t), "bare");
  await pruneStructure(configOf(model, bare, { ...task, isRefitted: false }), createTestContext());
  await using without = await openModel(bare);
  await using unfitted = await evaluateWindows(
    without,
    sequences,
    { memoryBytes: 2 ** 24, scratchFile: "/nowhere" },
    createTestContext(),
  );
  assert.ok(fitted < (await compareEvaluated(reference, unfitted)).klDivergence.value);
});

test("experts: the written mixture keeps those with the largest scores, and the table says so", async (t) => {
  const model = await fixture(t, "mixtral");
  await writeRandomIds(model, { sequences: 3, tokens: 24, vocabulary: 160 });
  const out = join(temporaryDirectory(t), "out");
  const task = { of: "experts", criterion: "reap", keep: undefined, ratio: 0.25 } as const;
  const report = await pruneStructure(configOf(model, out, task), createTestContext());
  assert.equal((await verifyModel({ directory: out })).experts, 3);
  for (const block of [0, 1, 2]) {
    const own = (report.experts ?? []).filter((one) => one.block === block && !one.isProtected);
    const [gone, kept] = [own.filter(({ isKept }) => !isKept), own.filter(({ isKept }) => isKept)];
    assert.equal(gone.length, 1);
    assert.ok(kept.every(({ score }) => score >= (gone[0]?.score ?? Infinity)));
  }
});

test("amounts that leave too little are refused before any work", async (t) => {
  const [model, mixtral] = [await demo(t, 4), await fixture(t, "mixtral")];
  const refused = (directory: string, task: ScoringConfig["task"], code: string): Promise<void> =>
    assert.rejects(pruneStructure(configOf(directory, undefined, task), createTestContext()), { code });
  await refused(model, { of: "blocks", criterion: "kl", drop: 3, ratio: undefined }, "E_DROP");
  await refused(model, { of: "experts", criterion: "reap", keep: 2, ratio: undefined }, "E_NO_EXPERTS");
  await refused(model, { of: "width", criterion: "obs", ratio: 0.01, multiple: 256, isRefitted: true }, "E_WIDTH");
  await refused(model, { of: "width", criterion: "obs", ratio: 0.9, multiple: 256, isRefitted: true }, "E_WIDTH");
  await refused(mixtral, { of: "experts", criterion: "reap", keep: 1, ratio: undefined }, "E_PLAN_EXPERTS");
  await refused(mixtral, { of: "experts", criterion: "reap", keep: 4, ratio: undefined }, "E_KEEP");
  await refused(mixtral, { of: "width", criterion: "obs", ratio: 0.2, multiple: 8, isRefitted: true }, "E_NO_CHANNELS");
});
