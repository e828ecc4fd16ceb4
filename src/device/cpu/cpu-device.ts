/**
 * The CPU device: matrix products through ONNX Runtime, selections and sweeps as WebAssembly SIMD in threads, the rest
 * as loops over typed arrays.
 *
 * This file holds what the device is made of and its life; its neighbours hold the operations, one file per theme, each
 * with a table that takes the operands' arrays at the time of the call and queues the work (queue.ts). Operands were
 * checked before (checked-device.ts).
 */
import { availableParallelism } from "node:os";
import { createMatmulEngine } from "../../onnx/matmul.js";
import { CheckedDevice } from "../checked-device.js";
import type { Device } from "../device.js";
import { Ledger } from "../resident.js";
import { dataOperations } from "./data.js";
import { elementwiseOperations } from "./elementwise.js";
import { factorizationOperations } from "./factorization.js";
import { KernelPool } from "./kernel-pool.js";
import { maskedOperations } from "./masked.js";
import type { CpuMask, CpuMatrix } from "./matrix.js";
import { DEFAULT_SPACING, productOperations, type ProductEngine, type Spacing } from "./products.js";
import { WorkQueue } from "./queue.js";
import { rowSystemOperations } from "./row-systems.js";
import { selectionOperations } from "./selection.js";
import { statisticsOperations } from "./statistics.js";
import { sweepOperations } from "./sweep.js";
import { trainingOperations } from "./training.js";

export interface CpuDeviceOptions {
  /** Threads of every operation; default: all cores. Results do not depend on it. */
  readonly threads?: number;
  /** Whether all threads take part from the first operation on; default: they come when there is work for several. */
  readonly startsThreads?: boolean;
  /** When and how products space the rows of a first factor; tests lower its numbers. Results do not depend on it. */
  readonly spacing?: Spacing;
}

/** @throws ResourceError when staging memory cannot be had */
export async function createCpuDevice(options: CpuDeviceOptions = {}): Promise<Device> {
  const threads = options.threads ?? availableParallelism();
  const pool = await KernelPool.create(threads);
  if (options.startsThreads === true) await pool.start();
  const engine = await createMatmulEngine({ threads });
  const products: ProductEngine = { engine, threads, spacing: options.spacing ?? DEFAULT_SPACING };
  const queue = new WorkQueue();
  const ledger = new Ledger();
  const owner = { ledger, release: () => undefined }; // arrays are collected when queued work lets go of them
  return new CheckedDevice<CpuMatrix, CpuMask>({
    kind: "cpu",
    home: "host",
    description: `CPU, ${threads} thread${threads === 1 ? "" : "s"}, ONNX Runtime and WebAssembly SIMD`,
    liveBytes: () => ledger.snapshot(),
    synchronize: () => queue.synchronize(),
    ...dataOperations(queue, owner),
    ...statisticsOperations(queue, products),
    ...elementwiseOperations(queue),
    ...maskedOperations(queue, pool),
    ...selectionOperations(queue, pool),
    ...productOperations(queue, products),
    ...factorizationOperations(queue, products, pool, owner),
    ...sweepOperations(queue, pool),
    ...rowSystemOperations(queue, pool),
    ...trainingOperations(queue, pool),
    async [Symbol.asyncDispose]() {
      await queue.idle();
      await pool[Symbol.asyncDispose]();
      await engine[Symbol.asyncDispose]();
    },
  });
}
