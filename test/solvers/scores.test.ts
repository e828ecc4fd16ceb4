/** Methods that score on the host, rows against matrices, Wanda's alpha variant, DSnoT on made-up layers. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertSameMask } from "../helpers/compare.js";
import { gramOfTokens, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { correlatedTokens, createRandom, normals } from "../reference/random.js";
import { referenceDsnot } from "../reference/dsnot.js";
import {
  packMask,
  referenceScores,
  referenceSelectGroups,
  referenceSelectMatrix,
  referenceSelectRows,
  unpackMask,
} from "../reference/selection.js";
import { referenceInputNorms } from "../reference/wanda.js";
import { ConfigError } from "../../src/errors.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { pruneCount } from "../../src/sparsity/target.js";
import { findSolver } from "../../src/solvers/registry.js";
import type { Device } from "../../src/device/device.js";
import type { LayerProblem } from "../../src/solvers/solver.js";

const [ROWS, COLUMNS] = [31, 72];
const PLAIN: PlainLayer = {
  name: "some.layer",
  weight: normals(ROWS * COLUMNS, 1),
  gram: gramOfTokens(correlatedTokens(300, COLUMNS, 2), 300, COLUMNS),
  rows: ROWS,
  columns: COLUMNS,
  sequenceCount: 4,
};
const SQUARE_SUMS = Float32Array.from({ length: COLUMNS }, (_, c) => PLAIN.gram[c * (COLUMNS + 1)]);
const NORMS = referenceInputNorms(SQUARE_SUMS, 4);

/** Of gradients with both signs, and of the size that makes gblm's halves alike. */
const GRADIENTS = {
  "gradient-magnitudes": normals(ROWS * COLUMNS, 7).map((value) => 0.1 + Math.abs(value)),
  "gradient-squares": normals(ROWS * COLUMNS, 8).map((value) => value ** 2),
  "gradient-sums": normals(ROWS * COLUMNS, 9),
};

async function solve(
  device: Device,
  method: string,
  target: { readonly sparsity?: number; readonly pattern?: Pattern },
  options: Record<string, unknown> = {},
  change: (problem: LayerProblem) => LayerProblem = (problem) => problem,
) {
  const solver = findSolver(method);
  const { problem, gram } = uploadProblem(device, PLAIN, target);
  using _gram = gram;
  const solution = await solver.solve(change(problem), solver.schema.parse(options), { device });
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), ROWS, COLUMNS);
  const values = await device.download({ matrix: weight });
  const kept = Float32Array.from(PLAIN.weight, (value, i) => (keep[i] === 1 ? value : 0));
  assertSameBits(values, kept, `${method}: kept weights keep their bits, others are +0`);
  return keep;
}

const zerosOf = (keep: Uint8Array): number => keep.filter((bit) => bit === 0).length;
const rowOf = (keep: Uint8Array, r: number): Uint8Array => keep.slice(r * COLUMNS, (r + 1) * COLUMNS);

/** RIA's score in double precision from the formula, rounded to f32 once. */
function riaScores(power: number): Float64Array {
  const w = Array.from({ length: ROWS * COLUMNS }, (_, i) => Math.abs(PLAIN.weight[i]));
  const sum = (member: (i: number) => boolean): number => w.reduce((total, v, i) => (member(i) ? total + v : total), 0);
  const rowSums = Array.from({ length: ROWS }, (_, r) => sum((i) => Math.floor(i / COLUMNS) === r));
  const columnSums = Array.from({ length: COLUMNS }, (_, c) => sum((i) => i % COLUMNS === c));
  return Float64Array.from(w, (v, i) => {
    const c = i % COLUMNS;
    return Math.fround(
      (v / columnSums[c] + v / rowSums[Math.floor(i / COLUMNS)]) * Math.sqrt(SQUARE_SUMS[c] / 4) ** power,
    );
  });
}

