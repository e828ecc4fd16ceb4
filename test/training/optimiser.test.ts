import assert from "node:assert/strict";
import { test } from "node:test";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { clipScale, takeStep } from "../../src/training/optimiser.js";
import { Parameters, type Parameter } from "../../src/training/parameters.js";
import { linearRate } from "../../src/training/schedule.js";

test("a rate rises over the warm-up, peaks once and falls to one step above 0", () => {
  const rates = Array.from({ length: 10 }, (_, i) => linearRate(1, i + 1, 10, 0.2));
  assert.deepEqual(
    rates.map((rate) => Number(rate.toFixed(4))),
    [0.3333, 0.6667, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
  );
  assert.equal(linearRate(2, 1, 4, 0), 2);
  assert.equal(linearRate(2, 4, 4, 0), 0.5);
});

test("a gradient is scaled down to the norm, never up", () => {
  assert.equal(clipScale(0.5, 1), 1);
  assert.ok(Math.abs(clipScale(4, 1) * 4 - 1) < 1e-6);
  assert.equal(clipScale(1e9, 0), 1);
});

test("a step clips the gradients of all parameters together, by their common norm", async () => {
  await using device = await createCpuDevice();
  const gradients = [Float32Array.of(3, 0), Float32Array.of(0, 4)]; // norm 5
  const parameters = gradients.map((gradient) => {
    const own = new Parameters(device, [{ name: "w", shape: [2], values: Float32Array.of(1, 1), isMasked: false }]);
    [...own][0]?.gradient.host.set(gradient);
    return own;
  });
  const { gradientNorm, gradientScale } = await takeStep(parameters, { rate: 0.1, step: 1, clip: 1 });
  assert.ok(Math.abs(gradientNorm - 5) < 1e-6);
  assert.ok(Math.abs(gradientScale - 0.2) < 1e-6);
  for (const [index, own] of parameters.entries()) {
    const first = await device.download({ matrix: ([...own][0] as Parameter).first });
    first.forEach((m, i) => {
      const clipped = 0.2 * (gradients[index]?.[i] as number);
      assert.ok(Math.abs(m - 0.1 * clipped) < 1e-6, `${index} ${i}: ${m}`);
    });
    own[Symbol.dispose]();
  }
});
