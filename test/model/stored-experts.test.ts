/**
 * Other forms in which the experts of a family are on disk than its fixture's: stacked where they are one by one, and
 * packed to four bits; weights of eight bits with scales.
 */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { rewrittenFiles } from "../../src/checkpoint/dense-copy.js";
import { unpack } from "../../src/checkpoint/packed.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { lookUp } from "../../src/look-up.js";
import { prunableLinears, type BlockSpec, type InputGroup, type LinearSpec } from "../../src/model/architecture.js";
import { takeMatrix } from "../../src/model/logical-matrix.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { fixturePath, readJson, TOLERANCE } from "../helpers/architectures.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { runBlock } from "../helpers/forward.js";
import { demoRun } from "../helpers/runs.js";
import { readTensors, relativeError, tensorOf, type StoredTensor } from "../helpers/tensors.js";

type Tensors = Record<string, TestTensor>;

async function write(t: TestContext, folder: string, tensors: Tensors): Promise<string> {
  const directory = temporaryDirectory(t);
  await writeCheckpoint(directory, { tensors, config: readJson<object>(fixturePath(folder, "config.json")) });
  return directory;
}

function storedIn(folder: string): Map<string, StoredTensor> {
  return readTensors(fixturePath(folder, "model.safetensors"));
}

const plain = ({ shape, values }: StoredTensor): TestTensor => ({
  dtype: "F32",
  shape,
  values: Float32Array.from(values),
});

/** What a block returns of the stored states that enter it. */
async function outputOf(model: Model, block: BlockSpec, states: Float64Array): Promise<Float32Array> {
  await using runner = new BlockRunner(model.architecture);
  const weights = await readBlockWeights(model.checkpoint, block);
  const tokens = 24;
  const batch = states.length / tokens / model.architecture.hiddenSize;
  const request = { hidden: true, taps: undefined };
  const { hidden } = await runBlock(runner, block, weights, Float32Array.from(states), { batch, tokens }, request);
  assert.ok(hidden);
  return hidden;
}

/** Module of the experts, and names of gate, up and down, as they are stored one by one and where stacked ones are. */
const SEPARATE: Readonly<Record<string, readonly [from: string, to: string, gate: string, up: string, down: string]>> =
  {
    qwen3_next: ["mlp", "mlp", "gate_proj", "up_proj", "down_proj"],
    qwen3_5_moe_text: ["mlp", "mlp", "gate_proj", "up_proj", "down_proj"],
    minimax: ["block_sparse_moe", "mlp", "w1", "w3", "w2"],
  };

/** [experts, 2 · width, hidden] and [experts, hidden, width], gates first. */
function stack(stored: ReadonlyMap<string, StoredTensor>, folder: string): Tensors {
  const [from, to, gate, up, down] = lookUp(new Map(Object.entries(SEPARATE)), folder);
  const tensors: Tensors = {};
  const experts = new Map<string, StoredTensor[]>();
  for (const [name, tensor] of stored) {
    const match = /^(.*)\.experts\.(\d+)\.(\w+)\.weight$/.exec(name);
    if (match === null) {
      tensors[name.replace(`.${from}.gate.`, `.${to}.gate.`)] = plain(tensor);
      continue;
    }
    const key = `${(match[1] ?? "").replace(from, to)} ${match[3] ?? ""}`;
    (experts.get(key) ?? experts.set(key, []).get(key) ?? [])[Number(match[2])] = tensor;
  }
  const joined = (name: string, rows: readonly (readonly StoredTensor[])[]): void => {
    const each = rows.map((parts) => Float64Array.from(parts.flatMap(({ values }) => [...values])));
    const columns = rows[0]?.[0]?.shape[1] ?? 0;
    const shape = [each.length, (each[0]?.length ?? 0) / columns, columns];
    tensors[name] = { dtype: "F32", shape, values: Float32Array.from(each.flatMap((values) => [...values])) };
  };
  for (const module of new Set([...experts.keys()].map((key) => key.split(" ")[0] as string))) {
    const of = (name: string): StoredTensor[] => lookUp(experts, `${module} ${name}`);
    joined(
      `${module}.experts.gate_up_proj`,
      of(gate).map((first, expert) => [first, of(up)[expert] as StoredTensor]),
    );
    joined(
      `${module}.experts.down_proj`,
      of(down).map((each) => [each]),
    );
  }
  return tensors;
}

for (const folder of Object.keys(SEPARATE)) {
  test(`${folder}: experts that are stacked give what those stored one by one do`, async (t) => {
    await using model = await openModel(await write(t, folder, stack(storedIn(folder), folder)));
    const golden = readTensors(fixturePath(folder, "golden.safetensors"));
    const block = model.architecture.blocks[1] as BlockSpec;
    assert.ok(block.tensors.has("mlp.experts.gate_up_proj"));
    const found = await outputOf(model, block, tensorOf(golden, "block/0").values);
    const error = relativeError(found, tensorOf(golden, "block/1").values);
    assert.ok(error < TOLERANCE, String(error));
  });
}