await describeOnDevices((device) => {
  test("random prunes the exact number, differently for every seed and layer, equally for the same ones", async () => {
    const first = await solve(device(), "random", { sparsity: 0.6 });
    assert.equal(zerosOf(first), pruneCount(ROWS * COLUMNS, 0.6));
    assert.deepEqual(await solve(device(), "random", { sparsity: 0.6 }), first);
    const expected = 2 * 0.6 * 0.4 * ROWS * COLUMNS; // two independent masks differ in so many places, ± 4 deviations
    const spread = 4 * Math.sqrt(expected);
    for (const other of [
      await solve(device(), "random", { sparsity: 0.6 }, { seed: 1 }),
      await solve(device(), "random", { sparsity: 0.6 }, {}, (problem) => ({ ...problem, name: "other.layer" })),
    ]) {
      const differing = other.reduce((sum, bit, i) => sum + Number(bit !== first[i]), 0);
      assert.ok(Math.abs(differing - expected) < spread, `${differing} differ, expected ${expected} ± ${spread}`);
    }
  });

  test("random and ria keep N of every M and, by row, the same number in every row", async () => {
    for (const method of ["random", "ria"]) {
      const groups = await solve(device(), method, { pattern: parsePattern("3:8") });
      for (let i = 0; i < groups.length; i += 8) assert.equal(zerosOf(groups.slice(i, i + 8)), 5);
      const rows = await solve(device(), method, { sparsity: 0.6 }, { granularity: "row" });
      for (let r = 0; r < ROWS; r++) assert.equal(zerosOf(rowOf(rows, r)), pruneCount(COLUMNS, 0.6));
    }
  });

  test("ria equals its formula over the matrix, per row and per group", async () => {
    for (const power of [0.5, 1]) {
      const scores = riaScores(power);
      const whole = await solve(device(), "ria", { sparsity: 0.6 }, { power });
      const count = pruneCount(ROWS * COLUMNS, 0.6);
      assertSameMask(whole, referenceSelectMatrix(scores, ROWS, COLUMNS, count), COLUMNS, "matrix");
      const rows = await solve(device(), "ria", { sparsity: 0.6 }, { power, granularity: "row" });
      assertSameMask(rows, referenceSelectRows(scores, ROWS, COLUMNS, pruneCount(COLUMNS, 0.6)), COLUMNS, "rows");
      const groups = await solve(device(), "ria", { pattern: parsePattern("2:4") }, { power });
      assertSameMask(groups, referenceSelectGroups(scores, ROWS, COLUMNS, 2, 4), COLUMNS, "groups");
    }
  });

  test("magnitude by row prunes the smallest of every row", async () => {
    const keep = await solve(device(), "magnitude", { sparsity: 0.7 }, { granularity: "row" });
    const scores = referenceScores(PLAIN.weight, new Float32Array(COLUMNS).fill(1), ROWS, COLUMNS);
    assertSameMask(keep, referenceSelectRows(scores, ROWS, COLUMNS, pruneCount(COLUMNS, 0.7)), COLUMNS, "rows");
  });

  test("snip equals its formula, however gradients come together, over the matrix, per row and per group", async () => {
    const count = pruneCount(ROWS * COLUMNS, 0.6);
    for (const [accumulate, statistic, of] of [
      ["magnitudes", "gradient-magnitudes", (gradient: number) => Math.abs(gradient)],
      ["sum", "gradient-sums", (gradient: number) => gradient],
      ["squares", "gradient-squares", (gradient: number) => Math.sqrt(gradient)],
    ] as const) {
      const gradients = GRADIENTS[statistic];
      const scores = Float64Array.from(gradients, (gradient, i) =>
        Math.fround(Math.abs(PLAIN.weight[i] * of(gradient))),
      );
      const told = (problem: LayerProblem): LayerProblem => ({ ...problem, gradients: { [statistic]: gradients } });
      const by = (target: Parameters<typeof solve>[2], options = {}): Promise<Uint8Array> =>
        solve(device(), "snip", target, { accumulate, ...options }, told);
      const whole = referenceSelectMatrix(scores, ROWS, COLUMNS, count);
      assertSameMask(await by({ sparsity: 0.6 }), whole, COLUMNS, accumulate);
      const rows = referenceSelectRows(scores, ROWS, COLUMNS, pruneCount(COLUMNS, 0.6));
      assertSameMask(await by({ sparsity: 0.6 }, { granularity: "row" }), rows, COLUMNS, `${accumulate}, rows`);
      const groups = referenceSelectGroups(scores, ROWS, COLUMNS, 2, 4);
      assertSameMask(await by({ pattern: parsePattern("2:4") }), groups, COLUMNS, `${accumulate}, groups`);
      assert.notDeepEqual(whole, rows);
    }
  });

  test("gblm equals its formula by row and by group; without gradients it is wanda", async () => {
    for (const [norm, statistic] of [
      ["l1", "gradient-magnitudes"],
      ["l2", "gradient-squares"],
    ] as const) {
      const gradients = GRADIENTS[statistic];
      const told = (problem: LayerProblem): LayerProblem => ({ ...problem, gradients: { [statistic]: gradients } });
      for (const alpha of [0, 5, 100]) {
        const scores = Float64Array.from(gradients, (gradient, i) => {
          const size = norm === "l1" ? gradient : Math.sqrt(gradient);
          return Math.fround(Math.abs(PLAIN.weight[i]) * (NORMS[i % COLUMNS] + alpha * size));
        });
        const rows = await solve(device(), "gblm", { sparsity: 0.6 }, { norm, alpha }, told);
        const expected = referenceSelectRows(scores, ROWS, COLUMNS, pruneCount(COLUMNS, 0.6));
        assertSameMask(rows, expected, COLUMNS, `${norm} ${alpha}`);
        const groups = await solve(device(), "gblm", { pattern: parsePattern("2:4") }, { norm, alpha }, told);
        assertSameMask(groups, referenceSelectGroups(scores, ROWS, COLUMNS, 2, 4), COLUMNS, `${norm} ${alpha}, groups`);
        const wanda = await solve(device(), "wanda", { sparsity: 0.6 });
        if (alpha === 0) assert.deepEqual(rows, wanda);
        else assert.notDeepEqual(rows, wanda);
      }
    }
  });

  test("wanda++ equals its formula by row and by group; without gradients it is wanda", async () => {
    const gradients = GRADIENTS["gradient-magnitudes"];
    const told = (problem: LayerProblem): LayerProblem => ({
      ...problem,
      gradients: { "regional-gradients": gradients },
    });
    for (const alpha of [0, 5, 100]) {
      const scores = Float64Array.from(gradients, (gradient, i) =>
        Math.fround(Math.abs(PLAIN.weight[i]) * (alpha * gradient + NORMS[i % COLUMNS])),
      );
      const rows = await solve(device(), "wanda++", { sparsity: 0.6 }, { alpha }, told);
      assertSameMask(rows, referenceSelectRows(scores, ROWS, COLUMNS, pruneCount(COLUMNS, 0.6)), COLUMNS, `${alpha}`);
      const groups = await solve(device(), "wanda++", { pattern: parsePattern("2:4") }, { alpha }, told);
      assertSameMask(groups, referenceSelectGroups(scores, ROWS, COLUMNS, 2, 4), COLUMNS, `${alpha}, groups`);
      if (alpha === 0) assert.deepEqual(rows, await solve(device(), "wanda", { sparsity: 0.6 }));
    }
  });

  test("equal scores are pruned from the lower input, and a method without its gradients is told so", async () => {
    const alike = await solve(device(), "snip", { pattern: parsePattern("2:4") }, {}, (problem) => ({
      ...problem,
      gradients: { "gradient-magnitudes": new Float32Array(ROWS * COLUMNS) },
    }));
    for (let i = 0; i < alike.length; i += 4) assert.deepEqual([...alike.slice(i, i + 4)], [0, 0, 1, 1]);
    for (const method of ["snip", "gblm"])
      await assert.rejects(solve(device(), method, { sparsity: 0.5 }), /gradient-magnitudes" was not collected/);
  });

  test("wanda's alpha variant prunes every row up to one share of its sum, and the exact number in all", async () => {
    for (const sparsity of [0.3, 0.6]) {
      const keep = await solve(device(), "wanda", { sparsity }, { variant: "alpha" });
      assert.equal(zerosOf(keep), pruneCount(ROWS * COLUMNS, sparsity));
      const scores = referenceScores(PLAIN.weight, NORMS, ROWS, COLUMNS);
      let [least, most] = [0, Infinity]; // bounds on alpha that the mask implies
      for (let r = 0; r < ROWS; r++) {
        const row = Array.from(rowOf(keep, r), (bit, c) => ({ bit, score: scores[r * COLUMNS + c] }));
        row.sort((x, y) => x.score - y.score);
        const pruned = row.filter(({ bit }) => bit === 0).length;
        assert.ok(
          row.slice(0, pruned).every(({ bit }) => bit === 0),
          `row ${r}: the smallest ones go`,
        );
        const sum = (count: number): number => row.slice(0, count).reduce((total, { score }) => total + score, 0);
        least = Math.max(least, sum(pruned) / sum(COLUMNS));
        most = Math.min(most, sum(pruned + 1) / sum(COLUMNS));
      }
      assert.ok(least <= most + 1e-6, `alpha is between ${least} and ${most}`); // shares are compared in f32
    }
  });

  test("wanda's alpha variant is refused for N:M", async () => {
    const refused = solve(device(), "wanda", { pattern: parsePattern("2:4") }, { variant: "alpha" });
    await assert.rejects(refused, (error) => error instanceof ConfigError && error.code === "E_MISFIT");
  });

  test("dsnot equals its twin, unstructured and in groups, and keeps counts and groups", async () => {
    const random = createRandom(5);
    const sums = normals(COLUMNS, 3).map((value) => 3 * value);
    const variances = Float32Array.from({ length: COLUMNS }, () => 0.2 + random());
    variances[7] = sums[7] = 0; // never regrown, belongs to no list
    for (const pattern of [UNSTRUCTURED, parsePattern("2:4"), parsePattern("3:8")]) {
      const scores = referenceScores(PLAIN.weight, NORMS, ROWS, COLUMNS);
      const given =
        pattern.kind === "n-of-m"
          ? referenceSelectGroups(scores, ROWS, COLUMNS, pattern.keep, pattern.group)
          : referenceSelectRows(scores, ROWS, COLUMNS, 43);
      for (const options of [
        { cycles: 50, threshold: 0.1, sameSign: false },
        { cycles: 3, threshold: 0.5, sameSign: true },
      ]) {
        using mask = device().uploadMask(packMask(given, ROWS, COLUMNS), ROWS, COLUMNS, "mask");
        const keep = await solve(device(), "dsnot", { pattern }, options, (problem) => ({
          ...problem,
          keepMask: mask,
          statistics: { ...problem.statistics, moments: { sums, variances } },
        }));
        const twin = referenceDsnot({
          ...{ weight: PLAIN.weight, keep: given, rows: ROWS, columns: COLUMNS, ...options },
          scalerRow: SQUARE_SUMS.map((value) => value / 4),
          sumRow: sums.map((value) => value / 4),
          variance: variances,
          ...(pattern.kind === "n-of-m" ? { group: pattern.group } : {}),
        });
        assertSameMask(keep, twin.keep, COLUMNS, JSON.stringify({ pattern, options }));
        assert.notDeepEqual(keep, given);
        const width = pattern.kind === "n-of-m" ? pattern.group : COLUMNS;
        for (let i = 0; i < keep.length; i += width)
          assert.equal(zerosOf(keep.slice(i, i + width)), zerosOf(given.slice(i, i + width)));
      }
    }
  });
});
