/**
 * Two real linears pruned by the papers' released code (../shared/golden/layers, not part of the repository).
 *
 * The released magnitude and SparseGPT code prunes one weight more per comparison group than asked. So the float64 twins
 * first prove that they are the released algorithm, under its threshold rule; the solvers, which prune exactly the asked
 * number, are then compared with the twins, with the goldens up to that one weight, and with the published errors.
 */
import { readFileSync } from "node:fs";
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { gramOfTokens, relativeError } from "../helpers/layer-problem.js";
import { needsShared, sharedPath } from "../helpers/paths.js";
import { readTensors, tensorOf, type StoredTensor } from "../helpers/tensors.js";
import { unpackMask } from "../reference/selection.js";
import { referenceAdmm, type ReferenceAdmmResult } from "../reference/admm.js";
import { referenceDsnot } from "../reference/dsnot.js";
import { referenceMagnitude } from "../reference/magnitude.js";
import { referenceSparseGpt, type ReferenceSparseGptProblem } from "../reference/sparsegpt.js";
import { referenceInputNorms, referenceWanda } from "../reference/wanda.js";
import { ConfigError } from "../../src/errors.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { pruneCount } from "../../src/sparsity/target.js";
import { findSolver } from "../../src/solvers/registry.js";
import { composeSteps } from "../../src/solvers/steps.js";
import type { Device } from "../../src/device/device.js";
import type { LayerProblem } from "../../src/solvers/solver.js";

const DIRECTORY = "golden/layers";
const LINEARS = ["k_proj", "down_proj"] as const;
const VARIANTS = ["", "_dead", "_rankdef"] as const;
/** Of a mask, where f32 decides between scores that are all but equal: 0.055 % is the most that was measured. */
const LARGEST_SHARE = 0.001;
const present = needsShared(DIRECTORY);
if (present.skip !== false) console.log(`# skipped: ${present.skip}`);

interface GoldenLayer {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly weight: Float64Array;
  /** [tokens, columns] */
  readonly tokens: Float64Array;
  readonly tokenCount: number;
  readonly sequenceCount: number;
  readonly gram: Float64Array;
  /** Results of the released code by name. */
  readonly results: ReadonlyMap<string, StoredTensor>;
}

function readLayer(linear: string, variant: string): GoldenLayer {
  const file = (name: string): string => sharedPath(`${DIRECTORY}/${name}.safetensors`) ?? "";
  const base = readTensors(file(linear));
  const results = variant === "" ? base : readTensors(file(linear + variant));
  const [rows, columns] = tensorOf(base, "W").shape;
  const deficient = variant === "_rankdef";
  const tokenCount = deficient ? (linear === "k_proj" ? 40 : 100) : 1024;
  const tokens = tensorOf(base, "X").values.slice(0, tokenCount * columns);
  if (variant === "_dead") {
    for (const dead of tensorOf(results, "dead_columns").values) {
      for (let t = 0; t < tokenCount; t++) tokens[t * columns + dead] = 0;
    }
  }
  return {
    name: linear + variant,
    rows,
    columns,
    weight: tensorOf(base, "W").values,
    tokens,
    tokenCount,
    sequenceCount: deficient ? 1 : 4,
    gram: gramOfTokens(tokens, tokenCount, columns),
    results,
  };
}

const LAYERS =
  present.skip === false ? LINEARS.flatMap((linear) => VARIANTS.map((variant) => readLayer(linear, variant))) : [];
const ERRORS_FILE = sharedPath(`${DIRECTORY}/errors.json`);
type PublishedErrors = Readonly<Record<string, Readonly<Record<string, { readonly relative_error: number }>>>>;
const ERRORS = ERRORS_FILE === undefined ? {} : (JSON.parse(readFileSync(ERRORS_FILE, "utf8")) as PublishedErrors);

