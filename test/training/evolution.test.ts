/** Masks that move, on every device. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LinearSpec } from "../../src/model/architecture.js";
import { exchange, exchangedShare } from "../../src/training/evolution.js";
import { Parameters, type Parameter } from "../../src/training/parameters.js";
import { flagsOf } from "../../src/training/projection.js";
import { describeOnDevices } from "../helpers/devices.js";
import { normals } from "../reference/random.js";

const COLUMNS = 40;
const linear = (name: string, firstRow: number, outFeatures: number): LinearSpec => ({
  ...{ name, role: "w", inFeatures: COLUMNS, outFeatures, inputAxis: 1 },
  outputs: [{ first: firstRow, count: outFeatures }],
});

test("the share falls by a cosine to nothing", () => {
  assert.equal(exchangedShare(0.3, 0, 100), 0.3);
  assert.ok(Math.abs(exchangedShare(0.3, 50, 100) - 0.15) < 1e-12);
  assert.ok(exchangedShare(0.3, 100, 100) < 1e-12);
});

await describeOnDevices((device) => {
  test("the least worthy give way to those of largest gradient, in every linear by itself, and begin anew", async () => {
    const rows = 12; // two linears of four rows each, and four rows of one that is not pruned
    const count = rows * COLUMNS;
    const linears = [linear("a", 0, 4), linear("b", 4, 4)];
    const isKept = (i: number): boolean => i >= 8 * COLUMNS || (i * 7) % 3 !== 0;
    const start = normals(count, 1).map((value, i) => (isKept(i) ? value : 0));
    const [gradients, first] = [normals(count, 2), normals(count, 3)];
    const second = normals(count, 4).map((value) => value * value);
    using parameters = new Parameters(device(), [{ name: "w", shape: [rows, COLUMNS], values: start, isMasked: true }]);
    const [parameter] = [...parameters] as [Parameter];
    parameter.gradient.host.set(gradients);
    parameter.gradient.upload();
    await parameter.receive("first", (into) => Promise.resolve(into.set(first)));
    await parameter.receive("second", (into) => Promise.resolve(into.set(second)));
    const share = 0.13;
    const grown = await exchange(device(), parameter, linears, share);

    const expected = new Set<number>();
    let total = 0;
    for (const { outputs } of linears) {
      const own = Array.from({ length: 4 * COLUMNS }, (_, i) => (outputs?.[0]?.first ?? 0) * COLUMNS + i);
      const kept = own.filter(isKept);
      const some = Math.floor(share * kept.length);
      const worth = (i: number): number => Math.abs(start[i]) * Math.sqrt(second[i]);
      kept.sort((a, b) => worth(a) - worth(b));
      const pruned = own.filter((i) => !isKept(i)).sort((a, b) => Math.abs(gradients[b]) - Math.abs(gradients[a]));
      for (const i of [...kept.slice(0, some), ...pruned.slice(0, some)]) expected.add(i);
      total += some;
    }
    assert.equal(grown, total);
    const mask = flagsOf((await parameter.give("mask")) as Uint32Array, rows, COLUMNS);
    const fields = { values: start, first, second };
    for (const field of ["values", "first", "second"] as const) {
      const now = (await parameter.give(field)) as Float32Array;
      for (let i = 0; i < count; i++) assert.equal(now[i], expected.has(i) ? 0 : fields[field][i], `${field} ${i}`);
    }
    mask.forEach((flag, i) => assert.equal(flag === 1, isKept(i) !== expected.has(i), `mask ${i}`));

    // The step after it moves what grew and nothing that is pruned now.
    await parameters.step({ rate: 0.01, decay: [0.9, 0.95], epsilon: 1e-8, step: 3, gradientScale: 1 });
    parameter.values.host.forEach((value, i) => assert.equal(value !== 0, mask[i] === 1, `${i}`));
  });

  test("no more change places than are pruned, and none where the share is too small", async () => {
    const values = normals(4 * COLUMNS, 5);
    values[17] = 0;
    using parameters = new Parameters(device(), [{ name: "w", shape: [4, COLUMNS], values, isMasked: true }]);
    const [parameter] = [...parameters] as [Parameter];
    assert.equal(await exchange(device(), parameter, [linear("a", 0, 4)], 1 / 200), 0);
    assert.equal(await exchange(device(), parameter, [linear("a", 0, 4)], 0.5), 1);
    assert.notEqual(flagsOf((await parameter.give("mask")) as Uint32Array, 4, COLUMNS)[17], 0);
  });
});
