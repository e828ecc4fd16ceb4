/**
 * What is particular to the webgpu device: folded grids, default limits, bindings by row ranges, the ledger, failures,
 * and that a process which used it ends. The operations themselves are tested by operations-*.test.ts.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import { DeviceError, InternalError } from "../../src/errors.js";
import type { Device } from "../../src/device/device.js";
import { isCholeskyFailure } from "../../src/device/device.js";
import { DAWN_FLAGS, createWebGpuDevice, listAdapters } from "../../src/device/webgpu/adapter.js";
import type { WebGpuOptions } from "../../src/device/webgpu/adapter.js";
import { Dispatcher, foldGrid } from "../../src/device/webgpu/dispatch.js";
import { createDeviceOn } from "../../src/device/webgpu/webgpu-device.js";
import { findTestAdapter } from "../helpers/adapter.js";
import { everything, values } from "../helpers/every-operation.js";

const found = await findTestAdapter();
const skip = found.available ? false : found.reason;

async function open(options: WebGpuOptions = {}): Promise<Device> {
  const device = await createWebGpuDevice({ allowSoftware: true, ...options });
  assert.ok(device !== undefined);
  return device;
}

/** Never collected: see `instances` in src/device/webgpu/adapter.ts. */
const instances: GPU[] = [];

async function openGpuDevice(): Promise<GPUDevice> {
  const { create } = await import("webgpu");
  const gpu = create(DAWN_FLAGS);
  instances.push(gpu);
  const adapter = await gpu.requestAdapter();
  assert.ok(adapter !== null);
  return adapter.requestDevice();
}

/**
 * The GPU device as it is without memory for buffers whose label matches: as Dawn shows it, by a buffer that no command
 * may use and an error in the scope around its creation.
 */