/** "50" is a percentage, "2of4" removes 2 of 4. */
function targetOf(suffix: string): { readonly pattern: Pattern; readonly sparsity: number } {
  const groups = /^(\d+)of(\d+)$/.exec(suffix);
  if (groups === null) return { pattern: UNSTRUCTURED, sparsity: Number(suffix) / 100 };
  const [removed, group] = [Number(groups[1]), Number(groups[2])];
  return { pattern: parsePattern(`${group - removed}:${group}`), sparsity: removed / group };
}

/** Result names of one method, for example "50" and "2of4". */
function suffixesOf(layer: GoldenLayer, method: string): readonly string[] {
  return [...layer.results.keys()]
    .map((name) => name.split("."))
    .filter(([first, , kind]) => first === method && (kind === "mask" || kind === "weight"))
    .map(([, suffix]) => suffix);
}

function twinProblem(layer: GoldenLayer, suffix: string): ReferenceSparseGptProblem {
  const { pattern, sparsity } = targetOf(suffix);
  const { weight, gram, rows, columns, sequenceCount } = layer;
  const target = pattern.kind === "n-of-m" ? pattern : ({ kind: "unstructured", sparsity } as const);
  return { weight, gram, rows, columns, sequenceCount, damping: 0.01, blockSize: 128, target };
}

const keptOf = (weights: ArrayLike<number>): Uint8Array => Uint8Array.from(weights, (value) => Number(value !== 0));
const differences = (a: Uint8Array, b: Uint8Array): number =>
  a.reduce((sum, value, i) => sum + Number(value !== b[i]), 0);

/** Whether the solver refuses this shape (172 inputs, groups of 8): the released code prunes the short group whole. */
const isRefused = (layer: GoldenLayer, suffix: string): boolean => {
  const { pattern } = targetOf(suffix);
  return pattern.kind === "n-of-m" && layer.columns % pattern.group !== 0;
};

test("the float64 SparseGPT twin reproduces the released code's weights and masks", present, () => {
  for (const layer of LAYERS) {
    for (const suffix of suffixesOf(layer, "sparsegpt")) {
      const golden = tensorOf(layer.results, `sparsegpt.${suffix}.weight`).values;
      const twin = referenceSparseGpt({ ...twinProblem(layer, suffix), officialThreshold: true });
      const what = `${layer.name} sparsegpt.${suffix}`;
      assert.equal(differences(keptOf(twin.weight), keptOf(golden)), 0, what);
      // The released code ran in f32; its rounding grows with the condition, most in the rank-deficient layers.
      const tolerance = layer.name.endsWith("_rankdef") ? 2e-5 : 2e-6;
      golden.forEach((value, i) => assert.ok(Math.abs(twin.weight[i] - value) <= tolerance, `${what}: weight ${i}`));
    }
  }
});

/** "admm" is the released code as it is, "admm_cubic" the same with the paper's schedule switched on. */
const ADMM_RESULTS = [
  { method: "admm", schedule: "released" },
  { method: "admm_cubic", schedule: "cubic" },
] as const;

function admmTwin(layer: GoldenLayer, suffix: string, schedule: "released" | "cubic"): ReferenceAdmmResult {
  const { pattern, sparsity } = targetOf(suffix);
  const target = pattern.kind === "n-of-m" ? pattern : ({ kind: "unstructured", sparsity, schedule } as const);
  return referenceAdmm({ ...layer, damping: 0.1, rho: 1, iterations: 20, maskIterations: 15, target });
}

test("the float64 ADMM twin reproduces the released code's weights and masks under both schedules", present, () => {
  for (const layer of LAYERS) {
    for (const { method, schedule } of ADMM_RESULTS) {
      for (const suffix of suffixesOf(layer, method)) {
        const golden = tensorOf(layer.results, `${method}.${suffix}.weight`).values;
        const twin = admmTwin(layer, suffix, schedule);
        const what = `${layer.name} ${method}.${suffix}`;
        assert.equal(differences(keptOf(twin.weight), keptOf(golden)), 0, what);
        // The released code ran in f32: its own float64 comparison found 4e-6, rank-deficient 2e-5.
        const tolerance = layer.name.endsWith("_rankdef") ? 4e-5 : 8e-6;
        golden.forEach((value, i) => assert.ok(Math.abs(twin.weight[i] - value) <= tolerance, `${what}: weight ${i}`));
      }
    }
  }
});