/** A four-bit float by its definition: a sign, two bits of exponent with a bias of 1, one of fraction. */
function valueOf(code: number): number {
  const [sign, exponent, fraction] = [code >> 3, (code >> 1) & 3, code & 1];
  const magnitude = exponent === 0 ? fraction / 2 : 2 ** (exponent - 1) * (1 + fraction / 2);
  return sign === 1 ? -magnitude : magnitude;
}

test("all codes and scales of packed groups are what the format says", () => {
  const blocks = Uint8Array.from({ length: 32 }, (_, byte) => (byte % 16) | ((15 - (byte % 16)) << 4));
  const out = new Float32Array(64);
  unpack(blocks, Uint8Array.of(127, 120), out);
  out.forEach((value, i) => {
    const code = i % 2 === 0 ? (i / 2) % 16 : 15 - (((i - 1) / 2) % 16);
    assert.equal(value, Math.fround(valueOf(code) * (i < 32 ? 1 : 2 ** -7)), `value ${i}`);
  });
  const nothing = new Float32Array(32);
  unpack(blocks.subarray(0, 16), Uint8Array.of(255), nothing);
  assert.ok(nothing.every(Number.isNaN));
});

/** A stack's matrices as packed pairs [experts, outputs, groups, 16], of bytes that chance gives, and as the library has them. */
function pack(
  name: string,
  [experts = 0, inputs = 0, outputs = 0]: readonly number[],
): { packed: Tensors; dense: Tensors } {
  const groups = inputs / 32;
  let state = inputs;
  const random = (): number => (state = (state * 48271) % 2147483647);
  const blocks = Uint8Array.from({ length: experts * outputs * groups * 16 }, () => random() % 256);
  const scales = Uint8Array.from({ length: experts * outputs * groups }, () => 122 + (random() % 3));
  const values = new Float32Array(experts * inputs * outputs);
  for (let expert = 0; expert < experts; expert++)
    for (let output = 0; output < outputs; output++)
      for (let input = 0; input < inputs; input++) {
        const group = (expert * outputs + output) * groups + Math.floor(input / 32);
        const byte = blocks[group * 16 + Math.floor((input % 32) / 2)] as number;
        const code = input % 2 === 0 ? byte & 15 : byte >> 4;
        values[(expert * inputs + input) * outputs + output] = valueOf(code) * 2 ** ((scales[group] as number) - 127);
      }
  return {
    packed: {
      [`${name}_blocks`]: { dtype: "U8", shape: [experts, outputs, groups, 16], values: blocks },
      [`${name}_scales`]: { dtype: "U8", shape: [experts, outputs, groups], values: scales },
    },
    dense: { [name]: { dtype: "F32", shape: [experts, inputs, outputs], values } },
  };
}

async function packedAndDense(t: TestContext): Promise<readonly [packed: string, dense: string]> {
  const [packed, dense]: [Tensors, Tensors] = [{}, {}];
  for (const [name, tensor] of storedIn("gpt_oss")) {
    const isStack = /experts\.(gate_up|down)_proj$/.test(name);
    const both = isStack
      ? pack(name, tensor.shape)
      : { packed: { [name]: plain(tensor) }, dense: { [name]: plain(tensor) } };
    Object.assign(packed, both.packed);
    Object.assign(dense, both.dense);
  }
  return [await write(t, "gpt_oss", packed), await write(t, "gpt_oss", dense)];
}

test("gpt_oss: packed experts are those of the dense checkpoint, linear by linear and in a forward", async (t) => {
  const [packed, dense] = await packedAndDense(t);
  await using one = await openModel(packed);
  await using other = await openModel(dense);
  const states = tensorOf(readTensors(fixturePath("gpt_oss", "golden.safetensors")), "block/0").values;
  const [block, same] = [one, other].map((model) => model.architecture.blocks[1]) as [BlockSpec, BlockSpec];
  const [weights, expected] = [
    await readBlockWeights(one.checkpoint, block),
    await readBlockWeights(other.checkpoint, same),
  ];
  const pairs = block.groups.flatMap((group, index) =>
    group.linears.map(
      (linear, place) => [linear, (same.groups[index] as InputGroup).linears[place] as LinearSpec] as const,
    ),
  );
  for (const [linear, counterpart] of pairs) {
    assert.equal(linear.name, counterpart.name);
    const matrixOf = (spec: BlockSpec, values: typeof weights, { role, ...place }: LinearSpec): Float32Array =>
      takeMatrix(lookUp(values, role), lookUp(spec.tensors, role).shape, place).map((value) => value + 0); // no -0
    assert.deepEqual(matrixOf(block, weights, linear), matrixOf(same, expected, counterpart), linear.name);
  }
  assert.ok(pairs.some(([linear]) => linear.slab !== undefined));
  const error = relativeError(await outputOf(one, block, states), await outputOf(other, same, states));
  assert.ok(error < 1e-5, String(error));
});

