/** Every kernel compiles, with every constant set the program may ask for, on Dawn's null backend: no GPU needed. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { create } from "webgpu";
import { ALL_KERNELS, PipelineCache, kernelSource, pipelineKey } from "../../src/device/webgpu/kernel.js";
// Defines the kernels.
import "../../src/device/webgpu/webgpu-device.js";

let gpu: GPU | undefined;
let device: GPUDevice | undefined;

before(async () => {
  gpu = create(["backend=null"]);
  const adapter = await gpu.requestAdapter();
  assert.ok(adapter !== null, "the null backend always has an adapter");
  // Default limits on purpose: 8 storage buffers, 16 KiB of workgroup memory, 256 threads.
  device = await adapter.requestDevice();
});

after(() => {
  device?.destroy();
  gpu = undefined;
});

function openDevice(): GPUDevice {
  assert.ok(device !== undefined);
  return device;
}

test("there is a kernel for every operation, under distinct names", () => {
  const names = ALL_KERNELS.map((spec) => spec.name);
  assert.equal(new Set(names).size, names.length);
  assert.ok(names.length >= 25, `${names.length} kernels`);
});

for (const spec of ALL_KERNELS) {
  for (const constants of spec.constantSets) {
    test(`compiles under default limits: ${pipelineKey(spec, constants)}`, async () => {
      const pipelines = new PipelineCache(openDevice());
      const pipeline = await pipelines.compile(spec, constants);
      assert.equal(pipeline.label, pipelineKey(spec, constants));
    });
  }

  test(`the Params of ${spec.name} have the members its spec names, in that order`, () => {
    const struct = /struct Params \{([^}]*)\}/.exec(kernelSource(spec))?.[1];
    assert.ok(struct !== undefined, "no struct Params");
    const members = [...struct.matchAll(/(\w+)\s*:\s*(\w+)/g)].map((match) => `${match[1]}: ${match[2]}`);
    assert.deepEqual(
      members,
      Object.entries(spec.params).map(([name, type]) => `${name}: ${type}`),
    );
  });
}

test("two callers who ask for the same pipeline share one compilation", async () => {
  const pipelines = new PipelineCache(openDevice());
  const [spec] = ALL_KERNELS;
  assert.ok(spec !== undefined);
  const constants = spec.constantSets[0] ?? {};
  const [first, second] = await Promise.all([pipelines.compile(spec, constants), pipelines.compile(spec, constants)]);
  assert.equal(first, second);
  assert.equal(pipelines.get(spec, constants), first);
});

test("a misspelt constant is refused with the kernel's name", async () => {
  const pipelines = new PipelineCache(openDevice());
  const [spec] = ALL_KERNELS;
  assert.ok(spec !== undefined);
  await assert.rejects(pipelines.compile(spec, { TRANSPOSE_A: 1 }), (error: Error) =>
    error.message.includes(`kernel ${spec.name} TRANSPOSE_A=1 does not compile`),
  );
});
