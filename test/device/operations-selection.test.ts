/**
 * Selections on every device against a stable sort. Scores are one f32 multiplication, so masks compare exactly,
 * ties included: among equal scores the lower index is pruned first.
 */
import { test } from "node:test";
import assert from "node:assert/strict";
import fc from "fast-check";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameMask } from "../helpers/compare.js";
import { normals, positives, quantized } from "../reference/random.js";
import { referenceTranspose } from "../reference/products.js";
import {
  packMask,
  pruneSmallest,
  referenceScores,
  referenceSelectGroups,
  referenceSelectMatrix,
  referenceSelectRows,
  unpackMask,
} from "../reference/selection.js";
import type { Device, KeepMask, Matrix } from "../../src/device/device.js";

interface Problem {
  readonly weight: Float32Array;
  readonly scale: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/** `step` > 0 quantises weights to its multiples and sets scales to 1: thousands of ties. */
function problem(rows: number, columns: number, seed: number, step = 0): Problem {
  const weight = step > 0 ? quantized(rows * columns, seed, step) : normals(rows * columns, seed);
  const scale = step > 0 ? new Float32Array(columns).fill(1) : positives(columns, seed + 1);
  return { weight, scale, rows, columns };
}

/** Run a selection over a mask prefilled with ones everywhere (spare bits too, which must come back as zeros). */
async function select(
  device: Device,
  { weight, scale, rows, columns }: Problem,
  run: (weight: Matrix, scale: Matrix, mask: KeepMask) => void,
): Promise<Uint8Array> {
  using w = device.uploadMatrix(weight, rows, columns, "weight");
  using s = device.uploadMatrix(scale, 1, columns, "scale");
  const garbage = new Uint32Array(rows * Math.ceil(columns / 32)).fill(0xffffffff);
  using mask = device.uploadMask(garbage, rows, columns, "mask");
  run(w, s, mask);
  const words = await device.downloadMask(mask);
  const keep = unpackMask(words, rows, columns);
  assert.deepEqual(words, packMask(keep, rows, columns), "spare bits are zero");
  return keep;
}

const counts = (n: number): readonly number[] => [...new Set([0, 1, Math.floor(n / 3), Math.floor(n * 0.7), n - 1, n])];
const scoresOf = (p: Problem): Float64Array => referenceScores(p.weight, p.scale, p.rows, p.columns);

await describeOnDevices((device) => {
  test("selectRows prunes the smallest scores of every row at every width and count", async () => {
    for (const columns of [1, 2, 31, 32, 33, 255, 256, 257, 1031]) {
      for (const step of [0, 1 / 3]) {
        const p = problem(5, columns, columns, step);
        for (const k of counts(columns)) {
          const keep = await select(device(), p, (w, s, mask) => device().selectRows(w, s, k, mask));
          assertSameMask(keep, referenceSelectRows(scoresOf(p), 5, columns, k), columns, `width ${columns}, k ${k}`);
        }
      }
    }
  });

  test("selectRows handles one row of 28672 with and without ties", async () => {
    for (const step of [0, 1 / 3]) {
      const p = problem(1, 28672, 1, step);
      for (const k of [1, 14336, 28671]) {
        const keep = await select(device(), p, (w, s, mask) => device().selectRows(w, s, k, mask));
        assertSameMask(keep, referenceSelectRows(scoresOf(p), 1, 28672, k), 28672, `k ${k}`);
      }
    }
  });

  test("selectRows handles many rows and rows of equal, zero or subnormal-free tiny scores", async () => {
    const p = problem(331, 70, 2);
    p.weight.fill(0.25, 0, 70); // row 0: all equal before scaling
    p.weight.fill(0, 70, 140); // row 1: all scores are zero
    p.weight.set(
      p.weight.subarray(140, 210).map((value) => value * 1e-30),
      140,
    );
    const keep = await select(device(), p, (w, s, mask) => device().selectRows(w, s, 49, mask));
    assertSameMask(keep, referenceSelectRows(scoresOf(p), 331, 70, 49), 70, "331 rows");
  });

  test("selectRows with all scores equal prunes the lowest columns", async () => {
    const p = { weight: new Float32Array(3 * 77).fill(-2), scale: new Float32Array(77).fill(1), rows: 3, columns: 77 };
    const keep = await select(device(), p, (w, s, mask) => device().selectRows(w, s, 40, mask));
    keep.forEach((kept, i) => assert.equal(kept, i % 77 < 40 ? 0 : 1));
  });

  test("selectMatrix prunes the smallest scores of the whole matrix", async () => {
    for (const [rows, columns] of [
      [1, 1],
      [1, 33],
      [33, 1],
      [13, 31],
      [64, 65],
      [77, 100],
      [130, 128],
      [257, 63],
    ]) {
      for (const step of [0, 1 / 3]) {
        const p = problem(rows, columns, rows + columns, step);
        for (const k of counts(rows * columns)) {
          const keep = await select(device(), p, (w, s, mask) => device().selectMatrix(w, s, k, mask));
          assertSameMask(
            keep,
            referenceSelectMatrix(scoresOf(p), rows, columns, k),
            columns,
            `[${rows}, ${columns}], k ${k}`,
          );
        }
      }
    }
  });

  test("selectMatrix is exact on matrices that are large enough to be sampled, however their scores lie", async () => {
    const [rows, columns] = [401, 333];
    const total = rows * columns;
    const spread = problem(rows, columns, 1);
    const ties = problem(rows, columns, 2, 1 / 3);
    const equal = { ...ties, weight: new Float32Array(total).fill(0.5) };
    // Most scores 0, the others in one corner; and magnitudes over many binades along the rows.
    const sparse = { ...spread, weight: spread.weight.map((value, i) => (i < 0.9 * total ? 0 : value)) };
    const steep = {
      ...spread,
      weight: spread.weight.map((value, i) => value * 2 ** (Math.floor(i / columns) / 8 - 25)),
    };
    for (const [name, p] of Object.entries({ spread, ties, equal, sparse, steep })) {
      const scores = scoresOf(p);
      for (const k of [1, 20, Math.floor(total / 2), Math.floor(0.9 * total), Math.floor(0.95 * total), total - 3]) {
        const keep = await select(device(), p, (w, s, mask) => device().selectMatrix(w, s, k, mask));
        assertSameMask(keep, referenceSelectMatrix(scores, rows, columns, k), columns, `${name}, k ${k}`);
      }
    }
  });

  test("selectGroups keeps exactly the largest of every group", async () => {
    for (const group of [2, 3, 4, 5, 6, 8, 16, 32, 64]) {
      for (const keepCount of new Set([1, Math.floor(group / 2), group - 1])) {
        for (const step of [0, 1 / 2]) {
          const columns = group * (group < 8 ? 11 : 3);
          const p = problem(9, columns, group, step);
          const keep = await select(device(), p, (w, s, mask) => device().selectGroups(w, s, keepCount, group, mask));
          const expected = referenceSelectGroups(scoresOf(p), 9, columns, keepCount, group);
          assertSameMask(keep, expected, columns, `${keepCount}:${group}`);
        }
      }
    }
  });

  test("selectGroups keeps the last of every group when all scores tie", async () => {
    const p = { weight: new Float32Array(4 * 48).fill(1), scale: new Float32Array(48).fill(1), rows: 4, columns: 48 };
    const keep = await select(device(), p, (w, s, mask) => device().selectGroups(w, s, 2, 4, mask));
    keep.forEach((kept, i) => assert.equal(kept, i % 4 < 2 ? 0 : 1));
  });

  test("selectPanel prunes over all rows of the panel and leaves the other columns' bits alone", async () => {
    const cases = [
      { rows: 1, columns: 1, maskColumn: 0, width: 1 },
      { rows: 77, columns: 100, maskColumn: 0, width: 100 },
      { rows: 130, columns: 128, maskColumn: 128, width: 300 },
      { rows: 65, columns: 126, maskColumn: 126, width: 260 },
      { rows: 66, columns: 5, maskColumn: 29, width: 64 },
      { rows: 3, columns: 32, maskColumn: 31, width: 63 },
      { rows: 19, columns: 44, maskColumn: 128, width: 172 },
    ];
    for (const { rows, columns, maskColumn, width } of cases) {
      for (const step of [0, 1 / 3]) {
        const p = problem(rows, columns, rows + columns, step);
        const scores = scoresOf(p);
        for (const k of counts(rows * columns)) {
          using panel = device().uploadMatrix(
            Float32Array.from(referenceTranspose(p.weight, rows, columns)),
            columns,
            rows,
            "panel",
          );
          using scale = device().uploadMatrix(p.scale, 1, columns, "scale");
          const before = normals(rows * width, 3).map((value) => Number(value > 0));
          using mask = device().uploadMask(packMask(before, rows, width), rows, width, "mask");
          device().selectPanel({ matrix: panel }, { matrix: scale }, k, mask, maskColumn);
          const words = await device().downloadMask(mask);
          const expected = Uint8Array.from(before);
          const chosen = referenceSelectMatrix(scores, rows, columns, k); // row-major order: lower row, then lower column
          for (let r = 0; r < rows; r++) {
            expected.set(chosen.subarray(r * columns, (r + 1) * columns), r * width + maskColumn);
          }
          const what = `[${rows}, ${columns}] at ${maskColumn}, k ${k}`;
          assertSameMask(unpackMask(words, rows, width), expected, width, what);
          assert.deepEqual(words, packMask(expected, rows, width), "spare bits are zero");
        }
      }
    }
  });

  test("selectPanel takes views: some rows of a panel matrix and a part of the scales", async () => {
    const [rows, columns, width] = [70, 128, 256];
    const p = problem(rows, columns, 9, 1 / 3);
    const flipped = Float32Array.from(referenceTranspose(p.weight, rows, columns));
    using panel = device().uploadMatrix(flipped, columns, rows, "panel");
    using scale = device().uploadMatrix(positives(width, 4), 1, width, "scale");
    const all = positives(width, 4);
    using mask = device().createMask(rows, width, "mask");
    // Columns 64..127 of the panel, which sit at mask columns 192..255; scales of the same place.
    device().selectPanel(
      { matrix: panel, firstRow: 64, rows: 64 },
      { matrix: scale, firstColumn: 192, columns: 64 },
      2000,
      mask,
      192,
    );
    const scores = new Float64Array(rows * width).fill(Infinity);
    const order: number[] = [];
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < 64; c++) {
        scores[r * width + 192 + c] = Math.fround(Math.abs(flipped[(64 + c) * rows + r]) * all[192 + c]);
        order.push(r * width + 192 + c);
      }
    }
    const expected = new Uint8Array(rows * width);
    for (const i of order) expected[i] = 1;
    pruneSmallest(scores, order, 2000, expected);
    assertSameMask(unpackMask(await device().downloadMask(mask), rows, width), expected, width, "view");
  });

