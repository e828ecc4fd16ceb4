import assert from "node:assert/strict";
import { test } from "node:test";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { descend } from "../../src/training/descent.js";
import { clipScale } from "../../src/training/optimiser.js";
import { FULL_PRECISION, ParameterStore } from "../../src/training/parameter-store.js";
import type { Parameter } from "../../src/training/parameters.js";
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
  const named = gradients.map((gradient, index) => ({ name: `g${index}`, gradient }));
  await using store = await ParameterStore.create({
    ...{ device, memoryBytes: 2 ** 20, directory: "unused", formats: FULL_PRECISION },
    groups: named.map(({ name }) => ({
      name,
      load: () => Promise.resolve([{ name: "w", shape: [2], values: Float32Array.of(1, 1), isMasked: false }]),
    })),
  });
  const norms: number[] = [];
  await descend(
    {
      ...{ store, taken: 0, onStep: ({ gradientNorm }) => void norms.push(gradientNorm) },
      async gradient() {
        for (const { name, gradient } of named)
          await store.use(name, { writes: ["gradient"] }, (parameters) => {
            ([...parameters][0] as Parameter).gradient.host.set(gradient);
            parameters.uploadGradients();
            return Promise.resolve();
          });
        return { loss: 1, squares: 25 };
      },
    },
    { steps: 1, lr: 0.1, warmup: 0, clip: 1 },
  );
  assert.deepEqual(norms, [5]);
  for (const { name, gradient } of named)
    await store.use(name, { reads: ["first"] }, async ([parameter]) => {
      const first = await device.download({ matrix: (parameter as Parameter).first });
      first.forEach((m, i) => {
        const clipped = 0.2 * (gradient[i] as number);
        assert.ok(Math.abs(m - 0.1 * clipped) < 1e-6, `${name} ${i}: ${m}`);
      });
    });
});
