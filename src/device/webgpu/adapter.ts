/**
 * Finds adapters and opens the device. The only importer of the npm package `webgpu` (Dawn), and only when asked, so
 * that a run on the CPU never loads its 20 MB library. Puts nothing on `globalThis`.
 *
 * Software adapters (SwiftShader, llvmpipe, WARP) are for testing shaders: they are listed, and never taken unless the
 * caller says so.
 */
import os from "node:os";
import process from "node:process";
import { DeviceError } from "../../errors.js";
import type { Device } from "../device.js";
import { Dispatcher } from "./dispatch.js";
import { createDeviceOn } from "./webgpu-device.js";

export interface AdapterSummary {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  readonly backend: string;
  readonly isSoftware: boolean;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<AdapterLimit, number>>;
  readonly subgroupMinSize: number | undefined;
  readonly subgroupMaxSize: number | undefined;
}

export type AdapterLimit = (typeof LIMITS)[number];

const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupsPerDimension",
] as const;

/** Of the limits above, those the kernels profit from; the others are met by the defaults. */
const REQUESTED_LIMITS = ["maxBufferSize", "maxStorageBufferBindingSize"] as const;

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|microsoft basic render|\bwarp\b/i;

export interface WebGpuOptions {
  /** Take a software adapter where there is no hardware; for tests. */
  readonly allowSoftware?: boolean;
  /** Request only the limits every adapter has; for tests. */
  readonly baseLimits?: boolean;
  /** Largest grid dimension, default 65,535; tests lower it to force folding. */
  readonly dispatchGridCap?: number;
  /** Largest buffer in bytes, default the adapter's limit; for tests. */
  readonly largestBuffer?: number;
}

/**
 * Our kernels read no workgroup memory that they have not written, so nobody need clear it for every workgroup. On a GPU
 * that saves 16 KiB of stores and a barrier per workgroup; SwiftShader compiles five times faster without.
 */
export const DAWN_FLAGS = ["enable-dawn-features=disable_workgroup_init"];

interface DawnModule {
  create(flags: string[]): GPU;
}

/** Dawn, or undefined where its binary cannot be loaded or would find no driver library. */
async function loadDawn(): Promise<DawnModule | undefined> {
  // Without the Vulkan loader Dawn prints a warning for every adapter asked for, on a stream we do not own.
  if (process.platform === "linux" && !canLoadVulkan()) return undefined;
  try {
    return await import("webgpu");
  } catch {
    return undefined; // No binary for this platform.
  }
}

/** Whether the dynamic linker finds the Vulkan loader. */
function canLoadVulkan(): boolean {
  try {
    process.dlopen({ exports: {} }, "libvulkan.so.1", os.constants.dlopen.RTLD_LAZY);
    return true;
  } catch (error) {
    // Found, but of course no Node addon: that is the answer we want.
    return error instanceof Error && error.message.includes("did not self-register");
  }
}

/**
 * Every Dawn instance of this process. They are kept for good: when the object that `create()` returns is collected,
 * Dawn's threads may still be in it and the process dies (std::system_error, no JavaScript error). Measured with 0.6.2.
 */
const instances: GPU[] = [];

/** Adapters of this process's instance; asks a new instance where the last one found none (a driver may have come). */
async function discover(): Promise<GPUAdapter[]> {
  const last = instances.at(-1);
  if (last !== undefined) {
    const adapters = await findAdapters(last);
    if (adapters.length > 0) return adapters;
  }
  const dawn = await loadDawn();
  if (dawn === undefined) return [];
  const gpu = dawn.create(DAWN_FLAGS);
  instances.push(gpu);
  return findAdapters(gpu);
}

/** Distinct adapters, hardware first. WebGPU has no listing, so each preference is asked for its adapter. */
async function findAdapters(gpu: GPU): Promise<GPUAdapter[]> {
  const adapters = new Map<string, GPUAdapter>();
  const preferences: GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  for (const preference of preferences) {
    const adapter = await gpu.requestAdapter(preference);
    if (adapter === null) continue;
    const { vendor, architecture, device, description } = adapter.info;
    const key = [vendor, architecture, device, description].join("|");
    if (!adapters.has(key)) adapters.set(key, adapter);
  }
  return [...adapters.values()].sort((a, b) => Number(isSoftware(a.info)) - Number(isSoftware(b.info)));
}

function isSoftware(info: GPUAdapterInfo): boolean {
  return (
    info.isFallbackAdapter || SOFTWARE.test([info.vendor, info.architecture, info.device, info.description].join(" "))
  );
}

function backendName(): string {
  if (process.platform === "darwin") return "metal";
  return process.platform === "win32" ? "d3d12" : "vulkan";
}

function summarize(adapter: GPUAdapter): AdapterSummary {
  const { info } = adapter;
  const limits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])) as Record<AdapterLimit, number>;
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    device: info.device,
    description: info.description,
    backend: backendName(),
    isSoftware: isSoftware(info),
    features: [...adapter.features].sort(),
    limits,
    subgroupMinSize: info.subgroupMinSize,
    subgroupMaxSize: info.subgroupMaxSize,
  };
}

/** Every adapter found, hardware first; empty without a driver. */
export async function listAdapters(): Promise<AdapterSummary[]> {
  return (await discover()).map(summarize);
}

/**
 * Opens the first hardware adapter (or, where allowed, a software one); undefined where there is none.
 * Throws DeviceError E_DEVICE_OPEN where the driver offers an adapter and refuses a device.
 */
export async function createWebGpuDevice(options: WebGpuOptions = {}): Promise<Device | undefined> {
  const adapters = await discover();
  const adapter = adapters.find((candidate) => options.allowSoftware === true || !isSoftware(candidate.info));
  if (adapter === undefined) return undefined;
  const summary = summarize(adapter);
  const device = await openDevice(adapter, options);
  const dispatcher = new Dispatcher(device, {
    ...(options.dispatchGridCap !== undefined && { gridCap: options.dispatchGridCap }),
    ...(options.largestBuffer !== undefined && { largestBuffer: options.largestBuffer }),
  });
  return createDeviceOn(dispatcher, describe(summary));
}

async function openDevice(adapter: GPUAdapter, options: WebGpuOptions): Promise<GPUDevice> {
  const requiredLimits = Object.fromEntries(REQUESTED_LIMITS.map((name) => [name, adapter.limits[name]]));
  try {
    return await adapter.requestDevice({ label: "prune", ...(options.baseLimits === true ? {} : { requiredLimits }) });
  } catch (error) {
    throw new DeviceError(
      "E_DEVICE_OPEN",
      `webgpu device: ${adapter.info.description} refuses a device: ${String(error)}.`,
      {
        hint: "Update the graphics driver, or use --device cpu.",
        cause: error,
      },
    );
  }
}

function describe(summary: AdapterSummary): string {
  const name = [summary.vendor, summary.architecture, summary.device].filter((part) => part !== "").join(" ");
  const software = summary.isSoftware ? ", software" : "";
  return `${name} (${summary.description}), ${summary.backend}${software}`;
}
