/**
 * Mixtures of experts: what the router decides, experts that no token reaches, both layouts on disk, what becomes of
 * starved experts, and how many graphs a deep model takes. Forwards and groups of these families are compared with
 * stored ones in families.test.ts.
 */
import assert from "node:assert/strict";
import { copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { EngineEvent, RunConfig, RunReport, StarvedTreatment } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError } from "../../src/errors.js";
import { borrowed, type HostArray } from "../../src/array.js";
import { GraphBuilder, type Value } from "../../src/graph/graph.js";
import type { Architecture, BlockSpec } from "../../src/model/architecture.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { withDefaults } from "../../src/model/class-defaults.js";
import { ConfigObject } from "../../src/model/config.js";
import { familyOf } from "../../src/model/families/registry.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { lookUp } from "../../src/look-up.js";
import { openModel } from "../../src/model/open-model.js";
import type { RouterSpec } from "../../src/model/moe.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { inspectModel } from "../../src/inspection/inspect-model.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { copyFixture, fixturePath, readJson, TOLERANCE } from "../helpers/architectures.js";
import { runBlock } from "../helpers/forward.js";
import { encodeSafetensors, temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";
import { readTensors, relativeError, tensorOf, type StoredTensor } from "../helpers/tensors.js";

/** Routers by hand, to be compared with what the families read from their configs. */
const ROUTERS: readonly { readonly folder: string; readonly experts: string; readonly router: RouterSpec }[] = [
  {
    folder: "mixtral",
    experts: "block_sparse_moe.experts",
    router: { path: "block_sparse_moe.gate", experts: 4, chosen: 2, isRenormalized: true },
  },
  {
    folder: "qwen2_moe",
    experts: "mlp.experts",
    router: { path: "mlp.gate", experts: 8, chosen: 2, isRenormalized: false },
  },
  {
    folder: "qwen3_moe",
    experts: "mlp.experts",
    router: { path: "mlp.gate", experts: 8, chosen: 3, isRenormalized: true },
  },
  {
    folder: "deepseek_v2",
    experts: "mlp.experts",
    router: {
      path: "mlp.gate",
      experts: 8,
      chosen: 3,
      isRenormalized: false,
      scale: 1.7,
      limit: { groups: 4, kept: 2 },
    },
  },
  {
    folder: "deepseek_v2_lite_style",
    experts: "mlp.experts",
    router: { path: "mlp.gate", experts: 8, chosen: 2, isRenormalized: false, scale: 1 },
  },
];

function goldenOf(folder: string): Map<string, StoredTensor> {
  return readTensors(fixturePath(folder, "golden.safetensors"));
}

/** What block 1's router reads, put together from its experts' rows: every token goes to some expert. */
function routerInput(
  golden: ReadonlyMap<string, StoredTensor>,
  experts: string,
): { rows: number; values: Float32Array } {
  const [batch = 0, tokens = 0, hidden = 0] = tensorOf(golden, "embed").shape;
  const values = new Float32Array(batch * tokens * hidden).fill(NaN);
  for (const [name, { values: routed }] of golden) {
    const match = /^routing\/(.*)\/tokens$/.exec(name);
    if (match?.[1]?.includes(experts) !== true) continue;
    const input = ["gate_proj", "w1"].map((linear) => golden.get(`inputs/${match[1]}.${linear}`)).find(Boolean);
    assert.ok(input);
    routed.forEach((token, row) =>
      values.set(Float32Array.from(input.values.subarray(row * hidden, (row + 1) * hidden)), token * hidden),
    );
  }
  assert.ok(values.every(Number.isFinite), "some token goes to no expert");
  return { rows: batch * tokens, values };
}

for (const { folder, experts, router } of ROUTERS) {
  test(`${folder}: the router chooses the stored tokens for every expert, with the stored weights`, async () => {
    const golden = goldenOf(folder);
    await using model = await openModel(fixturePath(folder));
    const block = model.architecture.blocks[1];
    assert.ok(block);
    const { tensor, shape } = lookUp(block.tensors, `${router.path}.weight`);
    const { rows, values } = routerInput(golden, experts);
    const hidden = shape[1] ?? 0;
    const graph = new GraphBuilder("router");
    const { path: _, experts: count, ...attributes } = router;
    const operands = [graph.input("input", [rows, hidden]), graph.input("weight", shape)];
    const [chosen, weights] = graph.applyAll("router", operands, attributes) as [Value, Value];
    graph.output("chosen", chosen);
    graph.output("weights", weights);
    await using executor = new OnnxExecutor();
    const program = await executor.compile(graph.build());
    const results = await program.run(
      new Map([
        ["input", borrowed("input", values, [rows, hidden])],
        ["weight", borrowed("weight", await model.checkpoint.readTensor(tensor), shape)],
      ]),
    );
    const choices = [...(lookUp(results, "chosen") as HostArray).values].map(Number);
    const shares = [...(lookUp(results, "weights") as HostArray).values].map(Number);
    for (let expert = 0; expert < count; expert++) {
      const places = choices.flatMap((choice, place) => (choice === expert ? [place] : []));
      const path = `routing/${block.name}.${experts}.${expert}`;
      const tokens = tensorOf(golden, `${path}/tokens`).values;
      assert.deepEqual(
        places.map((place) => Math.floor(place / router.chosen)),
        [...tokens],
        path,
      );
      if (tokens.length === 0) continue;
      const found = places.map((place) => shares[place] ?? NaN);
      const error = relativeError(found, tensorOf(golden, `${path}/weights`).values);
      assert.ok(error < TOLERANCE, `${path}/weights: ${error}`);
    }
  });
}

test("an expert without tokens gives empty inputs and zero statistics, and with the router bypassed sees them all", async () => {
  const golden = goldenOf("qwen2_moe");
  const [, batch = 0, tokens = 0, hiddenSize = 0] = tensorOf(golden, "hidden_states").shape;
  const size = batch * tokens * hiddenSize;
  const hidden = Float32Array.from(tensorOf(golden, "hidden_states").values.subarray(0, size));
  await using model = await openModel(fixturePath("qwen2_moe"));
  const block = model.architecture.blocks[1] as BlockSpec;
  const weights = await readBlockWeights(model.checkpoint, block);
  await using runner = new BlockRunner(model.architecture);
  const groups = ["expert-5-input", "expert-5-output"];
  const run = (kind: "inputs" | "column-norms" | "gram", isRoutingBypassed: boolean) =>
    runBlock(
      runner,
      block,
      weights,
      hidden,
      { batch, tokens },
      {
        hidden: isRoutingBypassed,
        taps: { kind, groups, ...(isRoutingBypassed ? { isRoutingBypassed } : {}) },
      },
    );
  for (const kind of ["inputs", "column-norms", "gram"] as const) {
    for (const { rows, parts } of (await run(kind, false)).taps.values()) {
      assert.equal(rows, 0, kind);
      assert.ok(parts.length > 0 && parts.every((part) => part.every((value) => value === 0)), kind);
    }
  }
  const bypassed = await run("inputs", true);
  const input = lookUp(bypassed.taps, "expert-5-input");
  assert.equal(input.rows, batch * tokens);
  const shared = tensorOf(golden, `inputs/${block.name}.mlp.shared_expert.gate_proj`).values;
  assert.ok(relativeError(input.parts[0] ?? [], shared) < TOLERANCE);
  assert.equal(lookUp(bypassed.taps, "expert-5-output").rows, batch * tokens);
  const output = tensorOf(golden, "hidden_states").values.subarray(size, 2 * size);
  assert.ok(
    relativeError(bypassed.hidden ?? [], output) < TOLERANCE,
    "bypassing must not change what the block returns",
  );
});

/** The stored token ids of a fixture as calibration data. */
function calibrationOf(t: TestContext, folder: string): Pick<RunConfig, "calibration" | "nsamples" | "seqlen"> {
  const { shape, values } = tensorOf(goldenOf(folder), "input_ids");
  const [nsamples = 0, seqlen = 0] = shape;
  const file = join(temporaryDirectory(t), "ids.safetensors");
  const ids = new Uint8Array(Int32Array.from(values).buffer);
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape, values: ids } }));
  return { calibration: { file }, nsamples, seqlen };
}

