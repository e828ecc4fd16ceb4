/**
 * Every family pruned end to end: zeros where the target wants them in every logical matrix, along its true input
 * dimension, and nothing else in the checkpoint changed. Places are computed here from the stored bytes; the program's
 * own reading of matrices (logical-matrix.ts) is not used.
 */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { parseHeader, parseHeaderLength } from "../../src/checkpoint/header.js";
import type { RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { prunableLinears, tensorOf, type Architecture, type LinearSpec } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { parsePattern, UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { copyFixture, fixtures, readJson, type Fixture } from "../helpers/architectures.js";
import { deepseekV3 } from "../helpers/checkpoint-variants.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const NSAMPLES = 4;
const SEQLEN = 16;

interface RawTensor {
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** Every tensor of every shard, as stored. */
function readRaw(directory: string): Map<string, RawTensor> {
  const tensors = new Map<string, RawTensor>();
  for (const shard of readdirSync(directory).filter((file) => file.endsWith(".safetensors"))) {
    const file = readFileSync(join(directory, shard));
    const length = parseHeaderLength(file.subarray(0, 8), shard, file.length);
    const header = parseHeader(file.subarray(8, 8 + length), shard, file.length);
    for (const { name, shape, begin, end } of header.tensors)
      tensors.set(name, { shape, bytes: file.subarray(header.dataOffset + begin, header.dataOffset + end) });
  }
  return tensors;
}

function writeTokens(t: TestContext, vocabularySize: number): string {
  let state = 12345;
  const ids = Int32Array.from({ length: NSAMPLES * SEQLEN }, () => {
    state = (state * 48271) % 2147483647; // Lehmer's generator: the same ids everywhere
    return state % vocabularySize;
  });
  const file = join(temporaryDirectory(t), "tokens.safetensors");
  const values = new Uint8Array(ids.buffer);
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape: [NSAMPLES, SEQLEN], values } }));
  return file;
}

/** For every output of a linear, which of its inputs are stored as +0. */
function zerosOf(linear: LinearSpec, { shape, bytes }: RawTensor): boolean[][] {
  const elements = shape.reduce((product, size) => product * size, 1);
  const width = bytes.length / elements;
  const [rows = 0, columns = 0] = shape.slice(-2);
  const ranges = linear.outputs ?? [{ first: 0, count: linear.outFeatures }];
  return ranges.flatMap(({ first, count, step = 1 }) =>
    Array.from({ length: count }, (_, i) =>
      Array.from({ length: linear.inFeatures }, (_, input) => {
        const output = first + i * step;
        const at = linear.inputAxis === 1 ? output * columns + input : input * columns + output;
        const start = ((linear.slab ?? 0) * rows * columns + at) * width;
        return bytes.subarray(start, start + width).every((byte) => byte === 0);
      }),
    ),
  );
}

const count = (flags: readonly boolean[]): number => flags.filter(Boolean).length;

interface Run {
  readonly method: string;
  readonly config: Partial<RunConfig>;
  /** Whether it has something to show only where a tensor holds several linears. */
  readonly isForParts?: boolean;
  /** What must hold of the zeros [outputs][inputs] of one logical matrix. */
  check(zeros: readonly boolean[][], name: string): void;
}

const RUNS: readonly Run[] = [
  {
    method: "wanda 0.5",
    config: { method: "wanda", sparsity: 0.5, pattern: UNSTRUCTURED },
    check(zeros, name) {
      for (const row of zeros) assert.equal(count(row), row.length / 2, `${name}: zeros of an output`);
    },
  },
  {
    method: "sparsegpt 2:4",
    config: { method: "sparsegpt", sparsity: 0.5, pattern: parsePattern("2:4"), methodOptions: {} },
    check(zeros, name) {
      for (const row of zeros)
        for (let input = 0; input < row.length; input += 4)
          assert.equal(count(row.slice(input, input + 4)), 2, `${name}: zeros of a group of four`);
    },
  },
  {
    // Its budget is that of a whole matrix: only here would q, k and v pruned as one show.
    method: "magnitude 0.5",
    isForParts: true,
    config: { method: "magnitude", sparsity: 0.5, pattern: UNSTRUCTURED },
    check(zeros, name) {
      assert.equal(count(zeros.flat()), zeros.flat().length / 2, `${name}: zeros of the matrix`);
    },
  },
];