  test("selections prune exactly the asked number whatever ties there are", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 90 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.constantFrom(0, 0.05, 0.5, 3),
        async (rows, columns, fraction, step) => {
          const p = problem(rows, columns, rows * 100 + columns, step);
          const k = Math.floor(fraction * columns);
          const byRow = await select(device(), p, (w, s, mask) => device().selectRows(w, s, k, mask));
          assertSameMask(byRow, referenceSelectRows(scoresOf(p), rows, columns, k), columns, "rows");
          const total = Math.floor(fraction * rows * columns);
          const whole = await select(device(), p, (w, s, mask) => device().selectMatrix(w, s, total, mask));
          assertSameMask(whole, referenceSelectMatrix(scoresOf(p), rows, columns, total), columns, "matrix");
        },
      ),
      { numRuns: 25, seed: 5 },
    );
  });

  test("multiplying all weights by a power of two changes no mask", async () => {
    const p = problem(50, 200, 8);
    const larger = { ...p, weight: p.weight.map((value) => value * 1024) };
    const first = await select(device(), p, (w, s, mask) => device().selectRows(w, s, 120, mask));
    const second = await select(device(), larger, (w, s, mask) => device().selectRows(w, s, 120, mask));
    assertSameMask(second, first, 200, "scaled");
  });
});
