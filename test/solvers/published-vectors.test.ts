/**
 * Problem "V", small enough to follow by hand: W[r][c] = sin(1 + 8r + c), H₀[i][j] = (1 + i/4)(1 + j/4)·0.6^|i-j|,
 * three rows, eight columns. Masks are written as one string per row, 1 = kept.
 */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { quadratic, relativeError, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { referenceHessian, referenceSparseGpt, type ReferenceSparseGptProblem } from "../reference/sparsegpt.js";
import { unpackMask } from "../reference/selection.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { sparsegpt } from "../../src/solvers/sparsegpt.js";
import { wanda } from "../../src/solvers/wanda.js";
import type { Device } from "../../src/device/device.js";
import type { LayerProblem, LayerSolution } from "../../src/solvers/solver.js";

const [ROWS, COLUMNS] = [3, 8];
const WEIGHT = Float64Array.from({ length: 24 }, (_, i) => Math.sin(1 + i));
const H0 = Float64Array.from({ length: 64 }, (_, i) => {
  const [r, c] = [Math.floor(i / 8), i % 8];
  return (1 + r / 4) * (1 + c / 4) * 0.6 ** Math.abs(r - c);
});
/** H is 2/sequences·gram in the paper code's scale, so two sequences make it H₀ itself. */
const LAYER: PlainLayer = { weight: WEIGHT, gram: H0, rows: ROWS, columns: COLUMNS, sequenceCount: 2 };

const TWO_OF_FOUR_WEIGHTS = [
  [0, 1.298387, 0, -0.681878, -0.958168, 0, 0, 1.26402],
  [0, 0, -1.168622, -0.538828, 0, 1.212066, 0.651688, 0],
  [-0.961397, 0, 0, 0.799134, 0, 0, -0.612617, -0.904364],
].flat();

const text = (keep: Uint8Array): string =>
  Array.from({ length: ROWS }, (_, r) => keep.slice(8 * r, 8 * r + 8).join("")).join(" ");
const bytes = (mask: string): Uint8Array => Uint8Array.from(mask.replaceAll(" ", ""), Number);

const REFERENCE: ReferenceSparseGptProblem = {
  ...LAYER,
  damping: 0.01,
  blockSize: 8,
  target: { kind: "unstructured", sparsity: 0.5 },
};

test("the float64 twin gives the published masks and losses by the official threshold rule", () => {
  const byBlock4 = referenceSparseGpt({ ...REFERENCE, blockSize: 4, officialThreshold: true });
  assert.equal(text(byBlock4.keep), "01011001 00100100 10010011");
  assert.ok(Math.abs(byBlock4.loss - 3.77196) < 1e-6); // printed to six decimals
  const byBlock8 = referenceSparseGpt({ ...REFERENCE, officialThreshold: true });
  assert.equal(text(byBlock8.keep), "00011011 00100110 00011011");
  assert.ok(Math.abs(byBlock8.loss - 3.675916) < 1e-6);
  const fixed = referenceSparseGpt({
    ...REFERENCE,
    target: { kind: "fixed", keep: bytes("00011011 00110110 00011011") },
  });
  assert.ok(Math.abs(fixed.loss - 3.58848) < 1e-6);
  const diagonal = [1.206512, 0.976925, 0.81967, 0.705543, 0.619074, 0.551356, 0.496915, 0.362716];
  diagonal.forEach((value, c) => assert.ok(Math.abs(fixed.u[9 * c] - value) < 1e-6));
});

test("the twin's loss is half the trace of D·H·Dᵀ with the damped H", () => {
  const { weight, loss } = referenceSparseGpt(REFERENCE);
  const { h } = referenceHessian(REFERENCE);
  const change = WEIGHT.map((value, i) => value - weight[i]);
  assert.ok(Math.abs(loss - quadratic(change, h, ROWS, COLUMNS) / 2) < 1e-12 * loss); // float64 rounding of some hundred terms
});

async function solved(
  device: Device,
  target: Parameters<typeof uploadProblem>[2],
  solve: (problem: LayerProblem) => Promise<LayerSolution>,
): Promise<{ weight: Float32Array; keep: Uint8Array; loss: number | undefined }> {
  const { problem, gram } = uploadProblem(device, LAYER, target);
  using _gram = gram;
  const solution = await solve(problem);
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), ROWS, COLUMNS);
  return { weight: await device.download({ matrix: weight }), keep, loss: solution.loss };
}

await describeOnDevices((device) => {
  test("sparsegpt at 0.5 in blocks of 8 prunes exactly 12 and has the published loss", async () => {
    const options = sparsegpt.schema.parse({ blockSize: 8 });
    const { keep, weight, loss } = await solved(device(), { sparsity: 0.5 }, (problem) =>
      sparsegpt.solve(problem, options, { device: device() }),
    );
    assert.equal(text(keep), "01011011 00100110 00011011");
    assert.ok(Math.abs((loss ?? NaN) - 2.355459) < 1e-4 * 2.355459); // f32 on a problem of condition about 100
    weight.forEach((value, i) => keep[i] === 1 || assert.ok(Object.is(value, 0)));
  });

  test("sparsegpt 2:4 gives the published mask, weights and loss whatever the block size", async () => {
    for (const blockSize of [4, 8, 128]) {
      const options = sparsegpt.schema.parse({ blockSize });
      const pattern = parsePattern("2:4");
      const { keep, weight, loss } = await solved(device(), { pattern }, (problem) =>
        sparsegpt.solve(problem, options, { device: device() }),
      );
      assert.equal(text(keep), "01011001 00110110 10010011");
      weight.forEach((value, i) =>
        assert.ok(Math.abs(value - TWO_OF_FOUR_WEIGHTS[i]) <= 1e-4, `weight ${i} is ${value}`),
      );
      assert.ok(Math.abs((loss ?? NaN) - 3.125863) < 1e-4 * 3.125863);
    }
  });

  test("wanda gives the published masks and output errors", async () => {
    const half = await solved(device(), { sparsity: 0.5 }, (problem) =>
      wanda.solve(problem, wanda.schema.parse({}), { device: device() }),
    );
    assert.equal(text(half.keep), "00011011 00110110 00011011");
    assert.ok(Math.abs(relativeError(WEIGHT, half.weight, H0, ROWS, COLUMNS) - 0.144456) < 1e-6);
    const pattern = parsePattern("2:4");
    const groups = await solved(device(), { pattern }, (problem) =>
      wanda.solve(problem, wanda.schema.parse({}), { device: device() }),
    );
    assert.equal(text(groups.keep), "01011001 00110110 10010011");
    assert.ok(Math.abs(relativeError(WEIGHT, groups.weight, H0, ROWS, COLUMNS) - 0.137307) < 1e-6);
  });
});
