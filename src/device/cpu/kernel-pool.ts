/**
 * Runs WebAssembly kernels on this thread and on a few workers over one shared memory.
 *
 * The memory is a staging arena: an operation copies what it needs in (matrices themselves stay outside, because ONNX
 * Runtime refuses shared memory), runs kernels over independent items, and copies the result out. Items are dealt
 * dynamically; each output has one writer, so results do not depend on the number of threads.
 *
 * A dispatch is published by one word, TICKET = generation << 24 | next item. Threads take items by compare-exchange on
 * it, so a worker that wakes late joins whatever is being dealt at that time or finds nothing to do; nobody waits for
 * sleeping workers. The next dispatch is only set up after all items of this one are finished.
 */
import { readFile } from "../../files/program-files.js";
import { Worker } from "node:worker_threads";
import { InternalError, ResourceError } from "../../errors.js";

/** Every kernel of assembly/index.ts: works on items [first, end). */
export type Kernel = (first: number, end: number, args: number, scratch: number) => void;

declare const KERNEL: unique symbol;
/** A name made by `defineKernel`. */
export type KernelName = string & { readonly [KERNEL]: true };

/** Every kernel that an operation named so far: a pool is refused where kernels.wasm lacks one of them. */
export const KERNEL_NAMES = new Set<KernelName>();

export function defineKernel(name: string): KernelName {
  KERNEL_NAMES.add(name as KernelName);
  return name as KernelName;
}

/** Indices into the control words. */
export const CONTROL = {
  epoch: 0,
  ticket: 1,
  kernel: 2,
  items: 3,
  grain: 4,
  finished: 5,
  scratch: 6,
  scratchBytes: 7,
  words: 16,
} as const;

/** Kernel index that tells workers to end. */
export const STOP = -1;
export const ARGUMENTS_ADDRESS = 1024;
const LARGEST_ITEM_COUNT = 0xffffff;

const PAGE_BYTES = 65536;
/** In step with scripts/build-wasm.mjs: the limits are part of the import's type. */
const INITIAL_PAGES = 2;
const MAXIMUM_PAGES = 32768;
const ARENA_START = 2 * PAGE_BYTES;
/** Checks of a condition before a thread goes to sleep: some ten microseconds. */
export const SPINS = 4000;

export interface PoolWorkerData {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly control: SharedArrayBuffer;
  readonly thread: number;
}

export interface Dispatch {
  readonly kernel: KernelName;
  readonly items: number;
  /** Items taken at a time. Work of one grain runs on the calling thread alone. */
  readonly grain: number;
  /** Addresses, counts and other unsigned integers. */
  readonly args: readonly number[];
}

/** Take items until none are left; returns after the last of them was taken, not finished. */
export function takeItems(control: Int32Array, thread: number, kernels: readonly Kernel[]): void {
  for (;;) {
    const ticket = Atomics.load(control, CONTROL.ticket);
    const first = ticket & LARGEST_ITEM_COUNT;
    const items = Atomics.load(control, CONTROL.items);
    if (first >= items) return;
    const kernel = kernels[Atomics.load(control, CONTROL.kernel)];
    const scratch = Atomics.load(control, CONTROL.scratch) + thread * Atomics.load(control, CONTROL.scratchBytes);
    const count = Math.min(Atomics.load(control, CONTROL.grain), items - first);
    if (Atomics.compareExchange(control, CONTROL.ticket, ticket, ticket + count) !== ticket) continue;
    kernel(first, first + count, ARGUMENTS_ADDRESS, scratch);
    if (Atomics.add(control, CONTROL.finished, count) + count === items) Atomics.notify(control, CONTROL.finished);
  }
}

/** The instance's kernels in the order of its exports, which is the same in every thread. */
export function kernelTable(instance: WebAssembly.Instance): ReadonlyMap<string, Kernel> {
  const table = new Map<string, Kernel>();
  for (const [name, value] of Object.entries(instance.exports)) {
    if (typeof value === "function") table.set(name, value as Kernel);
  }
  return table;
}

export class KernelPool implements AsyncDisposable {
  readonly threads: number;
  readonly #memory: WebAssembly.Memory;
  readonly #control: Int32Array;
  readonly #kernels: readonly Kernel[];
  readonly #indices: ReadonlyMap<string, number>;
  readonly #module: WebAssembly.Module;
  /** Undefined until there is work for them: a thread costs more to start than all of a small model's work. */
  #workers: readonly Worker[] | undefined;
  #failure: unknown;
  #generation = 0;
  #top = ARENA_START;
  #scratch = ARENA_START;
  #scratchBytes = 0;

  private constructor(
    threads: number,
    module: WebAssembly.Module,
    memory: WebAssembly.Memory,
    instance: WebAssembly.Instance,
  ) {
    const table = kernelTable(instance);
    this.#memory = memory;
    this.#module = module;
    this.#control = new Int32Array(new SharedArrayBuffer(4 * CONTROL.words));
    this.#kernels = [...table.values()];
    this.#indices = new Map([...table.keys()].map((name, index) => [name, index]));
    this.threads = threads;
    for (const name of KERNEL_NAMES) this.#indexOf(name);
  }

