/** A walk through every operation of a device: what does not depend on how work is cut, and which kernels it needs. */
import assert from "node:assert/strict";
import { isCholeskyFailure, type Device, type KeepMask, type Matrix } from "../../src/device/device.js";

/** Deterministic values in [-1, 1). */
export function values(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** Every operation once, downloads in a fixed order; the bytes must not depend on how work was cut or folded. */
export async function everything(device: Device): Promise<(Float32Array | Uint32Array)[]> {
  const [tokens, n, rows, panelWidth] = [70, 150, 140, 64];
  const results: (Float32Array | Uint32Array)[] = [];
  using x = device.uploadMatrix(values(tokens * n, 1), tokens, n, "x");
  using h = device.createMatrix(n, n, "h");
  using sums = device.createMatrix(1, n, "sums");
  device.accumulateGram({ matrix: x }, h);
  device.accumulateSquareSums({ matrix: x }, sums);
  results.push(await device.download({ matrix: sums }));
  const diagonal = await device.downloadDiagonal(h);
  device.setDiagonal(
    h,
    diagonal.map((value) => value + 3),
  );
  const cholesky = await device.choleskyReversed(h, panelWidth);
  assert.ok(!isCholeskyFailure(cholesky));
  using panelInverses = cholesky.panelInverses;
  using r = cholesky.diagonal;
  using u = device.createMatrix(n, n, "u");
  device.triangularInverse(cholesky, u);
  results.push(await device.download({ matrix: r }), await device.download({ matrix: u }));

  using w = device.uploadMatrix(values(rows * n, 2), rows, n, "w");
  using wt = device.createMatrix(n, rows, "wt");
  using losses = device.createMatrix(1, rows, "losses");
  using mask = device.createMask(rows, n, "mask");
  device.scaleColumns(w, sums);
  device.scale(w, 0.125);
  device.transpose({ matrix: w }, { matrix: wt });
  const panel = { matrix: wt, rows: panelWidth };
  device.selectPanel(panel, { matrix: r, columns: panelWidth }, 4000, mask, 0);
  device.sweepPanel({
    panel,
    inverse: { matrix: panelInverses, rows: panelWidth },
    firstColumn: 0,
    columns: panelWidth,
    keepMask: mask,
    maskColumn: 0,
    losses,
  });
  results.push(
    await device.downloadMask(mask),
    await device.download({ matrix: wt }),
    await device.download({ matrix: losses }),
  );
  const rest = { firstRow: panelWidth, rows: n - panelWidth };
  device.selectRemaining(
    { matrix: wt, ...rest },
    { matrix: sums, firstColumn: panelWidth, columns: n - panelWidth },
    9000,
    mask,
    panelWidth,
  );
  using lambda = device.createMatrix(n, rows, "lambda");
  for (const width of [70, 140]) {
    // Only the bytes matter here, so the second matrix is not the inverse of the first; both are diagonally dominant.
    const entries = values(width * width, 5).map((value) => value / width);
    for (let c = 0; c < width; c++) entries[c * (width + 1)] = 2;
    using k = device.uploadMatrix(entries, width, width, "k");
    using inverse = device.uploadMatrix(entries.toReversed(), width, width, "inverse");
    device.solveRowSystems({
      panel: { matrix: wt, rows: width },
      matrix: { matrix: k },
      inverse: { matrix: inverse },
      keepMask: mask,
      maskColumn: 3,
      multipliers: { matrix: lambda, rows: width },
      losses,
    });
  }
  results.push(
    await device.downloadMask(mask),
    await device.download({ matrix: lambda }),
    await device.download({ matrix: losses }),
  );
  using product = device.createMatrix(rows, n, "product");
  device.matmul({ a: { matrix: w }, b: { matrix: u }, out: { matrix: product }, transposeB: true });
  device.subtract({ matrix: product }, { matrix: w }, { matrix: product });
  device.selectRows(product, sums, 75, mask);
  results.push(await device.downloadMask(mask));
  device.selectMatrix(product, sums, 9999, mask);
  results.push(await device.downloadMask(mask));
  device.selectGroups(product, sums, 2, 5, mask);
  device.applyMask(product, mask);
  results.push(await device.downloadMask(mask), await device.download({ matrix: product }));
  results.push(...(await masked(device, { w, product, u, sums, mask })), ...(await others(device)));
  results.push(...(await training(device, mask)));
  return results;
}

/** What is left: copies, inverses, uploaded masks, views at odd columns and differences in a third matrix. */
async function others(device: Device): Promise<Float32Array[]> {
  // Sums along rows are cut where a binding ends: these stay below the 128 rows of the narrowest one tests ask for.
  const [tokens, n] = [120, 102];
  using x = device.uploadMatrix(values(tokens * n, 11), tokens, n, "x");
  using y = device.createMatrix(tokens, n, "y");
  device.copy(x, y);
  device.scale(y, 0.5);
  using difference = device.createMatrix(tokens, n, "difference");
  device.subtract({ matrix: x }, { matrix: y }, { matrix: difference });
  using h = device.createMatrix(n - 1, n - 1, "h");
  const odd = { matrix: x, firstColumn: 1 };
  device.accumulateGram(odd, h);
  const diagonal = await device.downloadDiagonal(h);
  device.setDiagonal(
    h,
    diagonal.map((value) => value + 3),
  );
  assert.equal(await device.invertPositiveDefinite(h), undefined);
  using product = device.createMatrix(tokens, n - 1, "product");
  device.matmul({ a: odd, b: { matrix: h }, out: { matrix: product } });
  const everyThird = Uint32Array.from({ length: tokens * Math.ceil(n / 32) }, () => 0x49249249);
  using mask = device.uploadMask(everyThird, tokens, n, "mask");
  device.applyMask(difference, mask);
  return await Promise.all([difference, h, product].map((matrix) => device.download({ matrix })));
}

interface MaskedOperands {
  /** [140, 150] */
  readonly w: Matrix;
  readonly product: Matrix;
  readonly mask: KeepMask;
  /** [150, 150] and [1, 150] */
  readonly u: Matrix;
  readonly sums: Matrix;
}

async function masked(device: Device, { w, product, u, sums, mask }: MaskedOperands): Promise<Float32Array[]> {
  const { rows, columns } = w;
  device.mirrorLower(u);
  using gathered = device.createMatrix(columns, columns, "gathered");
  const backwards = Uint32Array.from({ length: columns }, (_, i) => columns - 1 - i);
  device.gather(u, gathered, { rows: backwards, columns: backwards });
  device.scaleRows(u, sums);
  using other = device.createMask(rows, columns, "other mask");
  device.selectMatrix(w, sums, 7777, other);
  using scratch = device.createMatrix(rows, columns, "scratch");
  device.combine({ a: w, b: product, out: scratch, mask, kept: [1, -1], pruned: [-1, -1] });
  device.combine({ a: w, b: product, out: w, mask: other, kept: [0, 1], pruned: [1, 1] });
  const toOut = { kept: [0.5, -0.5], pruned: [-0.5, -0.5] } as const;
  device.combinePair({ a: w, b: product, out: scratch, mask, toOut, toA: { kept: [0, 1], pruned: [0.9, 1] } });
  using dots = device.createMatrix(1, rows, "dots");
  device.rowDots(scratch, w, dots);
  using direction = device.uploadMatrix(values(rows * columns, 3), rows, columns, "direction");
  device.conjugateStep({ solution: w, residual: scratch, direction, product, keepMask: mask });
  const results = [u, gathered, w, scratch, direction, dots].map((matrix) => device.download({ matrix }));
  return [...(await Promise.all(results)), Float32Array.of(await device.countDifferences(mask, other))];
}

/** Steps of training on matrices of the mask's shape. */
async function training(device: Device, mask: KeepMask): Promise<Float32Array[]> {
  const { rows, columns } = mask;
  const upload = (seed: number): Matrix =>
    device.uploadMatrix(values(rows * columns, seed), rows, columns, `seed ${seed}`);
  using x = upload(21);
  using g = upload(22);
  using z = upload(23);
  using u = upload(24);
  using m = device.createMatrix(rows, columns, "m");
  using v = device.createMatrix(rows, columns, "v");
  device.addInto(u, g);
  const adam = { values: x, gradient: g, first: m, second: v, gradientScale: 0.5, epsilon: 1e-8 };
  const pull = { split: z, dual: u, strength: 0.25 };
  device.adamStep({ ...adam, rate: 0.01, decay: [0.9, 0.95], step: 1, pull });
  device.adamStep({ ...adam, rate: 0.02, decay: [0.9, 0.95], step: 2, mask });
  device.projectionScores({ values: x, dual: u, second: v, out: g });
  const sums = await device.dualStep({ values: x, split: z, dual: u, mask });
  const numbers = [...Object.values(sums), await device.sumOfSquares(x)];
  const results = [x, m, v, g, z, u].map((matrix) => device.download({ matrix }));
  return [...(await Promise.all(results)), Float32Array.from(numbers)];
}
