/**
 * Runs one suite on every device: the CPU device with one thread and with several, and the WebGPU device where the
 * machine has an adapter. Without an adapter its tests are reported as skipped, or fail where REQUIRE_GPU=1.
 */
import { after, afterEach, before, describe } from "node:test";
import assert from "node:assert/strict";
import type { Device } from "../../src/device/device.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { createWebGpuDevice } from "../../src/device/webgpu/adapter.js";
import { findTestAdapter } from "./adapter.js";

export interface DeviceUnderTest {
  readonly name: string;
  /** Why its tests cannot run here; undefined where they can. */
  readonly skip: string | undefined;
  create(): Promise<Device>;
}

async function webgpuUnderTest(): Promise<DeviceUnderTest> {
  const found = await findTestAdapter();
  const skip = found.available ? undefined : found.reason;
  if (skip !== undefined && process.env["REQUIRE_GPU"] === "1") throw new Error(`REQUIRE_GPU=1, but: ${skip}`);
  return {
    name: "webgpu",
    skip,
    async create() {
      // The limits every adapter has, so that a kernel that needs more fails here and not on somebody's laptop.
      const device = await createWebGpuDevice({ allowSoftware: true, baseLimits: true });
      assert.ok(device !== undefined, "an adapter was found a moment ago");
      return device;
    },
  };
}

/** Every device this program has. TEST_DEVICES=cpu,webgpu restricts the list while working on one of them. */
export async function devicesUnderTest(): Promise<readonly DeviceUnderTest[]> {
  const only = process.env["TEST_DEVICES"]?.split(",");
  const cpu = (threads: number): DeviceUnderTest => ({
    name: `cpu, ${threads} thread${threads === 1 ? "" : "s"}`,
    skip: undefined,
    create: () => createCpuDevice({ threads }),
  });
  const devices: DeviceUnderTest[] = [];
  if (only === undefined || only.includes("cpu")) devices.push(cpu(1), cpu(3));
  if (only === undefined || only.includes("webgpu")) devices.push(await webgpuUnderTest());
  return devices;
}

/**
 * Register a suite once per device. `register` receives a getter that is valid inside tests. After every test the
 * device must hold no matrix or mask.
 */
export async function describeOnDevices(register: (device: () => Device, name: string) => void): Promise<void> {
  for (const target of await devicesUnderTest()) {
    const skip = target.skip ?? false;
    await describe(target.name, { skip }, () => {
      let device: Device | undefined;
      const current = (): Device => {
        assert.ok(device !== undefined, "the device exists inside tests only");
        return device;
      };
      before(async () => {
        device = await target.create();
      });
      afterEach(() => {
        assert.deepEqual([...current().liveBytes()], [], "matrices or masks were not disposed");
      });
      after(async () => {
        await device?.[Symbol.asyncDispose]();
      });
      register(current, target.name);
    });
  }
}
