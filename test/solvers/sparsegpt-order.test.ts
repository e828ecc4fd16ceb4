/** SparseGPT in activation order: the twin on the permuted problem, put back; N:M groups stay whole. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertSameMask } from "../helpers/compare.js";
import { gramOfTokens, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { unpackMask } from "../reference/selection.js";
import { referenceSparseGpt } from "../reference/sparsegpt.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { sparsegpt } from "../../src/solvers/sparsegpt.js";
import type { Device } from "../../src/device/device.js";

function layer(rows: number, columns: number, seed: number): PlainLayer {
  const tokens = 3 * columns;
  const gram = gramOfTokens(correlatedTokens(tokens, columns, seed + 1), tokens, columns);
  return { weight: normals(rows * columns, seed), gram, rows, columns, sequenceCount: 4 };
}

/** The same layer with its columns in another order. */
function reordered(plain: PlainLayer, order: readonly number[]): PlainLayer {
  const { rows, columns, weight, gram } = plain;
  return {
    ...plain,
    weight: Float32Array.from({ length: rows * columns }, (_, i) => weight[i - (i % columns) + order[i % columns]]),
    gram: Float64Array.from(
      { length: columns * columns },
      (_, i) => gram[order[Math.floor(i / columns)] * columns + order[i % columns]],
    ),
  };
}

/** Groups of `group` columns by descending sum of the diagonal. */
function descending(plain: PlainLayer, group: number): number[] {
  const { columns, gram } = plain;
  const groups = Array.from({ length: columns / group }, (_, g) => {
    const members = Array.from({ length: group }, (_, i) => g * group + i);
    return { members, sum: members.reduce((sum, c) => sum + gram[c * (columns + 1)], 0) };
  });
  return groups.sort((x, y) => y.sum - x.sum).flatMap(({ members }) => members);
}

interface Target {
  readonly sparsity?: number;
  readonly pattern?: Pattern;
}

async function solve(device: Device, plain: PlainLayer, target: Target, order: "natural" | "activation") {
  const { problem, gram } = uploadProblem(device, plain, target);
  using _gram = gram;
  const solution = await sparsegpt.solve(problem, sparsegpt.schema.parse({ order }), { device });
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), plain.rows, plain.columns);
  return { weight: await device.download({ matrix: weight }), keep, loss: solution.loss };
}

await describeOnDevices((device) => {
  test("activation order equals the twin on the permuted problem, put back in place", async () => {
    const cases: { rows: number; columns: number; target: Target }[] = [
      { rows: 11, columns: 150, target: { sparsity: 0.6 } },
      { rows: 11, columns: 140, target: { pattern: parsePattern("2:4") } },
      { rows: 5, columns: 66, target: { pattern: parsePattern("1:3") } },
    ];
    for (const { rows, columns, target } of cases) {
      const plain = layer(rows, columns, columns);
      const pattern = target.pattern ?? UNSTRUCTURED;
      const order = descending(plain, pattern.kind === "n-of-m" ? pattern.group : 1);
      const twin = referenceSparseGpt({
        ...reordered(plain, order),
        damping: 0.01,
        blockSize: 128,
        target: pattern.kind === "n-of-m" ? pattern : { kind: "unstructured", sparsity: target.sparsity ?? 0 },
      });
      const { weight, keep, loss } = await solve(device(), plain, target, "activation");
      const what = `[${rows}, ${columns}] ${JSON.stringify(target)}`;
      const at = (i: number): number => i - (i % columns) + order[i % columns];
      assertSameMask(
        keep.map((_, i) => keep[at(i)]),
        twin.keep,
        columns,
        what,
      );
      weight.forEach((value, i) => assert.equal(Object.is(value, 0), keep[i] === 0, `${what}: ${i} is ${value}`));
      // As for the natural order in solvers.test.ts.
      twin.weight.forEach((value, i) =>
        assert.ok(Math.abs(weight[at(i)] - value) < 2e-4, `${what}: ${at(i)} is ${weight[at(i)]}, expected ${value}`),
      );
      assert.ok(Math.abs((loss ?? NaN) - twin.loss) < 2e-4 * twin.loss, `${what}: loss ${loss}, expected ${twin.loss}`);
      if (pattern.kind === "unstructured") continue;
      for (let first = 0; first < keep.length; first += pattern.group) {
        const kept: number = keep.slice(first, first + pattern.group).filter((bit) => bit === 1).length;
        assert.equal(kept, pattern.keep, `${what}: group at ${first}`);
      }
    }
  });

  test("activation order changes nothing where the diagonal descends already", async () => {
    const plain = layer(8, 130, 4);
    for (const target of [{ sparsity: 0.5 }, { pattern: parsePattern("1:2") }]) {
      const sorted = reordered(plain, descending(plain, 1)); // groups of a descending diagonal descend, too
      const natural = await solve(device(), sorted, target, "natural");
      const activation = await solve(device(), sorted, target, "activation");
      assertSameBits(activation.weight, natural.weight, JSON.stringify(target));
      assertSameMask(activation.keep, natural.keep, 130, JSON.stringify(target));
      assert.equal(activation.loss, natural.loss);
    }
  });
});
