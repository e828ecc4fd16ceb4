/** Upload, download, masks, element-wise steps and ownership, on every device. */
import { test } from "node:test";
import assert from "node:assert/strict";
import fc from "fast-check";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { normals, createRandom } from "../reference/random.js";
import { referenceTranspose } from "../reference/products.js";
import { packMask } from "../reference/selection.js";
import type { MatrixView } from "../../src/device/device.js";

const SHAPES = [
  [1, 1],
  [1, 31],
  [3, 32],
  [7, 33],
  [63, 65],
  [64, 64],
  [65, 127],
  [129, 130],
] as const;

/** A rectangle inside [rows, columns], from fractions in [0, 1). */
function rectangle(rows: number, columns: number, fractions: readonly number[]): Required<Omit<MatrixView, "matrix">> {
  const firstRow = Math.floor(fractions[0] * rows);
  const firstColumn = Math.floor(fractions[1] * columns);
  return {
    firstRow,
    firstColumn,
    rows: 1 + Math.floor(fractions[2] * (rows - firstRow)),
    columns: 1 + Math.floor(fractions[3] * (columns - firstColumn)),
  };
}

function cut(values: Float32Array, stride: number, view: Required<Omit<MatrixView, "matrix">>): Float32Array {
  const out = new Float32Array(view.rows * view.columns);
  for (let r = 0; r < view.rows; r++) {
    const start = (view.firstRow + r) * stride + view.firstColumn;
    out.set(values.subarray(start, start + view.columns), r * view.columns);
  }
  return out;
}