  static async create(threads: number): Promise<KernelPool> {
    const module = await WebAssembly.compile(await readFile(new URL("./kernels.wasm", import.meta.url)));
    const memory = new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum: MAXIMUM_PAGES, shared: true });
    const instance = await WebAssembly.instantiate(module, { env: { memory, abort: onAbort } });
    return new KernelPool(threads, module, memory, instance);
  }

  /** Resolves when all threads take part; without it they come when there is work for several. */
  async start(): Promise<void> {
    if (this.#workers !== undefined) return;
    const data = { module: this.#module, memory: this.#memory, control: this.#control.buffer as SharedArrayBuffer };
    const started = Array.from({ length: this.threads - 1 }, (_, i) => startWorker({ ...data, thread: i + 1 }));
    this.#workers = started.map(({ worker }) => worker);
    await Promise.all(started.map(({ ready }) => ready));
  }

  /** Forget everything staged and reserve scratch for each thread. Call at the start of an operation. */
  reset(scratchBytesPerThread: number): void {
    this.#top = ARENA_START;
    this.#scratchBytes = Math.ceil(scratchBytesPerThread / 256) * 256;
    this.#scratch = this.allocate(this.#scratchBytes * this.threads);
  }

  /** `bytes` of uninitialised memory, valid until the next `reset`. Returns an address that is a multiple of 64. */
  allocate(bytes: number): number {
    const address = this.#top;
    this.#top += Math.ceil(bytes / 64) * 64;
    const missing = Math.ceil((this.#top - this.#memory.buffer.byteLength) / PAGE_BYTES);
    if (missing > 0) {
      try {
        this.#memory.grow(missing);
      } catch (cause) {
        throw new ResourceError("E_OUT_OF_MEMORY", `cpu device: cannot stage ${bytes} bytes`, {
          cause,
          details: { bytes },
        });
      }
    }
    return address;
  }

  floats(address: number, length: number): Float32Array {
    return new Float32Array(this.#memory.buffer, address, length);
  }

  words(address: number, length: number): Int32Array {
    return new Int32Array(this.#memory.buffer, address, length);
  }

  doubles(address: number, length: number): Float64Array {
    return new Float64Array(this.#memory.buffer, address, length);
  }

  scratchOf(thread: number): number {
    return this.#scratch + thread * this.#scratchBytes;
  }

  /** Run a kernel over all items and return when they are finished. */
  run({ kernel, items, grain, args }: Dispatch): void {
    const index = this.#indexOf(kernel);
    if (items > LARGEST_ITEM_COUNT) throw new InternalError("E_KERNEL", `${kernel}: ${items} items at once`);
    this.words(ARGUMENTS_ADDRESS, args.length).set(args);
    if (items <= grain || this.threads === 1) {
      if (items > 0) this.#kernels[index](0, items, ARGUMENTS_ADDRESS, this.#scratch);
      return;
    }
    if (this.#failure !== undefined) throw this.#failure;
    this.start().catch((error: unknown) => (this.#failure = error));
    const control = this.#control;
    // Close the old ticket first: a late worker must not take an item of a half-written dispatch.
    Atomics.store(control, CONTROL.ticket, LARGEST_ITEM_COUNT);
    Atomics.store(control, CONTROL.kernel, index);
    Atomics.store(control, CONTROL.items, items);
    Atomics.store(control, CONTROL.grain, grain);
    Atomics.store(control, CONTROL.scratch, this.#scratch);
    Atomics.store(control, CONTROL.scratchBytes, this.#scratchBytes);
    Atomics.store(control, CONTROL.finished, 0);
    this.#generation = (this.#generation + 1) & 0x7f;
    Atomics.store(control, CONTROL.ticket, this.#generation << 24);
    Atomics.add(control, CONTROL.epoch, 1);
    Atomics.notify(control, CONTROL.epoch);
    takeItems(control, 0, this.#kernels);
    this.#waitForItems(items);
  }

  #indexOf(kernel: KernelName): number {
    const index = this.#indices.get(kernel);
    if (index === undefined) throw new InternalError("E_KERNEL", `${kernel}: not in kernels.wasm; run "npm run build"`);
    return index;
  }

  #waitForItems(items: number): void {
    const control = this.#control;
    for (let spin = 0; spin < SPINS; spin++) if (Atomics.load(control, CONTROL.finished) === items) return;
    for (;;) {
      const finished = Atomics.load(control, CONTROL.finished);
      if (finished === items) return;
      Atomics.wait(control, CONTROL.finished, finished, 100);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    Atomics.store(this.#control, CONTROL.kernel, STOP);
    Atomics.add(this.#control, CONTROL.epoch, 1);
    Atomics.notify(this.#control, CONTROL.epoch);
    for (const worker of this.#workers ?? []) worker.removeAllListeners("message"); // one that is still starting must be waited for
    await Promise.all((this.#workers ?? []).map((worker) => worker.terminate()));
  }
}

function onAbort(): never {
  throw new InternalError("E_KERNEL", "a WebAssembly kernel aborted");
}

function startWorker(workerData: PoolWorkerData): { readonly worker: Worker; readonly ready: Promise<void> } {
  const worker = new Worker(new URL("./pool-worker.js", import.meta.url), { workerData, execArgv: [] });
  const ready = new Promise<void>((resolve, reject) => {
    worker.once("error", reject);
    worker.once("message", () => {
      worker.unref(); // a sleeping worker must not keep the process alive
      resolve();
    });
  });
  return { worker, ready };
}