test("the magnitude twin reproduces the released code's masks", present, () => {
  for (const layer of LAYERS) {
    for (const suffix of suffixesOf(layer, "magnitude")) {
      const { pattern, sparsity } = targetOf(suffix);
      const removed = tensorOf(layer.results, `magnitude.${suffix}.mask`).values;
      const target = pattern.kind === "n-of-m" ? pattern : { sparsity, officialThreshold: true };
      const keep = referenceMagnitude(layer.weight, layer.rows, layer.columns, target);
      assert.equal(
        differences(
          keep,
          Uint8Array.from(removed, (value) => 1 - value),
        ),
        0,
        `${layer.name} magnitude.${suffix}`,
      );
    }
  }
});

/** Collect statistics of the layer's tokens on the device, sequence by sequence, and solve. */
async function solveOn(
  device: Device,
  layer: GoldenLayer,
  method: string,
  suffix: string,
  options: Readonly<Record<string, unknown>> = {},
) {
  const { rows, columns, tokenCount, sequenceCount } = layer;
  using tokens = device.uploadMatrix(Float32Array.from(layer.tokens), tokenCount, columns, "tokens");
  using gram = device.createMatrix(columns, columns, "gram");
  using sums = device.createMatrix(1, columns, "sums");
  const perSequence = tokenCount / sequenceCount;
  for (let first = 0; first < tokenCount; first += perSequence) {
    device.accumulateGram({ matrix: tokens, firstRow: first, rows: perSequence }, gram);
    device.accumulateSquareSums({ matrix: tokens, firstRow: first, rows: perSequence }, sums);
  }
  const problem: LayerProblem = {
    name: layer.name,
    inFeatures: columns,
    outFeatures: rows,
    weight: device.uploadMatrix(Float32Array.from(layer.weight), rows, columns, "weight"),
    statistics: { gram, squareSums: await device.download({ matrix: sums }), tokenCount, sequenceCount },
    ...targetOf(suffix),
  };
  const solver = findSolver(method);
  const solution = await solver.solve(problem, solver.schema.parse(options), { device });
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), rows, columns);
  return { weight: await device.download({ matrix: weight }), keep };
}

const zerosOf = (keep: Uint8Array): number => keep.filter((bit) => bit === 0).length;

interface DsnotChoice {
  readonly cycles: number;
  readonly sameSign: boolean;
  readonly lists?: "released";
}

const DSNOT_RESULTS = [
  { method: "dsnot", sameSign: false },
  { method: "dsnot_same_sign", sameSign: true },
] as const;

/** DSnoT after Wanda, from the goldens' own statistics. */
async function refineWanda(device: Device, layer: GoldenLayer, suffix: string, options: DsnotChoice) {
  const { rows, columns, sequenceCount, tokenCount } = layer;
  const scaled = (name: string, factor: number): Float32Array =>
    Float32Array.from(tensorOf(layer.results, name).values, (value) => value * factor);
  const solver = composeSteps(
    ["wanda", "dsnot"].map((name) => ({
      solver: findSolver(name),
      options: findSolver(name).schema.parse(name === "dsnot" ? options : {}),
    })),
  );
  const problem: LayerProblem = {
    name: layer.name,
    inFeatures: columns,
    outFeatures: rows,
    weight: device.uploadMatrix(Float32Array.from(layer.weight), rows, columns, "weight"),
    statistics: {
      squareSums: scaled("stats.scaler_row", sequenceCount),
      moments: { sums: scaled("stats.sum_metric_row", sequenceCount), variances: scaled("stats.var", 1) },
      tokenCount,
      sequenceCount,
    },
    ...targetOf(suffix),
  };
  const solution = await solver.solve(problem, undefined, { device });
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), rows, columns);
  const values = await device.download({ matrix: weight });
  values.forEach((value, i) => assert.equal(value, keep[i] === 1 ? Math.fround(layer.weight[i]) : 0));
  const scalerRow = tensorOf(layer.results, "stats.scaler_row").values;
  const wanda = referenceWanda(layer.weight, referenceInputNorms(scalerRow, 1), rows, columns, targetOf(suffix));
  const twin = referenceDsnot({
    ...{ weight: layer.weight, keep: wanda, rows, columns, scalerRow },
    ...{ sumRow: tensorOf(layer.results, "stats.sum_metric_row").values },
    ...{ variance: tensorOf(layer.results, "stats.var").values, threshold: 0.1, ...options },
  });
  return { keep, twin, wanda };
}

