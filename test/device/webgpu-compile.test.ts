/** Every kernel compiles, with every constant set the program may ask for, on Dawn's null backend: no GPU needed. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { create } from "webgpu";
import { ALL_KERNELS, PipelineCache, kernelSource, pipelineKey } from "../../src/device/webgpu/kernel.js";
import { Dispatcher } from "../../src/device/webgpu/dispatch.js";
// Defines the kernels.
import { createDeviceOn } from "../../src/device/webgpu/webgpu-device.js";
import { everything } from "../helpers/every-operation.js";

let gpu: GPU | undefined;
let device: GPUDevice | undefined;

before(async () => {
  gpu = create(["backend=null"]);
  device = await requestDevice();
});

async function requestDevice(): Promise<GPUDevice> {
  const adapter = await gpu?.requestAdapter();
  assert.ok(adapter, "the null backend always has an adapter");
  // Default limits on purpose: 8 storage buffers, 16 KiB of workgroup memory, 256 threads.
  return adapter.requestDevice();
}

after(() => {
  device?.destroy();
  gpu = undefined;
});

function openDevice(): GPUDevice {
  assert.ok(device !== undefined);
  return device;
}

/** Notes which kernels are dispatched. The null backend takes them and computes nothing, so what is read is zero. */
class RecordingDispatcher extends Dispatcher {
  readonly dispatched = new Set<string>();

  override dispatch(...args: Parameters<Dispatcher["dispatch"]>): void {
    this.dispatched.add(args[0].name);
    super.dispatch(...args);
  }

  override read(...[buffer, offset, bytes, unit, take]: Parameters<Dispatcher["read"]>): Promise<void> {
    return super.read(buffer, offset, bytes, unit, (piece, at) => take(new ArrayBuffer(piece.byteLength), at));
  }
}

/** Operations that move numbers without a kernel. */
const WITHOUT_KERNEL = ["createMatrix", "createMask", "uploadMatrix", "uploadMask", "copy", "download", "downloadMask"];

test("every operation dispatches kernels, and every kernel is an operation's; names are distinct", async () => {
  const names = ALL_KERNELS.map((spec) => spec.name);
  assert.equal(new Set(names).size, names.length);

  const dispatcher = new RecordingDispatcher(await requestDevice());
  await using inner = createDeviceOn(dispatcher, "null");
  const operations = Object.getOwnPropertyNames(Object.getPrototypeOf(inner)).filter(
    (name) => !["constructor", "liveBytes", "synchronize"].includes(name),
  );
  const kernels = new Map<string, Set<string>>();
  const noting = new Proxy(inner, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name, target);
      if (typeof member !== "function") return member;
      if (!operations.includes(String(name))) return member.bind(target) as unknown;
      // Kernels are recorded at the call or, for what waits in between, before the promise is settled.
      return (...args: unknown[]): unknown => {
        dispatcher.dispatched.clear();
        const take = (): void => {
          const taken = kernels.get(String(name)) ?? new Set();
          kernels.set(String(name), new Set([...taken, ...dispatcher.dispatched]));
        };
        const result: unknown = Reflect.apply(member as () => unknown, target, args);
        take();
        return result instanceof Promise ? result.finally(take) : result;
      };
    },
  });
  await everything(noting);
  assert.deepEqual([...kernels.keys()].sort(), operations.sort(), "operations called");
  const idle = operations.filter((operation) => kernels.get(operation)?.size === 0);
  assert.deepEqual(idle.sort(), WITHOUT_KERNEL.toSorted(), "operations without a kernel");
  const used = new Set([...kernels.values()].flatMap((set) => [...set]));
  assert.deepEqual(
    names.filter((name) => !used.has(name)),
    [],
    "kernels that no operation dispatches",
  );
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