function tensorNames(architecture: Architecture): Map<LinearSpec, string> {
  return new Map(
    architecture.blocks.flatMap((block) =>
      block.groups.flatMap((group) => group.linears.map((linear) => [linear, tensorOf(block, linear)] as const)),
    ),
  );
}

async function pruneAndCheck(t: TestContext, source: string, run: Run): Promise<void> {
  const out = join(temporaryDirectory(t), "out");
  await using model = await openModel(source);
  const { architecture } = model;
  const calibration = { file: writeTokens(t, architecture.vocabularySize), tensor: "ids" };
  const config = demoRun(out, { model: source, calibration, nsamples: NSAMPLES, seqlen: SEQLEN, ...run.config });
  const report = await pruneModel(config, createTestContext());

  const [before, after] = [readRaw(source), readRaw(out)];
  assert.deepEqual([...after.keys()], [...before.keys()], "the same tensors: a tied head stays absent");
  const names = tensorNames(architecture);
  assert.equal(report.layers.length, prunableLinears(architecture).length);
  for (const [linear, tensor] of names) {
    const stored = after.get(tensor);
    assert.ok(stored, tensor);
    run.check(zerosOf(linear, stored), linear.name);
  }
  if (run.config.method === "wanda") checkCounts(architecture, report, source);
  const pruned = new Set(names.values());
  for (const [name, { bytes }] of before) {
    const isSame = Buffer.compare(bytes, after.get(name)?.bytes ?? new Uint8Array(0)) === 0;
    assert.equal(isSame, !pruned.has(name), `${name} is ${isSame ? "unchanged" : "changed"}`);
  }
}

/** All experts of a block together are reported to have seen every token as often as it chose. */
function checkCounts({ blocks }: Architecture, { layers }: RunReport, source: string): void {
  const { num_experts_per_tok: chosen = 0 } = readJson<{ num_experts_per_tok?: number }>(join(source, "config.json"));
  if (chosen === 0) return; // other names of it
  const counts = new Map(layers.map(({ name, tokens }) => [name, tokens]));
  for (const { name, groups } of blocks) {
    const routed = groups.filter(({ isRouted, stage }) => isRouted === true && stage === groups.at(-1)?.stage);
    if (routed.length === 0) continue;
    const seen = routed.map(({ linears }) => counts.get(linears[0]?.name ?? "") ?? NaN);
    assert.equal(
      seen.reduce((sum, each) => sum + each, 0),
      NSAMPLES * SEQLEN * chosen,
      `${name}: ${seen.join(", ")}`,
    );
  }
}

async function hasParts({ directory }: Fixture): Promise<boolean> {
  await using model = await openModel(directory);
  return prunableLinears(model.architecture).some(({ outputs, slab }) => outputs !== undefined || slab !== undefined);
}

for (const fixture of fixtures()) {
  const isInParts = fixture.skip === false && (await hasParts(fixture));
  for (const run of RUNS.filter(({ isForParts }) => isForParts !== true || isInParts)) {
    test(
      `${fixture.folder} pruned with ${run.method}: exact zeros, nothing else changed`,
      { skip: fixture.skip },
      async (t) => pruneAndCheck(t, await copyFixture(t, fixture, "config.json"), run),
    );
  }
}

for (const run of RUNS.filter(({ isForParts }) => isForParts !== true)) {
  test(`deepseek_v3 pruned with ${run.method}: exact zeros, nothing else changed, layers of further tokens included`, async (t) =>
    pruneAndCheck(t, await deepseekV3(t), run));
}
