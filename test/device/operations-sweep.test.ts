/** The OBS sweep on every device against its float64 twin and against the identity Σ losses = ½ tr(D H Dᵀ). */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { correlatedTokens, createRandom, normals } from "../reference/random.js";
import { referenceGram, referenceMatmul } from "../reference/products.js";
import { referenceCholeskyReversed, referenceUpperInverse } from "../reference/cholesky.js";
import { packMask, unpackMask } from "../reference/selection.js";
import { referenceSweep } from "../reference/sweep.js";
import type { Device } from "../../src/device/device.js";

interface Panel {
  /** [columns, rows] */
  readonly weight: Float32Array;
  /** H of the panel's columns, [columns, columns]. */
  readonly h: Float64Array;
  /** [stride, stride], upper triangular inverse of R in the top left corner. */
  readonly inverse: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
}

function createPanel(rows: number, columns: number, seed: number, stride = 128): Panel {
  const tokens = 2 * columns + 8;
  const h = referenceGram(correlatedTokens(tokens, columns, seed), tokens, columns).map((value) => value / tokens);
  for (let c = 0; c < columns; c++) h[c * (columns + 1)] += 0.01;
  const r = referenceCholeskyReversed(h, columns);
  assert.ok(r instanceof Float64Array);
  const u = referenceUpperInverse(r, columns);
  const inverse = new Float32Array(stride * stride);
  for (let i = 0; i < columns; i++) for (let j = i; j < columns; j++) inverse[i * stride + j] = u[i * columns + j];
  return { weight: normals(columns * rows, seed + 1), h, inverse, rows, columns, stride };
}

interface SweepRun {
  readonly ranges: readonly (readonly [first: number, count: number])[];
  /** [columns, rows] one byte per weight, 1 = kept; absent where `choose` is given. */
  readonly keep?: Uint8Array;
  readonly choose?: { readonly keep: number; readonly group: number };
  readonly maskColumn: number;
}

async function runOnDevice(device: Device, p: Panel, run: SweepRun) {
  const width = run.maskColumn + p.columns + 3;
  // The mask around the panel holds a pattern that must survive.
  const before = Uint8Array.from({ length: p.rows * width }, (_, i) => Number(i % 3 === 0));
  if (run.keep !== undefined) {
    for (let r = 0; r < p.rows; r++) {
      for (let c = 0; c < p.columns; c++) before[r * width + run.maskColumn + c] = run.keep[c * p.rows + r];
    }
  }
  using panel = device.uploadMatrix(p.weight, p.columns, p.rows, "panel");
  // The inverse sits below another block, as the factorisation returns it.
  const stacked = new Float32Array(2 * p.stride * p.stride).fill(99);
  stacked.set(p.inverse, p.stride * p.stride);
  using inverses = device.uploadMatrix(stacked, 2 * p.stride, p.stride, "inverses");
  using mask = device.uploadMask(packMask(before, p.rows, width), p.rows, width, "mask");
  using losses = device.uploadMatrix(new Float32Array(p.rows).fill(0.5), 1, p.rows, "losses");
  for (const [firstColumn, columns] of run.ranges) {
    device.sweepPanel({
      panel: { matrix: panel },
      inverse: { matrix: inverses, firstRow: p.stride, rows: p.stride },
      firstColumn,
      columns,
      keepMask: mask,
      maskColumn: run.maskColumn,
      ...(run.choose === undefined ? {} : { choose: run.choose }),
      losses,
    });
  }
  const after = unpackMask(await device.downloadMask(mask), p.rows, width);
  const keep = new Uint8Array(p.columns * p.rows);
  for (let r = 0; r < p.rows; r++) {
    for (let c = 0; c < width; c++) {
      const inside = c >= run.maskColumn && c < run.maskColumn + p.columns;
      if (inside) keep[(c - run.maskColumn) * p.rows + r] = after[r * width + c];
      else assert.equal(after[r * width + c], before[r * width + c], "bits outside the panel are untouched");
    }
  }
  const values = await device.download({ matrix: panel });
  return { panel: values, keep, losses: (await device.download({ matrix: losses })).map((value) => value - 0.5) };
}

/**
 * The sweep is one triangular solve per row (forward substitution with the unit triangular U_cc⁻¹U), whose error is
 * bounded by columns·u·|inverse||factor||result|; on these well-conditioned panels the product of the magnitudes stays
 * below 8 times the largest weight of the row's panel.
 */
