/**
 * What a kernel is (its files, bindings, parameters, constants) and the cache of compiled pipelines.
 * This file dispatches nothing; it knows no matrices.
 *
 * The source of a kernel is its files joined as they are: no templates and no preprocessor. Shapes and scalars are in a
 * uniform `Params` (group 1, binding 0, dynamic offset); what must be known to the compiler is an override constant.
 */
import { readFileSync, existsSync } from "../../files/program-files.js";
import { DeviceError, InternalError } from "../../errors.js";
import { SHADER_STAGE_COMPUTE } from "./gpu-constants.js";

export type ParamType = "u32" | "f32";
export type Access = "read" | "read_write";
export type Constants = Readonly<Record<string, number>>;

export interface KernelSpec<Params extends string = string> {
  /** Unique; also the label of the pipeline. */
  readonly name: string;
  /** Relative to shaders/, joined in this order. */
  readonly files: readonly string[];
  /** Access of the storage buffers of group 0, in the order of their bindings. */
  readonly bindings: readonly Access[];
  /** Members of the WGSL struct `Params` in order, all of 4 bytes. */
  readonly params: Readonly<Record<Params, ParamType>>;
  /** Every set of override constants the program may ask for; the compile test compiles each. */
  readonly constantSets: readonly Constants[];
}

/** Bytes of the uniform window of one dispatch; no Params may be larger. */
export const PARAM_BYTES = 64;

/** Every kernel defined so far, for the compile test and for compiling ahead. */
export const ALL_KERNELS: KernelSpec[] = [];

export function defineKernel<Params extends string>(spec: KernelSpec<Params>): KernelSpec<Params> {
  if (Object.keys(spec.params).length * 4 > PARAM_BYTES) {
    throw new InternalError("E_KERNEL", `kernel ${spec.name}: Params exceed ${PARAM_BYTES} bytes.`);
  }
  ALL_KERNELS.push(spec);
  return spec;
}

export const NO_CONSTANTS: Constants = {};

/** shaders/ beside package.json, seen from src/ or from dist/src/. */
export function shaderDirectory(): URL {
  for (const up of ["../../../shaders/", "../../../../shaders/"]) {
    const url = new URL(up, import.meta.url);
    if (existsSync(new URL("matmul.wgsl", url))) return url;
  }
  throw new InternalError("E_SHADERS", "webgpu device: the folder shaders/ is missing from this installation.");
}

export function kernelSource(spec: KernelSpec): string {
  const directory = shaderDirectory();
  return spec.files.map((file) => readFileSync(new URL(file, directory), "utf8")).join("\n");
}

export function pipelineKey(spec: KernelSpec, constants: Constants): string {
  const parts = Object.entries(constants).map(([name, value]) => `${name}=${value}`);
  return [spec.name, ...parts.sort()].join(" ");
}

/** Layouts, modules and pipelines of one device. */
export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #modules = new Map<string, GPUShaderModule>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #ready = new Map<string, GPUComputePipeline>();
  readonly #compiling = new Map<string, Promise<GPUComputePipeline>>();
  readonly paramsLayout: GPUBindGroupLayout;

  constructor(device: GPUDevice) {
    this.#device = device;
    this.paramsLayout = device.createBindGroupLayout({
      label: "params",
      entries: [
        {
          binding: 0,
          visibility: SHADER_STAGE_COMPUTE,
          buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: PARAM_BYTES },
        },
      ],
    });
  }

  /** Layout of group 0; explicit, because "auto" drops bindings a variant does not use. */
  tensorLayout(bindings: readonly Access[]): GPUBindGroupLayout {
    const key = bindings.join(",");
    const known = this.#layouts.get(key);
    if (known !== undefined) return known;
    const layout = this.#device.createBindGroupLayout({
      label: key,
      entries: bindings.map((access, binding) => ({
        binding,
        visibility: SHADER_STAGE_COMPUTE,
        buffer: { type: access === "read" ? "read-only-storage" : "storage" },
      })),
    });
    this.#layouts.set(key, layout);
    return layout;
  }

  /** The pipeline, compiled now if it is not there yet. */
  get(spec: KernelSpec, constants: Constants): GPUComputePipeline {
    const key = pipelineKey(spec, constants);
    const known = this.#ready.get(key);
    if (known !== undefined) return known;
    const pipeline = this.#device.createComputePipeline(this.#descriptor(spec, constants, key));
    this.#ready.set(key, pipeline);
    return pipeline;
  }

  /** Compiles without blocking; a second call while one is under way waits for the same compilation. */
  compile(spec: KernelSpec, constants: Constants): Promise<GPUComputePipeline> {
    const key = pipelineKey(spec, constants);
    const known = this.#ready.get(key);
    if (known !== undefined) return Promise.resolve(known);
    const underWay = this.#compiling.get(key);
    if (underWay !== undefined) return underWay;
    const compilation = this.#compile(spec, constants, key).finally(() => this.#compiling.delete(key));
    this.#compiling.set(key, compilation);
    return compilation;
  }

  async #compile(spec: KernelSpec, constants: Constants, key: string): Promise<GPUComputePipeline> {
    try {
      const pipeline = await this.#device.createComputePipelineAsync(this.#descriptor(spec, constants, key));
      this.#ready.set(key, pipeline);
      return pipeline;
    } catch (error) {
      const info = await this.#module(spec).getCompilationInfo();
      const lines = info.messages.map((message) => `${message.lineNum}:${message.linePos} ${message.message}`);
      throw new DeviceError("E_SHADER", `kernel ${key} does not compile: ${lines.join("; ") || String(error)}.`, {
        hint: "Please report this with the output of `prune devices`; --device cpu works meanwhile.",
        details: { kernel: spec.name, constants },
        cause: error,
      });
    }
  }

  #descriptor(spec: KernelSpec, constants: Constants, key: string): GPUComputePipelineDescriptor {
    return {
      label: key,
      layout: this.#device.createPipelineLayout({
        label: spec.name,
        bindGroupLayouts: [this.tensorLayout(spec.bindings), this.paramsLayout],
      }),
      compute: { module: this.#module(spec), entryPoint: "main", constants: { ...constants } },
    };
  }

  #module(spec: KernelSpec): GPUShaderModule {
    const key = spec.files.join(" ");
    const known = this.#modules.get(key);
    if (known !== undefined) return known;
    // The pipeline made from a faulty module fails too, and that failure is the one reported.
    this.#device.pushErrorScope("validation");
    const module = this.#device.createShaderModule({ label: spec.name, code: kernelSource(spec) });
    this.#device.popErrorScope().catch(() => undefined);
    this.#modules.set(key, module);
    return module;
  }
}
