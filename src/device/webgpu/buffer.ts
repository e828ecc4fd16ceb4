/**
 * Matrices and masks on the GPU, and the parts of them that kernels see.
 *
 * A matrix is one buffer with its rows padded to a multiple of 64 floats (256 bytes): then every row begins at a legal
 * binding offset, row ranges can be bound alone (matrices beyond the binding limit, two disjoint ranges of one buffer),
 * and rows can be read as vec4. What the padding holds is unspecified. This file queues nothing on the device.
 */
import type { KeepMask, Matrix, ResolvedView } from "../device.js";
import { maskWordsPerRow } from "../device.js";
import { Resident, type Description, type Owner } from "../resident.js";

const PITCH_UNIT = 64;

/** Floats from one row of a matrix to the next. */
export function rowPitch(columns: number): number {
  return Math.max(1, Math.ceil(columns / PITCH_UNIT)) * PITCH_UNIT;
}

/** [rows, columns] f32, rows `pitch` floats apart. */
export class GpuMatrix extends Resident<GPUBuffer> implements Matrix {
  readonly home = "webgpu";
  readonly dtype = "f32";

  constructor(owner: Owner<GPUBuffer>, buffer: GPUBuffer, size: Description) {
    super(owner, buffer, buffer.size, size);
  }

  get shape(): readonly [rows: number, columns: number] {
    return [this.rows, this.columns];
  }

  get pitch(): number {
    return rowPitch(this.columns);
  }

  get buffer(): GPUBuffer {
    return this.memory;
  }
}

/** [rows, columns] bits in rows of `words` u32. */
export class GpuMask extends Resident<GPUBuffer> implements KeepMask {
  constructor(owner: Owner<GPUBuffer>, buffer: GPUBuffer, size: Description) {
    super(owner, buffer, buffer.size, size);
  }

  get words(): number {
    return maskWordsPerRow(this.columns);
  }

  get buffer(): GPUBuffer {
    return this.memory;
  }
}

/** A part of a buffer as a kernel sees it. */
export interface Binding {
  readonly buffer: GPUBuffer;
  /** Bytes, a multiple of 256. */
  readonly offset: number;
  readonly size: number;
}

export type GpuView = ResolvedView<GpuMatrix>;

/** Rows [firstRow, firstRow + rows) of a matrix, full pitch. */
export function bindRows(matrix: GpuMatrix, firstRow: number, rows: number): Binding {
  const rowBytes = matrix.pitch * 4;
  return { buffer: matrix.buffer, offset: firstRow * rowBytes, size: rows * rowBytes };
}

/** The whole of a mask. */
export function bindMask(mask: GpuMask): Binding {
  return { buffer: mask.buffer, offset: 0, size: mask.byteLength };
}

/** The view's rows [firstRow, firstRow + rows), counted within the view. */
export function subRows(view: GpuView, firstRow: number, rows: number): GpuView {
  return { ...view, firstRow: view.firstRow + firstRow, rows };
}

/** The view's columns [firstColumn, firstColumn + columns), counted within the view. */
export function subColumns(view: GpuView, firstColumn: number, columns: number): GpuView {
  return { ...view, firstColumn: view.firstColumn + firstColumn, columns };
}

export function bindView(view: GpuView): Binding {
  return bindRows(view.matrix, view.firstRow, view.rows);
}

export function wholeView(matrix: GpuMatrix): GpuView {
  return { matrix, firstRow: 0, rows: matrix.rows, firstColumn: 0, columns: matrix.columns };
}