const sweepBound = (p: Panel): (() => number) => {
  const bound = 8 * p.columns * F32_ROUNDOFF * Math.max(...p.weight.map(Math.abs));
  return () => bound;
};

const randomMask = (p: Panel, seed: number, density = 0.5): Uint8Array => {
  const random = createRandom(seed);
  return Uint8Array.from({ length: p.columns * p.rows }, () => Number(random() < density));
};

await describeOnDevices((device) => {
  test("a sweep with a given mask matches the twin at every shape", async () => {
    for (const rows of [1, 2, 63, 66, 70, 257]) {
      for (const columns of [1, 7, 44, 64, 112, 128]) {
        const p = createPanel(rows, columns, rows * 200 + columns);
        const keep = randomMask(p, columns);
        const actual = await runOnDevice(device(), p, { ranges: [[0, columns]], keep, maskColumn: 128 });
        const twin = Float64Array.from(p.weight);
        const { losses } = referenceSweep({
          panel: twin,
          rows,
          panelColumns: columns,
          inverse: p.inverse,
          inverseStride: p.stride,
          firstColumn: 0,
          columns,
          keep,
        });
        const what = `${rows} rows, ${columns} columns`;
        assertWithin(actual.panel, twin, sweepBound(p), what);
        actual.panel.forEach((value, i) => keep[i] === 1 || assert.ok(Object.is(value, 0), "pruned entries are +0"));
        // Each of up to `columns` squares carries twice the relative error of its weight.
        const lossBound = (r: number): number => 64 * columns * F32_ROUNDOFF * (losses[r] + 1);
        assertWithin(actual.losses, losses, lossBound, `losses, ${what}`);
        assert.deepEqual(actual.keep, keep, "a given mask is not changed");
      }
    }
  });

  test("a panel swept in ranges equals one sweep of the whole panel", async () => {
    const p = createPanel(70, 128, 4);
    const keep = randomMask(p, 5);
    const whole = await runOnDevice(device(), p, { ranges: [[0, 128]], keep, maskColumn: 29 });
    const bound = sweepBound(p);
    for (const ranges of [
      [
        [0, 64],
        [64, 64],
      ],
      [
        [0, 3],
        [3, 61],
        [64, 1],
        [65, 63],
      ],
      [
        [0, 16],
        [16, 112],
      ],
    ] as const) {
      const split = await runOnDevice(device(), p, { ranges, keep, maskColumn: 29 });
      assertWithin(split.panel, whole.panel, () => 2 * bound(), JSON.stringify(ranges));
      assertWithin(split.losses, whole.losses, (r) => 128 * 128 * F32_ROUNDOFF * (whole.losses[r] + 1), "losses");
    }
  });

  test("columns after the swept range receive the update, columns before it are untouched", async () => {
    const p = createPanel(66, 112, 6);
    const keep = randomMask(p, 7);
    const actual = await runOnDevice(device(), p, { ranges: [[40, 30]], keep, maskColumn: 0 });
    const twin = Float64Array.from(p.weight);
    referenceSweep({
      panel: twin,
      rows: 66,
      panelColumns: 112,
      inverse: p.inverse,
      inverseStride: 128,
      firstColumn: 40,
      columns: 30,
      keep,
    });
    assertWithin(actual.panel, twin, sweepBound(p), "sub-range");
    assertSameBits(actual.panel.slice(0, 40 * 66), p.weight.slice(0, 40 * 66), "before the range");
  });

  test("masks chosen inside the sweep take the smallest scores of each group as updated so far", async () => {
    const cases = [
      { keep: 2, group: 4, columns: 128 },
      { keep: 1, group: 4, columns: 44 },
      { keep: 4, group: 8, columns: 128 },
      { keep: 1, group: 3, columns: 126 },
      { keep: 2, group: 3, columns: 63 },
      { keep: 3, group: 6, columns: 120 },
      { keep: 8, group: 16, columns: 128 },
      { keep: 5, group: 16, columns: 112 },
      { keep: 16, group: 32, columns: 128 },
      { keep: 31, group: 64, columns: 128 },
      { keep: 1, group: 2, columns: 2 },
      { keep: 6, group: 11, columns: 121 },
    ];
    for (const { keep: keepCount, group, columns } of cases) {
      for (const rows of [1, 66, 70]) {
        const p = createPanel(rows, columns, columns + rows + group);
        const choose = { keep: keepCount, group };
        const actual = await runOnDevice(device(), p, { ranges: [[0, columns]], choose, maskColumn: 5 });
        const what = `${keepCount}:${group}, ${rows} rows, ${columns} columns`;
        // Replay the device's own mask in float64: its values must agree, and every pruned score must be at most every
        // kept score of its group up to rounding, with exactly the right number kept.
        const twin = Float64Array.from(p.weight);
        const { scores } = referenceSweep(
          {
            panel: twin,
            rows,
            panelColumns: columns,
            inverse: p.inverse,
            inverseStride: p.stride,
            firstColumn: 0,
            columns,
            keep: actual.keep,
          },
          group,
        );
        assertWithin(actual.panel, twin, sweepBound(p), what);
        const slack = sweepBound(p)() * Math.max(...Array.from({ length: columns }, (_, c) => 1 / p.inverse[c * 129]));
        for (let r = 0; r < rows; r++) {
          for (let first = 0; first < columns; first += group) {
            const members = Array.from({ length: group }, (_, i) => (first + i) * rows + r);
            const kept = members.filter((i) => actual.keep[i] === 1);
            assert.equal(kept.length, keepCount, what);
            const lowestKept = Math.min(...kept.map((i) => scores[i]));
            const highestPruned = Math.max(...members.filter((i) => actual.keep[i] === 0).map((i) => scores[i]));
            assert.ok(highestPruned <= lowestKept + slack, `${what}: row ${r}, group at ${first}`);
          }
        }
      }
    }
  });

  test("masks chosen inside the sweep equal the twin's on tie-free data", async () => {
    for (const [keepCount, group, columns] of [
      [2, 4, 128],
      [4, 8, 128],
      [3, 6, 120],
      [16, 32, 64],
    ]) {
      const p = createPanel(40, columns, group);
      const choose = { keep: keepCount, group };
      const actual = await runOnDevice(device(), p, { ranges: [[0, columns]], choose, maskColumn: 0 });
      const keep = new Uint8Array(columns * 40);
      referenceSweep({
        panel: Float64Array.from(p.weight),
        rows: 40,
        panelColumns: columns,
        inverse: p.inverse,
        inverseStride: 128,
        firstColumn: 0,
        columns,
        keep,
        choose,
      });
      // Seeded normal data: no two scores of a group are within rounding of each other.
      assert.deepEqual(actual.keep, keep, `${keepCount}:${group}`);
    }
  });

  test("a chosen mask prunes the lower columns where all scores of the first group tie", async () => {
    const p = createPanel(9, 16, 3);
    p.inverse.fill(0);
    for (let c = 0; c < 16; c++) p.inverse[c * 129] = 1; // U = I: nothing is propagated
    p.weight.fill(-1);
    const actual = await runOnDevice(device(), p, { ranges: [[0, 16]], choose: { keep: 3, group: 8 }, maskColumn: 30 });
    actual.keep.forEach((kept, i) => assert.equal(kept, Math.floor(i / 9) % 8 < 5 ? 0 : 1));
  });

  test("the losses of a sweep sum to half the trace of D·H·Dᵀ", async () => {
    for (const choose of [undefined, { keep: 2, group: 4 }]) {
      const p = createPanel(50, 128, 17);
      const keep = choose === undefined ? randomMask(p, 18, 0.3) : undefined;
      const run = {
        ranges: [[0, 128]] as const,
        maskColumn: 0,
        ...(keep === undefined ? {} : { keep }),
        ...(choose === undefined ? {} : { choose }),
      };
      const actual = await runOnDevice(device(), p, run);
      const change = Float64Array.from(p.weight, (value, i) => value - actual.panel[i]); // [columns, rows]
      const hd = referenceMatmul(p.h, change, { m: 128, n: 50, k: 128 });
      const trace = hd.reduce((sum, value, i) => sum + value * change[i], 0) / 2;
      const total = actual.losses.reduce((sum, value) => sum + value, 0);
      // The identity is exact; rounding of 128 dependent steps enters the squares twice.
      assert.ok(Math.abs(total - trace) <= 2 * 128 * F32_ROUNDOFF * trace, `losses ${total}, trace ${trace}`);
    }
  });

  test("a sweep gives the same bytes twice", async () => {
    const p = createPanel(99, 128, 23);
    const run = { ranges: [[0, 128]] as const, choose: { keep: 2, group: 4 }, maskColumn: 128 };
    const first = await runOnDevice(device(), p, run);
    const second = await runOnDevice(device(), p, run);
    assertSameBits(second.panel, first.panel, "panel");
    assertSameBits(second.losses, first.losses, "losses");
    assert.deepEqual(second.keep, first.keep);
  });
});
