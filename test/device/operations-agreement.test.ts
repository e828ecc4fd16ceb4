/** All devices of this machine choose the same masks for the same problem. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { devicesUnderTest } from "../helpers/devices.js";
import { assertSameMask } from "../helpers/compare.js";
import { gramOfTokens, uploadProblem } from "../helpers/layer-problem.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { unpackMask } from "../reference/selection.js";
import { findSolver } from "../../src/solvers/registry.js";
import { parsePattern } from "../../src/sparsity/pattern.js";

const [ROWS, COLUMNS, TOKENS] = [96, 264, 700];
const all = await devicesUnderTest();
const missing = all.filter((target) => target.skip !== undefined).map((target) => `${target.name}: ${target.skip}`);
const available = all.filter((target) => target.skip === undefined);

for (const method of ["magnitude", "wanda", "sparsegpt", "thanos", "admm"]) {
  for (const pattern of ["unstructured", "2:4", "3:6"]) {
    test(`${method} ${pattern} chooses the same mask on ${available.map(({ name }) => name).join(" and ")}`, async (context) => {
      for (const reason of missing) context.diagnostic(`not compared: ${reason}`);
      const weight = normals(ROWS * COLUMNS, 1);
      const gram = gramOfTokens(correlatedTokens(TOKENS, COLUMNS, 2), TOKENS, COLUMNS);
      let first: Uint8Array | undefined;
      for (const target of available) {
        await using device = await target.create();
        const layer = { weight, gram, rows: ROWS, columns: COLUMNS, sequenceCount: 4 };
        const { problem, gram: uploaded } = uploadProblem(device, layer, {
          sparsity: 0.6,
          pattern: parsePattern(pattern),
        });
        using _gram = uploaded;
        const solver = findSolver(method);
        const solution = await solver.solve(problem, solver.schema.parse({}), { device });
        using _weight = solution.weight;
        using mask = solution.keepMask;
        const keep = unpackMask(await device.downloadMask(mask), ROWS, COLUMNS);
        first ??= keep;
        // Seeded normal data: the updated weights of sparsegpt and thanos, which differ by rounding between devices, leave no near-ties.
        assertSameMask(keep, first, COLUMNS, `${target.name} against ${available[0].name}`);
      }
      assert.ok(first !== undefined);
    });
  }
}
