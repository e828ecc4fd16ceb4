/** Choosing the device that solvers run on, and describing what there is for `prune devices`. */
import { availableParallelism, cpus } from "node:os";
import { createCpuDevice } from "../device/cpu/cpu-device.js";
import type { Device } from "../device/device.js";
import { createWebGpuDevice, listAdapters } from "../device/webgpu/adapter.js";
import { DeviceError } from "../errors.js";
import type { Logger } from "../logging.js";
import { describeRuntime } from "../onnx/session.js";
import type { DevicesReport } from "../report/devices-report.js";

/**
 * Open what `--device` asks for. `auto` takes a hardware adapter and otherwise the CPU, never a software adapter:
 * emulated shaders are about a hundred times slower than the CPU path. `webgpu` takes what there is.
 */
export async function openDevice(choice: "auto" | "cpu" | "webgpu", logger: Logger): Promise<Device> {
  if (choice === "cpu") return createCpuDevice();
  const device = await createWebGpuDevice({ allowSoftware: choice === "webgpu" });
  if (device !== undefined) return device;
  if (choice === "auto") return createCpuDevice();
  logger.debug("no WebGPU adapter was found");
  throw new DeviceError("E_NO_ADAPTER", "--device webgpu: no WebGPU adapter was found.", {
    hint: "Install a Vulkan driver (in NVIDIA containers NVIDIA_DRIVER_CAPABILITIES must include graphics), or use --device cpu. `prune devices` shows what is seen.",
  });
}

export function sayDevice({ kind, description }: Device, logger: Logger): void {
  logger.info(`device: ${description}`, { device: kind, description });
}

export async function describeDevices(): Promise<DevicesReport> {
  const adapters = await listAdapters();
  const hardware = adapters.find((adapter) => !adapter.isSoftware);
  const reason =
    hardware !== undefined
      ? `hardware adapter ${hardware.description}`
      : adapters.length > 0
        ? "only a software adapter was found, and the CPU path is far faster"
        : "no WebGPU adapter was found";
  return {
    schema: "prune.devices/v1",
    adapters,
    auto: { device: hardware === undefined ? "cpu" : "webgpu", reason },
    cpu: { model: cpus()[0]?.model.trim() ?? "unknown", threads: availableParallelism() },
    onnxruntime: describeRuntime(),
  };
}