/**
 * Within 1 %, the figure the goldens' own documentation asks for. Where the released code prunes one weight more than
 * asked, pruning exactly as asked may do better than that: then only the upper bound holds (measured: 1.2 % lower on
 * the smallest rank-deficient layer).
 */
function assertPublishedError(
  layer: GoldenLayer,
  result: string,
  weight: Float32Array,
  releasedPrunesMore: boolean,
): void {
  const actual = relativeError(layer.weight, weight, layer.gram, layer.rows, layer.columns);
  const published = ERRORS[layer.name][result].relative_error;
  const what = `${layer.name} ${result}: error ${actual}, published ${published}`;
  assert.ok(actual <= 1.01 * published, what);
  assert.ok(releasedPrunesMore || actual >= 0.99 * published, what);
}

await describeOnDevices((device, name) => {
  /** Of a slow method's results on emulated shaders every third: the CPU has them all, and the devices agree in tests of their own. */
  const someOf = (suffixes: readonly string[]): readonly string[] =>
    name === "webgpu" ? suffixes.filter((_, i) => i % 3 === 0) : suffixes;

  test("wanda's masks are identical to the released code's", present, async () => {
    for (const layer of LAYERS) {
      for (const suffix of suffixesOf(layer, "wanda")) {
        const what = `${layer.name} wanda.${suffix}`;
        if (isRefused(layer, suffix)) {
          await assert.rejects(solveOn(device(), layer, "wanda", suffix), ConfigError, what);
          continue;
        }
        const { keep, weight } = await solveOn(device(), layer, "wanda", suffix);
        const removed = tensorOf(layer.results, `wanda.${suffix}.mask`).values;
        // In N:M groups the released code's top-k leaves the order of equal scores open; only dead inputs (score 0) tie.
        const isTie = (i: number): boolean =>
          targetOf(suffix).pattern.kind === "n-of-m" && layer.gram[(i % layer.columns) * (layer.columns + 1)] === 0;
        keep.forEach((bit, i) => assert.ok(bit === 1 - removed[i] || isTie(i), `${what}: entry ${i}`));
        assertPublishedError(layer, `wanda.${suffix}`, weight, false);
      }
    }
  });

  test(
    "magnitude's masks are the released code's but for the one weight that it prunes too much",
    present,
    async () => {
      for (const layer of LAYERS) {
        for (const suffix of suffixesOf(layer, "magnitude")) {
          const { keep, weight } = await solveOn(device(), layer, "magnitude", suffix);
          const removed = tensorOf(layer.results, `magnitude.${suffix}.mask`).values;
          const what = `${layer.name} magnitude.${suffix}`;
          const { pattern, sparsity } = targetOf(suffix);
          const extra = removed.reduce((sum, value) => sum + value, 0) - keep.filter((bit) => bit === 0).length;
          assert.equal(extra, pattern.kind === "unstructured" ? 1 : 0, what);
          keep.forEach(
            (bit, i) => bit === 1 || assert.equal(removed[i], 1, `${what}: entry ${i} is pruned by us only`),
          );
          if (pattern.kind === "unstructured") {
            assert.equal(keep.filter((bit) => bit === 0).length, pruneCount(keep.length, sparsity));
          }
          assertPublishedError(layer, `magnitude.${suffix}`, weight, pattern.kind === "unstructured");
        }
      }
    },
  );

  test("sparsegpt's masks and weights are the released algorithm's with the exact count", present, async () => {
    for (const layer of LAYERS) {
      const tolerance = layer.name.endsWith("_rankdef") ? 1e-3 : 1e-4; // the goldens' own for f32 implementations
      for (const suffix of suffixesOf(layer, "sparsegpt")) {
        const what = `${layer.name} sparsegpt.${suffix}`;
        if (isRefused(layer, suffix)) {
          await assert.rejects(solveOn(device(), layer, "sparsegpt", suffix), ConfigError, what);
          continue;
        }
        const { keep, weight } = await solveOn(device(), layer, "sparsegpt", suffix);
        const twin = referenceSparseGpt(twinProblem(layer, suffix));
        assert.equal(differences(keep, twin.keep), 0, what);
        weight.forEach((value, i) => {
          assert.ok(
            Math.abs(value - twin.weight[i]) <= tolerance,
            `${what}: weight ${i} is ${value}, twin ${twin.weight[i]}`,
          );
        });
        assertPublishedError(layer, `sparsegpt.${suffix}`, weight, targetOf(suffix).pattern.kind === "unstructured");
      }
    }
  });

  test("admm's masks and weights are the released code's under both schedules", present, async () => {
    for (const layer of LAYERS) {
      for (const { method, schedule } of ADMM_RESULTS) {
        for (const suffix of someOf(suffixesOf(layer, method))) {
          const what = `${layer.name} ${method}.${suffix}`;
          const { keep, weight } = await solveOn(device(), layer, "admm", suffix, { schedule });
          const golden = tensorOf(layer.results, `${method}.${suffix}.weight`).values;
          const share = differences(keep, keptOf(golden)) / keep.length;
          assert.ok(share <= LARGEST_SHARE, `${what}: ${(100 * share).toFixed(3)} % of the mask differs`);
          const tolerance = layer.name.endsWith("_rankdef") ? 1e-3 : 1e-4; // the goldens' own for f32 implementations
          for (let row = 0; row < layer.rows; row++) {
            const entries = Array.from({ length: layer.columns }, (_, c) => row * layer.columns + c);
            if (entries.some((i) => (golden[i] !== 0) !== (keep[i] === 1))) continue;
            for (const i of entries) assert.ok(Math.abs(weight[i] - golden[i]) <= tolerance, `${what}: weight ${i}`);
          }
          assertPublishedError(layer, `${method}.${suffix}`, weight, false);
        }
      }
    }
  });

  test("dsnot's rows are the released code's wherever that does not run out of its lists", present, async () => {
    for (const layer of LAYERS) {
      // With dead inputs the released code divides by a variance of 0, and the order of its NaNs is its own.
      if (layer.name.endsWith("_dead")) continue;
      for (const { method, sameSign } of DSNOT_RESULTS) {
        for (const suffix of suffixesOf(layer, method)) {
          const cycles = layer.columns === 64 ? 20 : 50; // as the goldens were made
          const { keep, twin, wanda } = await refineWanda(device(), layer, suffix, { cycles, sameSign });
          const what = `${layer.name} ${method}.${suffix}`;
          assert.deepEqual(keep, twin.keep, what);
          assert.equal(zerosOf(keep), zerosOf(wanda), `${what}: as many zeros as before`);
          const removed = tensorOf(layer.results, `${method}.${suffix}.mask`).values;
          const golden = Uint8Array.from(removed, (value) => 1 - value);
          let swapped = 0;
          for (let row = 0; row < layer.rows; row++) {
            const [from, to] = [row * layer.columns, (row + 1) * layer.columns];
            const [released, start] = [golden.slice(from, to), wanda.slice(from, to)];
            // Its pointers go on in rows that have stopped; once beyond the pruned weights they prune kept ones.
            if (twin.exhausted[row] || zerosOf(released) !== zerosOf(start)) continue;
            assert.deepEqual(keep.slice(from, to), released, `${what}: row ${row}`);
            swapped += differences(released, start);
          }
          assert.ok(swapped > 0, `${what}: no swap was compared`);
        }
      }
    }
  });

  test("dsnot with the released code's lists has its masks", present, async () => {
    for (const layer of LAYERS) {
      if (layer.name.endsWith("_dead")) continue;
      for (const { method, sameSign } of DSNOT_RESULTS) {
        for (const suffix of suffixesOf(layer, method)) {
          if (targetOf(suffix).pattern.kind === "n-of-m") continue;
          const cycles = layer.columns === 64 ? 20 : 50;
          const { keep } = await refineWanda(device(), layer, suffix, { cycles, sameSign, lists: "released" });
          const removed = tensorOf(layer.results, `${method}.${suffix}.mask`).values;
          assert.deepEqual(
            keep,
            Uint8Array.from(removed, (value) => 1 - value),
            `${layer.name} ${method}.${suffix}`,
          );
        }
      }
    }
  });

  test("sparsegpt's N:M results equal the released code's, which has no extra weight there", present, async () => {
    for (const layer of LAYERS) {
      for (const suffix of suffixesOf(layer, "sparsegpt")) {
        if (targetOf(suffix).pattern.kind === "unstructured" || isRefused(layer, suffix)) continue;
        const { weight } = await solveOn(device(), layer, "sparsegpt", suffix);
        const golden = tensorOf(layer.results, `sparsegpt.${suffix}.weight`).values;
        const tolerance = layer.name.endsWith("_rankdef") ? 1e-3 : 1e-4;
        weight.forEach((value, i) => {
          assert.equal(value === 0, golden[i] === 0, `${layer.name} sparsegpt.${suffix}: entry ${i}`);
          assert.ok(Math.abs(value - golden[i]) <= tolerance, `${layer.name} sparsegpt.${suffix}: weight ${i}`);
        });
      }
    }
  });

  test(
    "sparsegpt's unstructured masks differ from the released code's by at most a weight in a thousand",
    present,
    async () => {
      for (const layer of LAYERS) {
        for (const suffix of suffixesOf(layer, "sparsegpt")) {
          if (targetOf(suffix).pattern.kind !== "unstructured") continue;
          const { keep } = await solveOn(device(), layer, "sparsegpt", suffix);
          const golden = tensorOf(layer.results, `sparsegpt.${suffix}.weight`).values;
          const share = differences(keep, keptOf(golden)) / keep.length;
          assert.ok(
            share <= LARGEST_SHARE,
            `${layer.name} sparsegpt.${suffix}: ${(100 * share).toFixed(3)} % of the mask differs`,
          );
        }
      }
    },
  );

  if (name === "webgpu") return; // what follows is true of the methods, whatever computes them, and takes long there

  test("on every layer the output errors are ordered: alps ≤ admm ≤ sparsegpt", present, async () => {
    for (const layer of LAYERS) {
      for (const suffix of ["50", "60", "70", "2of4"]) {
        const errorOf = async (method: string): Promise<number> => {
          const { weight } = await solveOn(device(), layer, method, suffix);
          return relativeError(layer.weight, weight, layer.gram, layer.rows, layer.columns);
        };
        const [alps, admm, sparsegpt] = [await errorOf("alps"), await errorOf("admm"), await errorOf("sparsegpt")];
        const what = `${layer.name} ${suffix}: alps ${alps}, admm ${admm}, sparsegpt ${sparsegpt}`;
        assert.ok(alps <= admm && admm <= sparsegpt, what);
      }
    }
  });
});
