/** One small system per row, on every device against Gaussian elimination in float64. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertSameMask, assertWithin } from "../helpers/compare.js";
import { correlatedTokens, createRandom, normals, positives, quantized } from "../reference/random.js";
import { referenceInverse } from "../reference/cholesky.js";
import { referenceGram, referenceTranspose } from "../reference/products.js";
import { referenceRowSystems } from "../reference/row-systems.js";
import { packMask, referenceScores, referenceSelectGroups, unpackMask } from "../reference/selection.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import type { Device } from "../../src/device/device.js";

interface Block {
  readonly rows: number;
  readonly width: number;
  /** [rows, width] */
  readonly weight: Float32Array;
  /** [width, width], condition below 100, scales of rows and columns between 1 and 9. */
  readonly matrix: Float32Array;
  readonly inverse: Float32Array;
}

function block(rows: number, width: number, seed: number): Block {
  const tokens = 2 * width + 8;
  const gram = referenceGram(correlatedTokens(tokens, width, seed), tokens, width).map((value) => value / tokens);
  for (let c = 0; c < width; c++) gram[c * (width + 1)] += 0.2;
  return {
    rows,
    width,
    weight: normals(rows * width, seed + 1),
    matrix: Float32Array.from(gram),
    inverse: Float32Array.from(referenceInverse(gram, width)),
  };
}

interface Run {
  readonly maskColumn: number;
  /** [rows, width] */
  readonly keep: Uint8Array;
  readonly choose?: { readonly keep: number; readonly group: number; readonly scale: Float32Array };
}

const BEFORE = 0.5;

async function runOnDevice(device: Device, b: Block, run: Run) {
  const { rows, width } = b;
  const maskWidth = run.maskColumn + width + 3;
  // The mask around the block holds a pattern that must survive, and views lie inside larger matrices.
  const before = Uint8Array.from({ length: rows * maskWidth }, (_, i) => Number(i % 3 === 0));
  for (let r = 0; r < rows; r++) {
    before.set(run.keep.subarray(r * width, (r + 1) * width), r * maskWidth + run.maskColumn);
  }
  const framed = (values: Float32Array): Float32Array => {
    const frame = new Float32Array((width + 2) * (width + 5)).fill(99);
    for (let r = 0; r < width; r++) frame.set(values.subarray(r * width, (r + 1) * width), (r + 2) * (width + 5) + 5);
    return frame;
  };
  const flipped = Float32Array.from(referenceTranspose(b.weight, rows, width));
  using panel = device.uploadMatrix(
    Float32Array.of(...new Float32Array(rows).fill(7), ...flipped),
    width + 1,
    rows,
    "panel",
  );
  using matrix = device.uploadMatrix(framed(b.matrix), width + 2, width + 5, "matrix");
  using inverse = device.uploadMatrix(framed(b.inverse), width + 2, width + 5, "inverse");
  using mask = device.uploadMask(packMask(before, rows, maskWidth), rows, maskWidth, "mask");
  using multipliers = device.uploadMatrix(new Float32Array((width + 1) * rows).fill(9), width + 1, rows, "multipliers");
  using losses = device.uploadMatrix(new Float32Array(rows).fill(BEFORE), 1, rows, "losses");
  const scales = Float32Array.of(0, 0, ...(run.choose?.scale ?? new Float32Array(width)));
  using scale = device.uploadMatrix(scales, 1, width + 2, "scale");
  const square = { firstRow: 2, firstColumn: 5, rows: width, columns: width };
  device.solveRowSystems({
    panel: { matrix: panel, firstRow: 1 },
    matrix: { matrix, ...square },
    inverse: { matrix: inverse, ...square },
    keepMask: mask,
    maskColumn: run.maskColumn,
    ...(run.choose && { choose: { ...run.choose, scale: { matrix: scale, firstColumn: 2 } } }),
    multipliers: { matrix: multipliers, rows: width },
    losses,
  });
  const after = unpackMask(await device.downloadMask(mask), rows, maskWidth);
  const keep = new Uint8Array(rows * width);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < maskWidth; c++) {
      const inside = c >= run.maskColumn && c < run.maskColumn + width;
      if (inside) keep[r * width + c - run.maskColumn] = after[r * maskWidth + c];
      else assert.equal(after[r * maskWidth + c], before[r * maskWidth + c], "bits outside the block are untouched");
    }
  }
  const all = await device.download({ matrix: multipliers });
  all.subarray(width * rows).forEach((value) => assert.equal(value, 9, "rows beyond the view are untouched"));
  const lambda = Float32Array.from(referenceTranspose(all.subarray(0, width * rows), width, rows));
  return { lambda, keep, losses: await device.download({ matrix: losses }) };
}

/** Rows prune more and more: none, a few, about half, nearly all, all. */
function variedMask(rows: number, width: number, seed: number): Uint8Array {
  const random = createRandom(seed);
  return Uint8Array.from({ length: rows * width }, (_, i) => {
    const share = Math.floor(i / width) / Math.max(1, rows - 1);
    return Number(random() >= share);
  });
}