/** Weights of the decoder's linears as codes of eight bits, with a scale for each block of 128 × 128 or each row. */
function inEightBits(stored: ReadonlyMap<string, StoredTensor>, scales: "blocks" | "rows"): Tensors {
  const tensors: Tensors = {};
  for (const [name, tensor] of stored) {
    const [rows = 0, columns = 0] = tensor.shape;
    if (!/layers\..*proj\.weight$/.test(name)) {
      tensors[name] = plain(tensor);
      continue;
    }
    const shape = scales === "rows" ? [rows, 1] : [Math.ceil(rows / 128), Math.ceil(columns / 128)];
    const count = (shape[0] as number) * (shape[1] as number);
    const codes = Uint8Array.from(tensor.values, (value, i) => 8 + ((i * 29) % 100) + (value < 0 ? 128 : 0));
    tensors[name] = { dtype: "F8_E4M3", shape: tensor.shape, values: codes };
    tensors[`${name}_scale${scales === "rows" ? "" : "_inv"}`] = {
      dtype: "F32",
      shape,
      values: Float32Array.from({ length: count }, (_, i) => 0.001 * (1 + (i % 7))),
    };
  }
  return tensors;
}

const PACKED: readonly (readonly [title: string, folder: string, tensors: () => Tensors])[] = [
  [
    "MXFP4",
    "gpt_oss",
    () => {
      const tensors: Tensors = {};
      for (const [name, tensor] of storedIn("gpt_oss"))
        Object.assign(
          tensors,
          /experts\.(gate_up|down)_proj$/.test(name) ? pack(name, tensor.shape).packed : { [name]: plain(tensor) },
        );
      return tensors;
    },
  ],
  ["FP8 with a scale for each block", "qwen3", () => inEightBits(storedIn("qwen3"), "blocks")],
  ["FP8 with a scale for each row", "qwen3", () => inEightBits(storedIn("qwen3"), "rows")],
];

for (const [title, folder, tensors] of PACKED) {
  test(`${folder} stored as ${title}: pruned, the output has its weights as BF16 and says nothing of a quantisation`, async (t) => {
    const model = temporaryDirectory(t);
    const config = {
      ...readJson<object>(fixturePath(folder, "config.json")),
      quantization_config: { quant_method: "x" },
    };
    await writeCheckpoint(model, { tensors: tensors(), config });
    const out = join(temporaryDirectory(t), "out");
    const ids = { file: fixturePath(folder, "golden.safetensors"), tensor: "input_ids" };
    const run = demoRun(out, { model, calibration: ids, nsamples: 2, seqlen: 16, sparsity: 0.5 });
    await using source = await openModel(model);
    const sizes = await rewrittenFiles(source.checkpoint);
    await pruneModel(run, createTestContext());
    await using pruned = await openModel(out);
    assert.equal(pruned.checkpoint.packed.size, 0);
    assert.ok(!("quantization_config" in readJson<object>(join(out, "config.json"))));
    for (const name of ["model.safetensors", "config.json"])
      assert.equal(sizes.get(name)?.sizeBytes, statSync(join(out, name)).size, name);
    const gone = [...source.checkpoint.tensors.keys()].filter((name) => !pruned.checkpoint.tensors.has(name));
    assert.ok(
      gone.every((name) => /(_blocks|_scales|_scale|_scale_inv)$/.test(name)),
      gone.join(),
    );
    const linears = new Set(prunableLinears(source.architecture).map(({ name }) => name));
    const solved = new Set(
      source.architecture.blocks.flatMap(({ groups, tensors: stored }) =>
        groups.flatMap((group) => group.linears.map(({ role }) => lookUp(stored, role).tensor)),
      ),
    );
    assert.ok(linears.size > 0);
    for (const [name, { dtype }] of pruned.checkpoint.tensors) {
      const before = await source.checkpoint.readTensor(name);
      const after = await pruned.checkpoint.readTensor(name);
      if (!solved.has(name)) {
        assert.deepEqual(after, before, name);
        continue;
      }
      assert.equal(dtype, source.checkpoint.packed.has(name) ? "BF16" : "F32", name);
      let zeros = 0;
      after.forEach((value, i) => {
        if (value === 0) zeros++;
        else assert.ok(Math.abs(value - (before[i] as number)) <= 2 ** -8 * Math.abs(before[i] as number), name);
      });
      assert.ok(zeros >= after.length / 2, `${name}: ${zeros} of ${after.length}`);
    }
  });
}