function withoutMemory(device: GPUDevice, memory: { readonly lacking: RegExp }): GPUDevice {
  const failed: boolean[] = [];
  const own: Partial<GPUDevice> = {
    pushErrorScope(filter) {
      failed.push(false);
      return device.pushErrorScope(filter);
    },
    async popErrorScope() {
      const lacked = failed.pop();
      const error = await device.popErrorScope();
      return lacked === true ? ({ message: "out of memory" } as GPUError) : error;
    },
    createBuffer(descriptor) {
      if (!memory.lacking.test(descriptor.label ?? "")) return device.createBuffer(descriptor);
      failed[failed.length - 1] = true;
      device.pushErrorScope("validation");
      const unusable = device.createBuffer({ ...descriptor, usage: 0 });
      device.popErrorScope().catch(() => undefined);
      return unusable;
    },
  };
  return new Proxy(device, {
    get(target, name) {
      const value: unknown = name in own ? Reflect.get(own, name) : Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

function isOutOfMemory(error: Error): boolean {
  assert.ok(error instanceof DeviceError, String(error));
  assert.equal(error.code, "E_DEVICE_MEMORY", error.message);
  return error.message.includes('matrix "too much');
}

test("foldGrid covers every count within the cap and wastes less than a row of the grid", () => {
  for (const cap of [1, 7, 65_535]) {
    for (const count of [1, 2, 6, 7, 8, 48, 49, 50, 343, 100_576, 65_536]) {
      const [x, y, z] = foldGrid(count, cap);
      assert.ok(x <= cap && y <= cap, `${x} × ${y} × ${z} for ${count} with cap ${cap}`);
      assert.ok(x * y * z >= count && x * y * z < count + y * z + x * y, `${x} × ${y} × ${z} for ${count}`);
    }
  }
});

describe("webgpu device", { skip }, () => {
  let device: Device;
  /** What every operation gives: seconds of work, which several tests compare with. */
  let expected: (Float32Array | Uint32Array)[];
  before(async () => {
    device = await open();
    expected = await everything(device);
  });
  after(async () => {
    await device[Symbol.asyncDispose]();
  });

  test("gives the same bytes with the default limits and every grid folded", async () => {
    await using other = await open({ baseLimits: true, dispatchGridCap: 3 });
    assert.deepEqual(await everything(other), expected);
  });

  test("gives the same bytes when matrices must be bound by row ranges", async () => {
    // Rows are padded to 192 floats here: 128 of them fit, so every matrix of 140 or 150 rows is bound in parts.
    const dispatcher = new Dispatcher(await openGpuDevice(), { largestBinding: 128 * 192 * 4 });
    await using narrow = createDeviceOn(dispatcher, "narrow bindings");
    assert.deepEqual(await everything(narrow), expected);
  });

  test("a product whose inner dimension exceeds a binding is summed in parts", async () => {
    const [m, k, n] = [70, 300, 33];
    const dispatcher = new Dispatcher(await openGpuDevice(), { largestBinding: 128 * 4 * 70 });
    await using narrow = createDeviceOn(dispatcher, "narrow bindings");
    const [left, right] = [values(k * m, 7), values(k * n, 8)];
    using a = narrow.uploadMatrix(left, k, m, "a");
    using b = narrow.uploadMatrix(right, k, n, "b");
    using out = narrow.createMatrix(m, n, "out");
    narrow.matmul({ a: { matrix: a }, b: { matrix: b }, out: { matrix: out }, transposeA: true });
    const got = await narrow.download({ matrix: out });
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let [sum, size] = [0, 0];
        for (let t = 0; t < k; t++) {
          const term = left[t * m + i] * right[t * n + j];
          sum += term;
          size += Math.abs(term);
        }
        // k roundings of at most 2⁻²⁴ of the partial sums, which are at most Σ|a||b|.
        assert.ok(Math.abs(got[i * n + j] - sum) <= k * 2 ** -24 * size, `element ${i}, ${j}`);
      }
    }
  });

  test("the factorisation crosses strips of 512 rows, with blocks of 64 and with blocks that are no multiple of 4", async () => {
    const n = 580;
    const factors = values(n * 20, 9);
    // H = FFᵀ + diag(4 + i/n), positive definite with a smallest eigenvalue of at least 4.
    const h = new Float32Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        let sum = i === j ? 4 + i / n : 0;
        for (let t = 0; t < 20; t++) sum += factors[i * 20 + t] * factors[j * 20 + t];
        h[i * n + j] = sum;
      }
    }
    for (const panelWidth of [128, 18]) {
      using matrix = device.uploadMatrix(h, n, n, "h");
      const cholesky = await device.choleskyReversed(matrix, panelWidth);
      assert.ok(!isCholeskyFailure(cholesky));
      using _inverses = cholesky.panelInverses;
      using _diagonal = cholesky.diagonal;
      const l = await device.download({ matrix });
      let worst = 0;
      for (let i = 0; i < n; i += 7) {
        for (let j = 0; j <= i; j++) {
          let sum = 0;
          for (let k = i; k < n; k++) sum += l[k * n + i] * l[k * n + j];
          worst = Math.max(worst, Math.abs(sum - h[i * n + j]));
        }
      }
      // Cholesky's backward error is n·2⁻²⁴·max diagonal in the worst case and about √n of it in practice.
      const scale = Math.max(...Array.from({ length: n }, (_, i) => h[i * n + i]));
      assert.ok(worst <= Math.sqrt(n) * 2 ** -24 * scale * 4, `panel ${panelWidth}: ${worst} of ${scale}`);
    }
  });

  test("long sums are cut and still exact where every partial sum is an integer", async () => {
    // 0, ±1, ±2: all sums are integers below 2²⁴, so f32 must be exact in any order and every cut must add up.
    const small = (count: number, seed: number): Float32Array =>
      values(count, seed).map((value) => Math.round(value * 2));
    const [tokens, n] = [17_000, 5];
    const x = small(tokens * n, 10);
    using xs = device.uploadMatrix(x, tokens, n, "x");
    using gram = device.createMatrix(n, n, "gram");
    using sums = device.createMatrix(1, n, "sums");
    using product = device.createMatrix(n, n, "product");
    device.accumulateGram({ matrix: xs }, gram);
    device.accumulateSquareSums({ matrix: xs }, sums);
    device.matmul({ a: { matrix: xs }, b: { matrix: xs }, out: { matrix: product }, transposeA: true });
    const expected = Array.from({ length: n * n }, (_, at) => {
      let sum = 0;
      for (let t = 0; t < tokens; t++) sum += x[t * n + Math.floor(at / n)] * x[t * n + (at % n)];
      return sum;
    });
    assert.deepEqual([...(await device.download({ matrix: product }))], expected);
    assert.deepEqual(
      [...(await device.download({ matrix: sums }))],
      expected.filter((_, at) => at % (n + 1) === 0),
    );
    const got = await device.download({ matrix: gram });
    for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) assert.equal(got[i * n + j], expected[i * n + j]);
  });

  test("two runs give the same bytes and leave nothing alive", async () => {
    const first = await everything(device);
    assert.deepEqual(await everything(device), first);
    assert.deepEqual([...device.liveBytes()], []);
  });

  test("the ledger names what is alive by label, with rows padded to 64 floats", () => {
    using _a = device.createMatrix(3, 65, "weights");
    using _b = device.createMatrix(1, 64, "weights");
    using _c = device.createMask(5, 33, "mask");
    assert.deepEqual([...device.liveBytes()].sort(), [
      ["mask", 256],
      ["weights", 3 * 128 * 4 + 64 * 4],
    ]);
  });

  test("a matrix beyond the largest buffer is a DeviceError that names it and the sizes", async () => {
    await using small = await open({ largestBuffer: 2 ** 20 });
    assert.throws(
      () => small.createMatrix(2 ** 10, 2 ** 9, "huge gram"),
      (error: Error) =>
        error instanceof DeviceError &&
        error.code === "E_DEVICE_MEMORY" &&
        error.message.includes('matrix "huge gram" of 1024 × 512') &&
        error.message.includes(String(2 ** 21)) &&
        error.message.includes(String(2 ** 20)),
    );
    using largest = small.createMatrix(2 ** 10, 2 ** 8, "largest");
    assert.deepEqual([...small.liveBytes()], [[largest.label, 2 ** 20]]);
  });

  test("an allocation that fails is an error of the operations that use its matrix, and of no other", async () => {
    const memory = { lacking: /too much/ };
    await using poor = createDeviceOn(new Dispatcher(withoutMemory(await openGpuDevice(), memory)), "without memory");
    using other = poor.uploadMatrix(values(25, 3), 5, 5, "other");
    using failed = poor.createMatrix(5, 5, "too much");
    // Not known yet: what uses the matrix fails at the next wait, and nothing is left of it at the one after.
    poor.scale(failed, 2);
    await assert.rejects(poor.synchronize(), isOutOfMemory);
    await poor.synchronize();
    // Known: refused at the call, and at the promise.
    assert.throws(() => poor.copy(other, failed), isOutOfMemory);
    await assert.rejects(poor.download({ matrix: failed }), isOutOfMemory);
    {
      using _unused = poor.createMatrix(5, 5, "too much, and unused");
      poor.scale(other, 2);
      const expected = values(25, 3).map((value) => 2 * value);
      assert.deepEqual(await poor.download({ matrix: other }), expected, "work without it goes on");
    }
    using upload = poor.uploadMatrix(values(25, 3), 5, 5, "too much to upload");
    await assert.rejects(poor.download({ matrix: other }), isOutOfMemory);
    assert.throws(() => poor.scale(upload, 2), isOutOfMemory);
    await poor.synchronize();
  });

  test("scratch memory and readback that could not be had once are asked for again", async () => {
    const memory = { lacking: /scratch diagonal|readback/ };
    await using poor = createDeviceOn(new Dispatcher(withoutMemory(await openGpuDevice(), memory)), "without memory");
    using matrix = poor.uploadMatrix(values(25, 3), 5, 5, "matrix");
    const isLacking = (error: Error): boolean => error instanceof DeviceError && error.code === "E_DEVICE_MEMORY";
    await assert.rejects(poor.downloadDiagonal(matrix), isLacking);
    memory.lacking = /readback/;
    await assert.rejects(poor.downloadDiagonal(matrix), isLacking);
    memory.lacking = /nothing/;
    const diagonal = values(25, 3).filter((_, i) => i % 6 === 0);
    assert.deepEqual(await poor.downloadDiagonal(matrix), diagonal);
    assert.deepEqual(await poor.download({ matrix }), values(25, 3));
  });

  test("a matrix used after its disposal, and one of another device, are refused", async () => {
    const gone = device.createMatrix(2, 2, "gone");
    gone[Symbol.dispose]();
    gone[Symbol.dispose]();
    assert.throws(
      () => device.scale(gone, 2),
      (error: Error) => error instanceof InternalError && error.code === "E_DISPOSED",
    );
    await using other = await open();
    using foreign = other.createMatrix(2, 2, "foreign");
    assert.throws(
      () => device.scale(foreign, 2),
      (error: Error) => error instanceof InternalError && error.code === "E_FOREIGN_MATRIX",
    );
  });

  test("a matrix disposed right after its last operation was queued is still used by that operation", async () => {
    using out = device.createMatrix(5, 5, "out");
    {
      using a = device.uploadMatrix(values(25, 3), 5, 5, "a");
      device.transpose({ matrix: a }, { matrix: out });
    }
    const result = await device.download({ matrix: out });
    assert.equal(result[1], values(25, 3)[5]);
  });

  test("downloads that run at the same time do not mix", async () => {
    using a = device.uploadMatrix(values(300, 4), 3, 100, "a");
    using b = device.uploadMatrix(values(300, 5), 3, 100, "b");
    const [first, second] = await Promise.all([device.download({ matrix: a }), device.download({ matrix: b })]);
    assert.deepEqual(first, values(300, 4));
    assert.deepEqual(second, values(300, 5));
  });

  test("matrices disposed while downloads of them wait are still read", async () => {
    const downloads = [4, 5, 6].map((seed) => {
      using matrix = device.uploadMatrix(values(300, seed), 3, 100, `seed ${seed}`);
      return device.download({ matrix });
    });
    assert.deepEqual(await Promise.all(downloads), [values(300, 4), values(300, 5), values(300, 6)]);
    assert.deepEqual([...device.liveBytes()], []);
  });

  test("adapters are listed with their limits, software ones marked", async () => {
    const adapters = await listAdapters();
    assert.ok(adapters.length > 0);
    for (const adapter of adapters) {
      assert.ok(adapter.limits.maxBufferSize >= 2 ** 28);
      assert.ok(adapter.features.length > 0);
      if (/swiftshader|llvmpipe/i.test(adapter.architecture + adapter.description)) assert.ok(adapter.isSoftware);
    }
  });

  test("without permission a software adapter is never taken", async () => {
    const adapters = await listAdapters();
    const taken = await createWebGpuDevice();
    assert.equal(
      taken !== undefined,
      adapters.some((adapter) => !adapter.isSoftware),
    );
    await taken?.[Symbol.asyncDispose]();
  });

  test("a lost device is a DeviceError at the next wait, and closing it does not hang", async () => {
    const dispatcher = new Dispatcher(await openGpuDevice());
    const lost = createDeviceOn(dispatcher, "to be lost");
    using a = lost.uploadMatrix(values(64, 6), 8, 8, "a");
    lost.scale(a, 2);
    dispatcher.device.destroy();
    await assert.rejects(
      lost.download({ matrix: a }),
      (error: Error) => error instanceof DeviceError && error.code === "E_DEVICE_LOST",
    );
    await lost[Symbol.asyncDispose]();
  });

  test("work is cut into submits within the budget once the device's rate is known", async () => {
    const dispatcher = new Dispatcher(await openGpuDevice());
    await using cut = createDeviceOn(dispatcher, "for counting");
    using a = cut.createMatrix(256, 256, "a");
    const budget = dispatcher.workBudget;
    // Each product is 2·256³ = 3.4e7 operations; more of them than fit three budgets.
    using out = cut.createMatrix(64, 64, "out");
    const small = Math.ceil(budget / (2 * 256 * 64 * 64));
    assert.ok(small > 64);
    for (let i = 0; i < 600; i++) {
      cut.matmul({ a: { matrix: a, rows: 64 }, b: { matrix: a, columns: 64 }, out: { matrix: out } });
    }
    await cut.synchronize();
    assert.ok(dispatcher.statistics.submits >= 3, `${dispatcher.statistics.submits} submits`);
    assert.ok(dispatcher.statistics.largestSubmit <= budget);
  });

  test("a process that used the device and disposed of it ends by itself with code 0", () => {
    const adapterUrl = new URL("../../src/device/webgpu/adapter.js", import.meta.url).href;
    const helperUrl = new URL("../helpers/adapter.js", import.meta.url).href;
    const script = `
      const { findTestAdapter } = await import(${JSON.stringify(helperUrl)});
      const { createWebGpuDevice } = await import(${JSON.stringify(adapterUrl)});
      await findTestAdapter();
      const device = await createWebGpuDevice({ allowSoftware: true });
      const a = device.uploadMatrix(new Float32Array([1, 2, 3, 4]), 2, 2, "a");
      device.scale(a, 2);
      process.stdout.write([...(await device.download({ matrix: a }))].join(","));
      a[Symbol.dispose]();
      await device[Symbol.asyncDispose]();
    `;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      timeout: 60_000,
      encoding: "utf8",
    });
    assert.equal(child.stdout, "2,4,6,8", child.stderr);
    assert.equal(child.signal, null, "ended by itself");
    assert.equal(child.status, 0, child.stderr);
  });

  test("listing adapters on a machine without any driver gives none and does not fail", () => {
    const adapterUrl = new URL("../../src/device/webgpu/adapter.js", import.meta.url).href;
    const script = `
      const { listAdapters, createWebGpuDevice } = await import(${JSON.stringify(adapterUrl)});
      process.stdout.write(JSON.stringify([await listAdapters(), (await createWebGpuDevice()) === undefined]));
    `;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      timeout: 60_000,
      encoding: "utf8",
      env: { ...process.env, VK_ICD_FILENAMES: "/nonexistent.json", VK_DRIVER_FILES: "/nonexistent.json" },
    });
    assert.equal(child.status, 0, child.stderr);
    if (process.platform === "linux") assert.equal(child.stdout, "[[],true]");
    // A Vulkan loader without drivers makes Dawn print warnings that cannot be switched off; nothing else may appear.
    for (const line of child.stderr.split("\n")) assert.match(line, /^(Warning: .*|\s+at .*|)$/);
  });
});