await describeOnDevices((device) => {
  test("a created matrix is zero and a download returns what was uploaded, to the bit", async () => {
    for (const [rows, columns] of SHAPES) {
      using zero = device().createMatrix(rows, columns, "zero");
      assertSameBits(await device().download({ matrix: zero }), new Float32Array(rows * columns), "created");
      const values = normals(rows * columns, rows * 1000 + columns);
      values[0] = -0;
      using matrix = device().uploadMatrix(values, rows, columns, "values");
      assertSameBits(await device().download({ matrix }), values, "uploaded");
    }
  });

  test("an upload copies: changing the source afterwards changes nothing", async () => {
    const values = normals(12, 1);
    const before = values.slice();
    using matrix = device().uploadMatrix(values, 3, 4, "copied");
    values.fill(7);
    assertSameBits(await device().download({ matrix }), before, "after the source changed");
  });

  test("a download of a view returns exactly its rectangle", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 70 }),
        fc.integer({ min: 1, max: 70 }),
        fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: 4, maxLength: 4 }),
        async (rows, columns, fractions) => {
          const values = normals(rows * columns, rows + columns);
          const view = rectangle(rows, columns, fractions);
          using matrix = device().uploadMatrix(values, rows, columns, "viewed");
          assertSameBits(await device().download({ matrix, ...view }), cut(values, columns, view), "view");
        },
      ),
      { numRuns: 25, seed: 11 },
    );
  });

  test("gather takes rows and columns by index, repeated ones too, or all in order, to the bit", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, rows + columns);
      values[0] = -0;
      using a = device().uploadMatrix(values, rows, columns, "a");
      const random = createRandom(rows);
      const some = (count: number, of: number): Uint32Array =>
        Uint32Array.from({ length: count }, () => Math.floor(random() * of));
      for (const indices of [
        {},
        { rows: some(rows + 3, rows) },
        { columns: some(Math.max(1, columns - 2), columns) },
        { rows: some(5, rows), columns: some(columns + 40, columns) },
      ]) {
        const [outRows, outColumns] = [indices.rows?.length ?? rows, indices.columns?.length ?? columns];
        using out = device().uploadMatrix(new Float32Array(outRows * outColumns).fill(9), outRows, outColumns, "out");
        device().gather(a, out, indices);
        const expected = Float32Array.from({ length: outRows * outColumns }, (_, i) => {
          const [r, c] = [Math.floor(i / outColumns), i % outColumns];
          return values[(indices.rows?.[r] ?? r) * columns + (indices.columns?.[c] ?? c)];
        });
        assertSameBits(await device().download({ matrix: out }), expected, `[${rows}, ${columns}]`);
      }
      assert.throws(() => device().gather(a, a, {}), /gather/);
      using narrow = device().createMatrix(rows, 1, "narrow");
      assert.throws(() => device().gather(a, narrow, { columns: Uint32Array.of(columns) }), /gather/);
    }
  });

  test("masks survive upload and download, spare bits are zero", async () => {
    for (const [rows, columns] of SHAPES) {
      const random = createRandom(columns);
      const words = packMask(
        Uint8Array.from({ length: rows * columns }, () => Number(random() < 0.5)),
        rows,
        columns,
      );
      using mask = device().uploadMask(words, rows, columns, "mask");
      assert.deepEqual(await device().downloadMask(mask), words);
    }
  });

  test("scale multiplies every entry once", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 3);
      using matrix = device().uploadMatrix(values, rows, columns, "scaled");
      device().scale(matrix, Math.fround(0.3));
      const expected = values.map((value) => value * Math.fround(0.3)); // Float32Array rounds each exact product once
      assertSameBits(await device().download({ matrix }), expected, "scale");
    }
  });

  test("scaleColumns multiplies by the column's factor and stores zeros as +0", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 4);
      const factors = normals(columns, 5);
      factors[columns >> 1] = 0;
      using matrix = device().uploadMatrix(values, rows, columns, "scaled");
      using scales = device().uploadMatrix(factors, 1, columns, "factors");
      device().scaleColumns(matrix, scales);
      const expected = values.map((value, i) => value * factors[i % columns] + 0);
      assertSameBits(await device().download({ matrix }), expected, "scaleColumns");
    }
  });

  test("subtract writes its view only, also in place", async () => {
    const [rows, columns] = [37, 70];
    const a = normals(rows * columns, 6);
    const b = normals(rows * columns, 7);
    const view = { firstRow: 5, rows: 31, firstColumn: 3, columns: 66 };
    const inside = (i: number): boolean => {
      const [r, c] = [Math.floor(i / columns), i % columns];
      return r >= 5 && r < 36 && c >= 3 && c < 69;
    };
    using left = device().uploadMatrix(a, rows, columns, "a");
    using right = device().uploadMatrix(b, rows, columns, "b");
    using out = device().uploadMatrix(new Float32Array(rows * columns).fill(99), rows, columns, "out");
    device().subtract({ matrix: left, ...view }, { matrix: right, ...view }, { matrix: out, ...view });
    const expected = a.map((value, i) => (inside(i) ? value - b[i] : 99));
    assertSameBits(await device().download({ matrix: out }), expected, "out of place");

    device().subtract({ matrix: left, ...view }, { matrix: right, ...view }, { matrix: left, ...view });
    const inPlace = a.map((value, i) => (inside(i) ? value - b[i] : value));
    assertSameBits(await device().download({ matrix: left }), inPlace, "into a");

    using fresh = device().uploadMatrix(a, rows, columns, "fresh");
    device().subtract({ matrix: fresh, ...view }, { matrix: right, ...view }, { matrix: right, ...view });
    const intoSecond = a.map((value, i) => (inside(i) ? value - b[i] : b[i]));
    assertSameBits(await device().download({ matrix: right }), intoSecond, "into b");
  });

  test("transpose copies every entry of the view to its mirrored place and nothing else", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 8);
      using matrix = device().uploadMatrix(values, rows, columns, "a");
      const target = new Float32Array((columns + 3) * (rows + 5)).fill(99);
      using out = device().uploadMatrix(target, columns + 3, rows + 5, "out");
      device().transpose({ matrix }, { matrix: out, firstRow: 2, rows: columns, firstColumn: 1, columns: rows });
      const flipped = referenceTranspose(values, rows, columns);
      for (let c = 0; c < columns; c++) {
        for (let r = 0; r < rows; r++) target[(c + 2) * (rows + 5) + r + 1] = flipped[c * rows + r];
      }
      assertSameBits(await device().download({ matrix: out }), target, "transpose");
    }
  });

  test("transpose of a column strip equals the strip of the transpose", async () => {
    const [rows, columns] = [67, 150];
    const values = normals(rows * columns, 9);
    using matrix = device().uploadMatrix(values, rows, columns, "a");
    using out = device().createMatrix(21, 67, "out");
    device().transpose({ matrix, firstColumn: 128, columns: 21 }, { matrix: out });
    const strip = cut(values, columns, { firstRow: 0, rows, firstColumn: 128, columns: 21 });
    const expected = Float32Array.from(referenceTranspose(strip, rows, 21));
    assertSameBits(await device().download({ matrix: out }), expected, "strip");
  });

  test("applyMask writes +0 into pruned entries and leaves kept bits alone", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 10);
      values[0] = -0;
      const random = createRandom(rows);
      const keep = Uint8Array.from({ length: rows * columns }, () => Number(random() < 0.4));
      keep[0] = 1; // a kept -0 stays -0
      using matrix = device().uploadMatrix(values, rows, columns, "weight");
      using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
      device().applyMask(matrix, mask);
      const expected = values.map((value, i) => (keep[i] === 1 ? value : 0));
      assertSameBits(await device().download({ matrix }), expected, "applyMask");
    }
  });

  test("the diagonal is read and written where it is and nowhere else", async () => {
    for (const n of [1, 2, 31, 65, 130]) {
      const values = normals(n * n, n);
      using matrix = device().uploadMatrix(values, n, n, "square");
      const diagonal = Float32Array.from({ length: n }, (_, i) => values[i * n + i]);
      assertSameBits(await device().downloadDiagonal(matrix), diagonal, "read");
      const replacement = normals(n, 12);
      device().setDiagonal(matrix, replacement);
      replacement.forEach((value, i) => (values[i * n + i] = value));
      replacement.fill(5); // the values are taken at the call
      assertSameBits(await device().download({ matrix }), values, "written");
    }
  });

  test("liveBytes counts matrices and masks by label until they are disposed", async () => {
    const first = device().createMatrix(3, 5, "one");
    const second = device().createMatrix(2, 2, "one");
    const mask = device().createMask(4, 33, "bits");
    const live = device().liveBytes();
    assert.ok((live.get("one") ?? 0) >= 76, `label "one": ${live.get("one")} bytes for 76 bytes of data`);
    assert.ok((live.get("bits") ?? 0) >= 32, `label "bits": ${live.get("bits")} bytes for 32 bytes of data`);
    first[Symbol.dispose]();
    assert.ok((device().liveBytes().get("one") ?? 0) >= 16);
    second[Symbol.dispose]();
    mask[Symbol.dispose]();
    await device().synchronize();
    assert.equal(device().liveBytes().size, 0);
  });

  test("operations run in the order in which they were queued", async () => {
    const values = normals(50 * 40, 13);
    using a = device().uploadMatrix(values, 50, 40, "a");
    using b = device().createMatrix(40, 50, "b");
    device().scale(a, 2);
    device().transpose({ matrix: a }, { matrix: b });
    device().scale(a, 0.5); // must not reach b
    const expected = referenceTranspose(values, 50, 40).map((value) => 2 * value);
    // Powers of two: no rounding anywhere.
    assertWithin(await device().download({ matrix: b }), expected, () => 0, "b");
    assertWithin(await device().download({ matrix: a }), values, (i) => F32_ROUNDOFF * Math.abs(values[i]), "a");
  });
});
