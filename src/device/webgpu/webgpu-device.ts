/**
 * The `webgpu` device: every operation of `Device` as WGSL kernels on a GPU, through Dawn.
 *
 * Orientation, from the outside in
 * - adapter.ts finds an adapter and opens the device; nothing else imports the npm package `webgpu`.
 * - this file puts the device together from tables of operations, whose operands were checked (checked-device.ts).
 * - data.ts and kernels/*.ts hold the tables, one file per theme: the kernel specs and the host side of each operation,
 *   which kernels, which grid, how the work is cut so that bindings, buffers, the grid and the watchdog's patience
 *   suffice. Cuts never change a sum.
 * - dispatch.ts queues: one compute pass with many dispatches, a ring of parameters, submits of about 100 ms, errors kept
 *   for the next wait, readback. kernel.ts compiles. buffer.ts holds matrices (rows padded to 64 floats).
 * - shaders/*.wgsl are the kernels, one per file, each with its method, memory and accuracy in its header.
 *
 * Limits: a matrix is one buffer, so its largest size is the adapter's `maxBufferSize` (rows padded to 64 floats); beyond
 * the binding limit it is bound by row ranges. Except for masks, vectors and the panels of sweeps and row systems, which
 * are bound whole.
 * This file does not choose between devices and knows nothing of solvers.
 */
import { CheckedDevice } from "../checked-device.js";
import type { Device } from "../device.js";
import type { GpuMask, GpuMatrix } from "./buffer.js";
import { dataOperations } from "./data.js";
import type { Dispatcher } from "./dispatch.js";
import { elementwiseOperations } from "./kernels/elementwise.js";
import { factorizationOperations } from "./kernels/factorization.js";
import { maskedOperations } from "./kernels/masked.js";
import { productOperations } from "./kernels/products.js";
import { rowSystemOperations } from "./kernels/row-systems.js";
import { selectionOperations } from "./kernels/selection.js";
import { statisticsOperations } from "./kernels/statistics.js";
import { sweepOperations } from "./kernels/sweep.js";
import { trainingOperations } from "./kernels/training.js";

/** The device on top of a dispatcher, which it closes when it is disposed. */
export function createDeviceOn(dispatcher: Dispatcher, description: string): Device {
  return new CheckedDevice<GpuMatrix, GpuMask>({
    kind: "webgpu",
    home: "webgpu",
    description,
    liveBytes: () => dispatcher.ledger.snapshot(),
    synchronize: () => dispatcher.synchronize(),
    ...dataOperations(dispatcher),
    ...statisticsOperations(dispatcher),
    ...elementwiseOperations(dispatcher),
    ...maskedOperations(dispatcher),
    ...selectionOperations(dispatcher),
    ...productOperations(dispatcher),
    ...factorizationOperations(dispatcher),
    ...sweepOperations(dispatcher),
    ...rowSystemOperations(dispatcher),
    ...trainingOperations(dispatcher),
    [Symbol.asyncDispose]: () => dispatcher.close(),
  });
}