await describeOnDevices((device) => {
  test("multipliers and losses agree with Gaussian elimination, whatever part of a row is pruned", async () => {
    for (const [rows, width, maskColumn] of [
      [2, 1, 0],
      [5, 2, 31],
      [9, 33, 7],
      [13, 127, 64],
      [11, 128, 128],
      [9, 129, 5],
      [6, 130, 0],
      [5, 201, 17],
    ]) {
      const b = block(rows, width, width);
      const keep = variedMask(rows, width, rows);
      const twin = referenceRowSystems(b.weight, b.matrix, keep, width);
      const actual = await runOnDevice(device(), b, { maskColumn, keep });
      const what = `[${rows}, ${width}]`;
      assertSameMask(actual.keep, keep, width, what);
      const scale = Math.max(...twin.multipliers.map(Math.abs));
      // Roundoff of the given K⁻¹ and of the solution, times a condition below 100.
      assertWithin(actual.lambda, twin.multipliers, () => 2e-5 * scale, `${what}: multipliers`);
      const losses = twin.losses.map((value) => value + BEFORE);
      assertWithin(actual.losses, losses, (r) => 2e-5 * losses[r], `${what}: losses`);
      actual.lambda.forEach((value, i) => keep[i] === 0 || assert.equal(value, 0, `${what}: entry ${i} is kept`));
    }
  });

  test("N:M masks are chosen by |w|·scale, ties prune the lower column", async () => {
    for (const [keepCount, group, width, maskColumn] of [
      [2, 4, 128, 0],
      [1, 3, 126, 126],
      [5, 8, 40, 13],
      [40, 64, 192, 9],
    ]) {
      const rows = 7;
      const b = { ...block(rows, width, width), weight: quantized(rows * width, 3, 1 / 4) };
      const scale = positives(width, 4).map((value) => Math.round(value * 4) / 4);
      const expected = referenceSelectGroups(
        referenceScores(b.weight, scale, rows, width),
        rows,
        width,
        keepCount,
        group,
      );
      const choose = { keep: keepCount, group, scale };
      const actual = await runOnDevice(device(), b, { maskColumn, keep: new Uint8Array(rows * width), choose });
      assertSameMask(actual.keep, expected, width, `${keepCount}:${group}`);
      const twin = referenceRowSystems(b.weight, b.matrix, expected, width);
      const largest = Math.max(...twin.multipliers.map(Math.abs));
      assertWithin(actual.lambda, twin.multipliers, () => 2e-5 * largest, `${keepCount}:${group}`);
    }
  });

  test("a system that is not positive definite shows in its row's loss and in no other", async () => {
    const b = block(3, 10, 5);
    b.matrix[0] = -1;
    const keep = new Uint8Array(30).fill(1);
    keep[0] = keep[5] = 0; // row 0 prunes columns 0 and 5
    keep[14] = keep[21] = 0;
    const { losses, lambda } = await runOnDevice(device(), b, { maskColumn: 0, keep });
    assert.ok(losses[0] >= 1e38, `${losses[0]}`);
    lambda.subarray(0, 10).forEach((value) => assert.equal(value, 0));
    const twin = referenceRowSystems(b.weight, b.matrix, keep, 10);
    assertWithin(
      losses.subarray(1),
      twin.losses.subarray(1).map((value) => value + BEFORE),
      () => 1e-5,
      "other rows",
    );
  });

  test("selectRemaining takes the zeros of earlier columns off the count", async () => {
    const [rows, width] = [37, 75];
    const weight = quantized(rows * width, 8, 1 / 3);
    const earlier = variedMask(rows, width, 9);
    using panel = device().uploadMatrix(
      Float32Array.from(referenceTranspose(weight, rows, width)),
      width,
      rows,
      "panel",
    );
    using scale = device().uploadMatrix(new Float32Array(width).fill(1), 1, width, "scale");
    for (const first of [0, 1, 31, 32, 50]) {
      const placed = earlier.filter((bit, i) => i % width < first && bit === 0).length;
      const left = rows * (width - first);
      for (const count of [0, placed >> 1, placed, placed + 1, placed + (left >> 1), placed + left, rows * width]) {
        using mask = device().uploadMask(packMask(earlier, rows, width), rows, width, "mask");
        device().selectRemaining(
          { matrix: panel, firstRow: first },
          { matrix: scale, firstColumn: first },
          count,
          mask,
          first,
        );
        const expected = earlier.slice();
        const order = [...weight.keys()].filter((i) => i % width >= first);
        for (const i of order) expected[i] = 1;
        order.sort((x, y) => Math.abs(weight[x]) - Math.abs(weight[y]) || x - y);
        for (const i of order.slice(0, Math.max(0, count - placed))) expected[i] = 0;
        const actual = unpackMask(await device().downloadMask(mask), rows, width);
        assertSameMask(actual, expected, width, `columns from ${first}, count ${count}`);
      }
    }
  });
});

test("row systems do not depend on the number of threads", async () => {
  const b = block(40, 64, 6);
  const keep = variedMask(40, 64, 7);
  const results = [];
  for (const threads of [1, 3]) {
    await using device = await createCpuDevice({ threads });
    results.push(await runOnDevice(device, b, { maskColumn: 3, keep }));
  }
  const [first, second] = results;
  assertSameBits(second.lambda, first.lambda, "multipliers");
  assertSameBits(second.losses, first.losses, "losses");
});
