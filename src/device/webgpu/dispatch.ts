/**
 * The queue: records dispatches into one compute pass, cuts the stream of work into submits, reports failures at the
 * next wait, reads buffers back. It knows kernels and buffers, not operations.
 *
 * Decisions
 * - Many dispatches in one pass and one submit: a pass or a submit costs tens of microseconds. Parameters go through a
 *   ring of 256-byte slots in one uniform buffer, written once per submit.
 * - A submit is cut when its estimated work exceeds what the device does in about 100 ms at the best rate seen, because
 *   operating systems reset a GPU that is busy for seconds. Operations ask `workBudget` to cut single dispatches too.
 * - Everything is queued; errors (validation, device loss) are kept and thrown at the next wait.
 * - Whether the device had memory for a buffer is known only later. An allocation that failed is an error of the
 *   operations that use its buffer, at their call or at the next wait, and of nothing else.
 */
import { DeviceError } from "../../errors.js";
import { Ledger, type Owner } from "../resident.js";
import type { Binding } from "./buffer.js";
import { BUFFER_USAGE, DEFAULT_GRID_CAP, MAP_MODE_READ, OFFSET_ALIGNMENT } from "./gpu-constants.js";
import type { Constants, KernelSpec } from "./kernel.js";
import { NO_CONSTANTS, PARAM_BYTES, PipelineCache } from "./kernel.js";

const RING_SLOTS = 1024;
/** Dispatches after which a submit is cut even if its work is small, so that the GPU starts early. */
const DISPATCHES_PER_SUBMIT = 256;
/** A cautious rate before anything was measured: that of a slow integrated GPU, in operations per second. */
const INITIAL_RATE = 5e10;
const SECONDS_PER_SUBMIT = 0.1;
const SMALLEST_BUDGET = 5e8;
/** Measurements of less work than this say more about latency than about the rate. */
const SMALLEST_MEASURED_WORK = 1e8;
const STAGING_BYTES = 32 * 2 ** 20;
const UPLOAD_BYTES = 16 * 2 ** 20;

export interface DispatcherOptions {
  /** Largest grid dimension; tests lower it to force folding. */
  readonly gridCap?: number;
  /** Largest binding in bytes, default the device's limit; tests lower it to force row ranges. */
  readonly largestBinding?: number;
  /** Largest buffer in bytes, default the device's limit; tests lower it, since some adapters report no real one. */
  readonly largestBuffer?: number;
}

/** A buffer of which it is not known, or known to be untrue, that the device had memory for it. */
interface Doubt {
  failure?: DeviceError;
  isUsed: boolean;
}

export class Dispatcher implements Owner<GPUBuffer> {
  readonly device: GPUDevice;
  readonly pipelines: PipelineCache;
  readonly ledger = new Ledger();
  readonly #gridCap: number;
  readonly #largestBinding: number;
  readonly #largestBuffer: number;
  readonly #doubts = new WeakMap<GPUBuffer, Doubt>();
  readonly #ring: GPUBuffer;
  readonly #ringGroup: GPUBindGroup;
  readonly #params = new ArrayBuffer(RING_SLOTS * OFFSET_ALIGNMENT);
  readonly #words = new Uint32Array(this.#params);
  readonly #floats = new Float32Array(this.#params);
  readonly #scratch = new Map<string, GPUBuffer>();
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #slot = 0;
  #work = 0;
  #releases: GPUBuffer[] = [];
  readonly #watched = new Set<Promise<void>>();
  #failure: DeviceError | undefined;
  /** An allocation that failed and was used: commands are refused because of it, so it is the one to tell. */
  #shortage: DeviceError | undefined;
  #lost: DeviceError | undefined;
  readonly #loss: Promise<void>;
  #closed = false;
  #staging: GPUBuffer | undefined;
  #readLock: Promise<unknown> = Promise.resolve();
  /** Buffers that reads wait for: released in the meantime, they are destroyed after the last of them. */
  readonly #reads = new Map<GPUBuffer, { count: number; isReleased: boolean }>();
  #rate = INITIAL_RATE;
  #measuredWork = 0;
  #measuredSince = 0;
  #submits = 0;
  #largestSubmit = 0;