interface Pruned {
  readonly report: RunReport;
  readonly out: string;
  readonly warnings: readonly string[];
}

async function prune(t: TestContext, model: string, folder: string, config: Partial<RunConfig>): Promise<Pruned> {
  const out = join(temporaryDirectory(t), "out");
  const context = createTestContext();
  const warnings: string[] = [];
  const logger = { ...context.logger, warn: (message: string) => void warnings.push(message) };
  const run = demoRun(out, { model, ...calibrationOf(t, folder), ...config });
  return { report: await pruneModel(run, { ...context, logger }), out, warnings };
}

function allTensors(directory: string, files: readonly string[]): Map<string, StoredTensor> {
  return new Map(files.flatMap((file) => [...readTensors(join(directory, file))]));
}

const MIXTRAL_FILES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/** Which of a row's weights go under wanda: the half of smallest |w| · ‖x‖, ties from the lower input. */
function wandaZeros(weight: Float64Array, inputs: ArrayLike<number>, inFeatures: number): boolean[] {
  const norms = new Float64Array(inFeatures);
  for (let i = 0; i < inputs.length; i++) norms[i % inFeatures] = (norms[i % inFeatures] ?? 0) + (inputs[i] ?? 0) ** 2;
  const zeros: boolean[] = [];
  for (let first = 0; first < weight.length; first += inFeatures) {
    const scores = Array.from(norms, (norm, i) => Math.abs(weight[first + i] ?? 0) * Math.sqrt(norm));
    const order = scores.map((_, i) => i).toSorted((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
    const gone = new Set(order.slice(0, inFeatures / 2));
    scores.forEach((_, i) => zeros.push(gone.has(i)));
  }
  return zeros;
}

test("an expert is pruned with the statistics of exactly its routed tokens, and their number is in the report", async (t) => {
  const golden = goldenOf("deepseek_v2");
  const { report, out } = await prune(t, fixturePath("deepseek_v2"), "deepseek_v2", { propagation: "dense" });
  const dense = allTensors(fixturePath("deepseek_v2"), ["model.safetensors"]);
  const pruned = allTensors(out, ["model.safetensors"]);
  const layers = new Map(report.layers.map((layer) => [layer.name, layer]));
  let fed = 0;
  for (let expert = 0; expert < 8; expert++) {
    const path = `model.layers.1.mlp.experts.${expert}`;
    const { values: tokens } = tensorOf(golden, `routing/${path}/tokens`);
    for (const linear of ["gate_proj", "up_proj", "down_proj"])
      assert.equal(layers.get(`${path}.${linear}`)?.tokens, tokens.length, `${path}.${linear}`);
    // 16 inputs: what has fewer tokens starves and is another test's business.
    assert.equal(layers.get(`${path}.down_proj`)?.starved, tokens.length < 16 ? "all-tokens" : undefined, path);
    if (tokens.length < 16) continue;
    fed++;
    const zeros = wandaZeros(
      tensorOf(dense, `${path}.down_proj.weight`).values,
      tensorOf(golden, `inputs/${path}.down_proj`).values,
      16,
    );
    const found = Array.from(tensorOf(pruned, `${path}.down_proj.weight`).values, (value) => value === 0);
    assert.deepEqual(found, zeros, path);
  }
  assert.ok(fed >= 4, "the fixture routes enough tokens to several experts");
  const shared = layers.get("model.layers.1.mlp.shared_experts.down_proj");
  assert.ok(shared !== undefined && shared.tokens === undefined && shared.starved === undefined);
});

const TREATMENTS: readonly StarvedTreatment[] = ["all-tokens", "magnitude", "skip"];

for (const method of ["wanda", "sparsegpt"]) {
  for (const starved of TREATMENTS) {
    test(`${method} with --starved ${starved}: done, reported, said in one line, and never NaN`, async (t) => {
      // Expert 5 of layer 1 gets no token; no expert gets as many as the 40 inputs of its gate.
      const config = { method, starved, propagation: "dense" } as const;
      const { report, out, warnings } = await prune(t, fixturePath("qwen2_moe"), "qwen2_moe", config);
      const dense = allTensors(fixturePath("qwen2_moe"), ["model.safetensors"]);
      const pruned = allTensors(out, ["model.safetensors"]);
      for (const [name, { values }] of pruned) assert.ok(values.every(Number.isFinite), name);
      const empty = report.layers.filter(({ name }) => name.startsWith("model.layers.1.mlp.experts.5."));
      assert.deepEqual(
        empty.map((layer) => [layer.tokens, layer.starved]),
        [1, 2, 3].map(() => [0, starved]),
      );
      const routed = report.layers.filter(({ tokens }) => tokens !== undefined);
      assert.equal(routed.length, 2 * 8 * 3);
      for (const { name, zeros, elements } of routed.filter((layer) => layer.starved !== undefined)) {
        const tensor = `${name}.weight`;
        assert.equal(zeros, starved === "skip" ? 0 : elements / 2, name);
        if (starved === "skip") assert.deepEqual(tensorOf(pruned, tensor).values, tensorOf(dense, tensor).values);
      }
      assert.equal(warnings.length, 1, warnings.join("\n"));
      assert.match(warnings[0] ?? "", /^\d+ linears of experts saw fewer tokens than they have inputs \(fewest: 0\)/);
      for (const router of ["mlp.gate", "mlp.shared_expert_gate"]) {
        const tensor = `model.layers.1.${router}.weight`;
        assert.deepEqual(tensorOf(pruned, tensor).values, tensorOf(dense, tensor).values, tensor);
      }
    });
  }
}

test("all-tokens prunes an expert without tokens by what all tokens say, magnitude by its weights alone", async (t) => {
  const path = "model.layers.1.mlp.experts.5.gate_proj";
  const dense = tensorOf(allTensors(fixturePath("qwen2_moe"), ["model.safetensors"]), `${path}.weight`).values;
  const shared = tensorOf(goldenOf("qwen2_moe"), "inputs/model.layers.1.mlp.shared_expert.gate_proj").values;
  const zerosWith = async (starved: StarvedTreatment): Promise<boolean[]> => {
    const { out } = await prune(t, fixturePath("qwen2_moe"), "qwen2_moe", { starved, propagation: "dense" });
    const { values } = tensorOf(allTensors(out, ["model.safetensors"]), `${path}.weight`);
    return Array.from(values, (value) => value === 0);
  };
  assert.deepEqual(await zerosWith("all-tokens"), wandaZeros(dense, shared, 40));
  const threshold = Math.abs(dense.toSorted((a, b) => Math.abs(a) - Math.abs(b))[dense.length / 2] ?? NaN);
  assert.deepEqual(
    await zerosWith("magnitude"),
    Array.from(dense, (value) => Math.abs(value) < threshold),
  );
});

for (const propagation of ["block", "dense", "group"] as const) {
  test(`stopped after a block, a resumed run with ${propagation} propagation gives an uninterrupted one's report and values`, async (t) => {
    const config = { method: "sparsegpt", propagation };
    const whole = await prune(t, fixturePath("qwen2_moe"), "qwen2_moe", config);
    const out = join(temporaryDirectory(t), "out");
    const run = demoRun(out, { model: fixturePath("qwen2_moe"), ...calibrationOf(t, "qwen2_moe"), ...config });
    let finished = 0;
    const context = createTestContext({ stop: { requested: () => (finished === 2 ? "SIGTERM" : undefined) } });
    const emit = ({ type }: EngineEvent): void => void (finished += type === "block" ? 1 : 0);
    await assert.rejects(pruneModel(run, { ...context, emit }), InterruptedError);
    const resumed = await pruneModel({ ...run, resume: true }, createTestContext());
    assert.equal(resumed.resumedBlocks, 2);
    const facts = ({ layers }: RunReport): unknown[] => layers.map(({ seconds: _seconds, ...layer }) => layer);
    assert.deepEqual(facts(resumed), facts(whole.report));
    assert.deepEqual(readTensors(join(out, "model.safetensors")), readTensors(join(whole.out, "model.safetensors")));
  });
}

/** Stacked experts with inputs before outputs, as some releases store them. */
async function writeTransposed(t: TestContext, folder: string): Promise<string> {
  const directory = temporaryDirectory(t);
  const stored = readTensors(fixturePath(folder, "fused/model.safetensors"));
  const tensors: Record<string, TestTensor> = {};
  for (const [name, { shape, values }] of stored) {
    const [experts = 0, rows = 0, columns = 0] = shape;
    const isStack = shape.length === 3;
    const transposed = isStack
      ? Float32Array.from({ length: values.length }, (_, i) => {
          const [expert, column, row] = [Math.floor(i / (rows * columns)), Math.floor(i / rows) % columns, i % rows];
          return values[(expert * rows + row) * columns + column] ?? NaN;
        })
      : Float32Array.from(values);
    tensors[name] = { dtype: "F32", shape: isStack ? [experts, columns, rows] : shape, values: transposed };
  }
  await writeCheckpoint(directory, { tensors, config: readJson<object>(fixturePath(folder, "config.json")) });
  return directory;
}

function fusedFixture(t: TestContext, folder: string): string {
  const directory = temporaryDirectory(t);
  copyFileSync(fixturePath(folder, "fused/model.safetensors"), join(directory, "model.safetensors"));
  copyFileSync(fixturePath(folder, "config.json"), join(directory, "config.json"));
  return directory;
}

interface LayoutCase {
  readonly folder: string;
  readonly files: readonly string[];
  /** Where a separate expert's matrix is in the stacked tensors. */
  readonly separate: (block: string, expert: number, linear: "gate" | "up" | "down") => string;
}

const LAYOUTS: readonly LayoutCase[] = [
  {
    folder: "mixtral",
    files: MIXTRAL_FILES,
    separate: (block, expert, linear) =>
      `${block}.block_sparse_moe.experts.${expert}.${{ gate: "w1", up: "w3", down: "w2" }[linear]}.weight`,
  },
  {
    folder: "qwen3_moe",
    files: ["model.safetensors"],
    separate: (block, expert, linear) => `${block}.mlp.experts.${expert}.${linear}_proj.weight`,
  },
];

/** All linears of all experts, by the names stacked ones go by, from either stacked form. */
function unstack(tensors: ReadonlyMap<string, StoredTensor>, isTransposed: boolean): Map<string, number[]> {
  const matrices = new Map<string, number[]>();
  for (const [name, { shape, values }] of tensors) {
    const match = /^(model\.layers\.\d+)\.mlp\.experts\.(gate_up|down)_proj$/.exec(name);
    if (match === null) continue;
    const [experts = 0, a = 0, b = 0] = shape;
    const [outputs, inputs] = isTransposed ? [b, a] : [a, b];
    const at = (expert: number, output: number, input: number): number =>
      values[expert * a * b + (isTransposed ? input * b + output : output * b + input)] ?? NaN;
    const parts = match[2] === "down" ? (["down"] as const) : (["gate", "up"] as const);
    for (let expert = 0; expert < experts; expert++) {
      parts.forEach((part, half) => {
        const rows = outputs / parts.length;
        const matrix = Array.from({ length: rows * inputs }, (_, i) =>
          at(expert, half * rows + Math.floor(i / inputs), i % inputs),
        );
        matrices.set(`${match[1] ?? ""} ${expert} ${part}`, matrix);
      });
    }
  }
  return matrices;
}

for (const { folder, files, separate } of LAYOUTS) {
  for (const method of ["wanda", "sparsegpt"]) {
    test(`${folder}: ${method} gives the same values whether experts are stored one by one, stacked, or stacked transposed`, async (t) => {
      const config = { method, pattern: parsePattern("2:4") };
      const plain = await copyFixture(
        t,
        { folder, directory: fixturePath(folder), configs: [], skip: false },
        "config.json",
      );
      const [one, stacked, transposed] = [
        await prune(t, plain, folder, config),
        await prune(t, fusedFixture(t, folder), folder, config),
        await prune(t, await writeTransposed(t, folder), folder, config),
      ];
      const expected = allTensors(one.out, files);
      for (const [layout, isTransposed] of [
        [stacked, false],
        [transposed, true],
      ] as const) {
        const tensors = allTensors(layout.out, ["model.safetensors"]);
        const matrices = unstack(tensors, isTransposed);
        assert.ok(matrices.size >= 4 * 2 * 3);
        for (const [key, matrix] of matrices) {
          const [block = "", expert = "", linear] = key.split(" ") as [string, string, "gate" | "up" | "down"];
          assert.deepEqual(matrix, [...tensorOf(expected, separate(block, Number(expert), linear)).values], key);
        }
        const router = /\.(mlp|block_sparse_moe)\.gate\.weight$/;
        for (const [name, { values }] of tensors) {
          if (name.includes(".experts.") || router.test(name)) continue;
          assert.deepEqual(values, tensorOf(expected, name).values, name);
        }
        const names = layout.report.layers.map(({ name }) => name);
        assert.ok(
          names.includes("model.layers.1.mlp.experts.3.gate") && names.includes("model.layers.1.mlp.experts.0.down"),
        );
        const { sparsity, tensors: inspected } = await inspectModel({ directory: layout.out });
        assert.equal(sparsity, 0.5);
        const experts = inspected.find(({ name }) => name === "model.layers.1.mlp.experts.gate_up_proj");
        assert.deepEqual(experts?.patterns, ["2:4", "4:8"]);
      }
    });
  }
}

test("stacked experts give the stored hidden states", async (t) => {
  for (const { folder } of LAYOUTS) {
    const golden = goldenOf(folder);
    const { shape, values } = tensorOf(golden, "hidden_states");
    const [layers = 0, batch = 0, tokens = 0, hiddenSize = 0] = shape;
    const size = batch * tokens * hiddenSize;
    for (const directory of [fusedFixture(t, folder), await writeTransposed(t, folder)]) {
      await using model = await openModel(directory);
      await using runner = new BlockRunner(model.architecture);
      let hidden: Float32Array | undefined = Float32Array.from(tensorOf(golden, "embed").values);
      for (let layer = 0; layer < layers; layer++) {
        const block = model.architecture.blocks[layer] as BlockSpec;
        const weights = await readBlockWeights(model.checkpoint, block);
        const request = { hidden: true, taps: undefined };
        ({ hidden } = await runBlock(runner, block, weights, hidden ?? new Float32Array(), { batch, tokens }, request));
        const error = relativeError(hidden ?? [], values.subarray(layer * size, (layer + 1) * size));
        assert.ok(error < TOLERANCE, `${folder} block ${layer}: ${error}`);
      }
    }
  }
});

/** A description without a checkpoint: the fixture's config with some keys changed. */
function describeDeep(folder: string, changes: Readonly<Record<string, unknown>>): Architecture {
  const config = { ...readJson<Record<string, unknown>>(fixturePath(folder, "config.json")), ...changes };
  const modelType = String(config["model_type"]);
  const family = familyOf(modelType);
  assert.ok(family);
  return family.describe(
    withDefaults({ values: new ConfigObject(config, "config.json"), modelType, text: "" }),
    () => true,
    () => undefined,
  );
}

const DEEP: readonly { readonly title: string; readonly architecture: () => Architecture }[] = [
  {
    title: "3 dense and 58 sparse blocks",
    architecture: () => describeDeep("deepseek_v2", { num_hidden_layers: 61, first_k_dense_replace: 3 }),
  },
  {
    title: "61 blocks of alternating windows",
    architecture: () => describeDeep("gemma2", { num_hidden_layers: 61, layer_types: null }),
  },
];

for (const { title, architecture: describe } of DEEP) {
  test(`the forward of ${title} compiles one graph per distinct shape and request`, async () => {
    const architecture = describe();
    assert.equal(architecture.blocks.length, 61);
    await using runner = new BlockRunner(architecture, { threads: 1 });
    const tokens = 5;
    let hidden = new Float32Array(2 * tokens * architecture.hiddenSize).map((_, i) => Math.sin(i));
    for (const block of architecture.blocks) {
      const weights = new Map(
        [...block.tensors].map(([role, { shape }]) => [
          role,
          new Float32Array(shape.reduce((product, n) => product * n, 1)).map((_, i) => 0.1 * Math.cos(i + 1)),
        ]),
      );
      const groups = block.groups.map(({ name }) => name);
      await runBlock(
        runner,
        block,
        weights,
        hidden,
        { batch: 2, tokens },
        { hidden: false, taps: { kind: "column-norms", groups } },
      );
      const result = await runBlock(
        runner,
        block,
        weights,
        hidden,
        { batch: 2, tokens },
        { hidden: true, taps: undefined },
      );
      assert.ok(result.hidden?.every(Number.isFinite), block.name);
      hidden = result.hidden as Float32Array<ArrayBuffer>;
    }
    assert.equal(new Set(architecture.blocks.map(({ shapeKey }) => shapeKey)).size, 2);
    assert.equal(runner.sessionsCompiled, 2 * 2);
  });
}

test("the fixtures of both layouts hold the same weights", () => {
  // What the comparisons above rest on.
  for (const { folder, files, separate } of LAYOUTS) {
    const plain = allTensors(fixturePath(folder), files);
    const matrices = unstack(readTensors(fixturePath(folder, "fused/model.safetensors")), false);
    for (const [key, matrix] of matrices) {
      const [block = "", expert = "", linear] = key.split(" ") as [string, string, "gate" | "up" | "down"];
      assert.deepEqual(matrix, [...tensorOf(plain, separate(block, Number(expert), linear)).values], key);
    }
  }
});