  constructor(device: GPUDevice, options: DispatcherOptions = {}) {
    this.device = device;
    this.#gridCap = options.gridCap ?? DEFAULT_GRID_CAP;
    this.#largestBinding = options.largestBinding ?? device.limits.maxStorageBufferBindingSize;
    this.#largestBuffer = options.largestBuffer ?? device.limits.maxBufferSize;
    this.pipelines = new PipelineCache(device);
    this.#ring = device.createBuffer({
      label: "params ring",
      size: RING_SLOTS * OFFSET_ALIGNMENT,
      usage: BUFFER_USAGE.uniform | BUFFER_USAGE.copyDestination,
    });
    this.#ringGroup = device.createBindGroup({
      label: "params",
      layout: this.pipelines.paramsLayout,
      entries: [{ binding: 0, resource: { buffer: this.#ring, size: PARAM_BYTES } }],
    });
    this.#loss = device.lost.then((info) => {
      if (this.#closed) return;
      this.#lost = new DeviceError(
        "E_DEVICE_LOST",
        `webgpu device: the GPU was lost: ${info.message || info.reason}.`,
        {
          hint: "Run again with --resume; if it happens again, update the driver or use --device cpu.",
          details: { reason: info.reason },
        },
      );
    });
  }

  /** Operations (floating-point operations, or 4 per byte moved) that a submit should not exceed. */
  get workBudget(): number {
    return Math.max(SMALLEST_BUDGET, this.#rate * SECONDS_PER_SUBMIT);
  }

  /** For tests: what the submits looked like so far. */
  get statistics(): { readonly submits: number; readonly largestSubmit: number } {
    return { submits: this.#submits, largestSubmit: this.#largestSubmit };
  }

  /** Rows of `pitch` floats that fit one binding; at least 1. */
  rowsPerBinding(pitch: number): number {
    return Math.max(1, Math.floor(this.#largestBinding / (pitch * 4)));
  }

  /** A zero-filled storage buffer. `describe` names it and its shape in the error. */
  createBuffer(bytes: number, label: string, describe: string): GPUBuffer {
    const size = Math.max(OFFSET_ALIGNMENT, bytes);
    const limit = this.#largestBuffer;
    if (size > limit) throw this.#outOfMemory(describe, size, `the adapter's largest buffer is ${limit} bytes`);
    const usage = BUFFER_USAGE.storage | BUFFER_USAGE.copySource | BUFFER_USAGE.copyDestination;
    return this.#allocate({ label, size, usage }, describe);
  }

  #allocate(descriptor: GPUBufferDescriptor, describe: string): GPUBuffer {
    this.device.pushErrorScope("out-of-memory");
    const buffer = this.device.createBuffer(descriptor);
    const doubt: Doubt = { isUsed: false };
    this.#doubts.set(buffer, doubt);
    this.#watch(this.device.popErrorScope(), (error) => {
      if (error === null) {
        this.#doubts.delete(buffer);
        return;
      }
      doubt.failure = this.#outOfMemory(describe, descriptor.size, "the device has not enough memory");
      if (doubt.isUsed) this.#shortage ??= doubt.failure;
    });
    return buffer;
  }

  /** Throws where the device is known to have had no memory for the buffer; else that surfaces at the next wait. */
  #use(buffer: GPUBuffer): void {
    const doubt = this.#doubts.get(buffer);
    if (doubt?.failure !== undefined) throw doubt.failure;
    if (doubt !== undefined) doubt.isUsed = true;
  }

  #hasFailed(buffer: GPUBuffer): boolean {
    return this.#doubts.get(buffer)?.failure !== undefined;
  }

  /** Scratch memory that lasts until it is asked for again under the same name; contents unspecified. */
  scratch(name: string, bytes: number): Binding {
    const size = Math.max(OFFSET_ALIGNMENT, Math.ceil(bytes / OFFSET_ALIGNMENT) * OFFSET_ALIGNMENT);
    const known = this.#scratch.get(name);
    if (known !== undefined && known.size >= size && !this.#hasFailed(known)) return { buffer: known, offset: 0, size };
    if (known !== undefined) this.release(known);
    const buffer = this.createBuffer(size, `scratch ${name}`, `scratch "${name}"`);
    this.#scratch.set(name, buffer);
    return { buffer, offset: 0, size };
  }

  /** Destroy the buffer once everything recorded so far has been submitted. */
  release(buffer: GPUBuffer): void {
    const reads = this.#reads.get(buffer);
    if (reads !== undefined) reads.isReleased = true;
    else if (this.#encoder === undefined) buffer.destroy();
    else this.#releases.push(buffer);
  }

  /** Copies into a buffer that no recorded command uses yet. */
  upload(buffer: GPUBuffer, byteOffset: number, data: Uint32Array | Float32Array): void {
    this.#use(buffer);
    this.device.pushErrorScope("validation");
    const chunk = UPLOAD_BYTES / 4;
    for (let first = 0; first < data.length; first += chunk) {
      const part = data.subarray(first, first + chunk);
      this.device.queue.writeBuffer(
        buffer,
        byteOffset + first * 4,
        part.buffer as ArrayBuffer,
        part.byteOffset,
        part.byteLength,
      );
    }
    this.#watch(this.device.popErrorScope(), (error) => {
      this.#failure ??= refusalOf(error);
    });
  }

  /**
   * Queue `workgroups` workgroups of a kernel, folded into x, y, z beyond the grid limit.
   * `work` estimates operations, for cutting submits.
   */
  dispatch<Params extends string>(
    spec: KernelSpec<Params>,
    bindings: readonly Binding[],
    params: Readonly<Record<Params, number>>,
    workgroups: number,
    work: number,
    constants: Constants = NO_CONSTANTS,
  ): void {
    if (workgroups <= 0) return;
    for (const { buffer } of bindings) this.#use(buffer);
    if (this.#work > 0 && this.#work + work > this.workBudget) this.flush();
    const pass = this.#openPass();
    const pipeline = this.pipelines.get(spec, constants);
    const group = this.device.createBindGroup({
      label: spec.name,
      layout: this.pipelines.tensorLayout(spec.bindings),
      entries: bindings.map((resource, binding) => ({ binding, resource })),
    });
    this.#writeParams(spec, params);
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.setBindGroup(1, this.#ringGroup, [this.#slot * OFFSET_ALIGNMENT]);
    pass.dispatchWorkgroups(...foldGrid(workgroups, this.#gridCap));
    this.#slot++;
    this.#work += work;
    if (this.#slot >= Math.min(RING_SLOTS, DISPATCHES_PER_SUBMIT) || this.#work >= this.workBudget) this.flush();
  }

  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, bytes: number): void {
    this.#use(from);
    this.#use(to);
    this.#closePass().copyBufferToBuffer(from, fromOffset, to, toOffset, bytes);
    this.#work += bytes * 4;
  }

  clear(buffer: GPUBuffer): void {
    this.#use(buffer);
    this.#closePass().clearBuffer(buffer);
  }

  /** Submit what was recorded. */
  flush(): void {
    const encoder = this.#encoder;
    if (encoder === undefined) return;
    this.#closePass();
    this.#encoder = undefined;
    if (this.#slot > 0) {
      this.device.queue.writeBuffer(this.#ring, 0, this.#params, 0, this.#slot * OFFSET_ALIGNMENT);
    }
    this.device.queue.submit([encoder.finish()]);
    this.#watch(this.device.popErrorScope(), (error) => {
      this.#failure ??= refusalOf(error);
    });
    if (this.#measuredWork === 0) this.#measuredSince = performance.now();
    this.#measuredWork += this.#work;
    this.#submits++;
    this.#largestSubmit = Math.max(this.#largestSubmit, this.#work);
    this.#slot = 0;
    this.#work = 0;
    for (const buffer of this.#releases) buffer.destroy();
    this.#releases = [];
  }

  /** Waits for everything queued and throws the first failure since the last wait. */
  async synchronize(): Promise<void> {
    this.flush();
    await this.#settled(this.device.queue.onSubmittedWorkDone());
    this.#measure();
    await this.#settled(Promise.all(this.#watched));
    this.#throwFailure();
  }

  /** Reads `bytes` (a multiple of 4) from a buffer, handing over pieces of whole `unit`s of bytes in order. */
  async read(
    buffer: GPUBuffer,
    offset: number,
    bytes: number,
    unit: number,
    take: (piece: ArrayBuffer, offset: number) => void,
  ): Promise<void> {
    const reads = this.#reads.get(buffer) ?? { count: 0, isReleased: false };
    this.#reads.set(buffer, reads);
    reads.count++;
    const turn = this.#readLock.then(() => this.#read(buffer, offset, bytes, unit, take));
    this.#readLock = turn.catch(() => undefined);
    try {
      await turn;
    } finally {
      reads.count--;
      if (reads.count === 0) {
        this.#reads.delete(buffer);
        if (reads.isReleased) this.release(buffer);
      }
    }
  }

  async #read(
    buffer: GPUBuffer,
    offset: number,
    bytes: number,
    unit: number,
    take: (piece: ArrayBuffer, offset: number) => void,
  ): Promise<void> {
    const pieceBytes = Math.max(1, Math.floor(STAGING_BYTES / unit)) * unit;
    for (let done = 0; done < bytes; done += pieceBytes) {
      const size = Math.min(pieceBytes, bytes - done);
      const staging = this.#stagingOf(size);
      this.copy(buffer, offset + done, staging, 0, size);
      await this.synchronize();
      await this.#settled(staging.mapAsync(MAP_MODE_READ, 0, size));
      this.#throwFailure();
      take(staging.getMappedRange(0, size), done);
      staging.unmap();
    }
  }

  /** Waits, then destroys everything; the dispatcher cannot be used afterwards. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.flush();
    await this.#settled(this.device.queue.onSubmittedWorkDone());
    await this.#settled(Promise.all(this.#watched));
    this.#closed = true;
    for (const buffer of this.#scratch.values()) buffer.destroy();
    this.#scratch.clear();
    this.#staging?.destroy();
    this.#ring.destroy();
    this.device.destroy();
  }

  #openPass(): GPUComputePassEncoder {
    this.#pass ??= this.#openEncoder().beginComputePass();
    return this.#pass;
  }

  #closePass(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = undefined;
    return this.#openEncoder();
  }

  #openEncoder(): GPUCommandEncoder {
    if (this.#encoder === undefined) {
      this.device.pushErrorScope("validation");
      this.#encoder = this.device.createCommandEncoder();
    }
    return this.#encoder;
  }

  #writeParams<Params extends string>(spec: KernelSpec<Params>, params: Readonly<Record<Params, number>>): void {
    let at = (this.#slot * OFFSET_ALIGNMENT) / 4;
    for (const name in spec.params) {
      if (spec.params[name] === "u32") this.#words[at] = params[name];
      else this.#floats[at] = params[name];
      at++;
    }
  }

  #stagingOf(bytes: number): GPUBuffer {
    const known = this.#staging;
    if (known !== undefined && known.size >= bytes && !this.#hasFailed(known)) return known;
    known?.destroy();
    const size = Math.max(OFFSET_ALIGNMENT, bytes);
    const usage = BUFFER_USAGE.mapRead | BUFFER_USAGE.copyDestination;
    this.#staging = this.#allocate({ label: "readback", size, usage }, "readback");
    return this.#staging;
  }

  /** Waits for a promise of the device, or for its loss: a lost device may never settle the others. */
  async #settled(promise: Promise<unknown>): Promise<void> {
    await Promise.race([
      promise.catch((error: unknown) => {
        this.#failure ??= new DeviceError("E_DEVICE", `webgpu device: ${String(error)}.`, { cause: error });
      }),
      this.#loss,
    ]);
  }

  /** The next wait waits for an error scope as well; `take` is given what it held. */
  #watch(scope: Promise<GPUError | null>, take: (error: GPUError | null) => void): void {
    const watched: Promise<void> = scope.then(
      (error) => {
        this.#watched.delete(watched);
        take(error);
      },
      () => {
        this.#watched.delete(watched); // The device is gone; its loss is reported on its own.
      },
    );
    this.#watched.add(watched);
  }

  #throwFailure(): void {
    const failure = this.#lost ?? this.#shortage ?? this.#failure;
    this.#failure = undefined;
    this.#shortage = undefined;
    if (failure !== undefined) throw failure;
  }

  /** A lower bound of the rate, since the host may have been late: the best one counts, slowly forgotten. */
  #measure(): void {
    const seconds = (performance.now() - this.#measuredSince) / 1000;
    if (this.#measuredWork >= SMALLEST_MEASURED_WORK && seconds > 0) {
      const rate = this.#measuredWork / seconds;
      this.#rate = this.#rate === INITIAL_RATE ? rate : Math.max(rate, 0.9 * this.#rate);
    }
    this.#measuredWork = 0;
  }

  #outOfMemory(describe: string, bytes: number, why: string): DeviceError {
    const live = [...this.ledger.snapshot().values()].reduce((sum, size) => sum + size, 0);
    return new DeviceError("E_DEVICE_MEMORY", `webgpu device: ${describe} needs ${bytes} bytes; ${why}.`, {
      hint: "Use --device cpu, or a GPU with more memory.",
      details: { bytes, liveBytes: live, maxBufferSize: this.#largestBuffer },
    });
  }
}

function refusalOf(error: GPUError | null): DeviceError | undefined {
  if (error === null) return undefined;
  return new DeviceError("E_DEVICE_VALIDATION", `webgpu device: a command was refused: ${error.message}.`, {
    hint: "This is a defect of the program: please report it. --device cpu works meanwhile.",
  });
}

/** x, y, z of at most `cap` each with x·y·z ≥ count; kernels skip the surplus. */
export function foldGrid(count: number, cap: number): [number, number, number] {
  const z = Math.ceil(count / (cap * cap));
  const perLayer = Math.ceil(count / z);
  const y = Math.ceil(perLayer / cap);
  return [Math.ceil(perLayer / y), y, z];
}
