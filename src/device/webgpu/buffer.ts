/**
 * Matrices and masks on the GPU, and the ledger of what is alive.
 *
 * A matrix is one buffer with its rows padded to a multiple of 64 floats (256 bytes): then every row begins at a legal
 * binding offset, row ranges can be bound alone (matrices beyond the binding limit, two disjoint ranges of one buffer),
 * and rows can be read as vec4. What the padding holds is unspecified. This file queues nothing on the device.
 */
import { InternalError } from "../../errors.js";
import type { KeepMask, Matrix, MatrixView } from "../device.js";
import { maskWordsPerRow } from "../device.js";

const PITCH_UNIT = 64;

/** Floats from one row of a matrix to the next. */
export function rowPitch(columns: number): number {
  return Math.max(1, Math.ceil(columns / PITCH_UNIT)) * PITCH_UNIT;
}

/** Bytes of live buffers by label. */
export class Ledger {
  readonly #bytes = new Map<string, number>();

  add(label: string, bytes: number): void {
    this.#bytes.set(label, (this.#bytes.get(label) ?? 0) + bytes);
  }

  remove(label: string, bytes: number): void {
    const left = (this.#bytes.get(label) ?? 0) - bytes;
    if (left > 0) this.#bytes.set(label, left);
    else this.#bytes.delete(label);
  }

  snapshot(): ReadonlyMap<string, number> {
    return new Map(this.#bytes);
  }
}

/** What a matrix needs of its device when it goes. */
export interface BufferOwner {
  /** Destroy the buffer once everything recorded so far has been submitted. */
  release(buffer: GPUBuffer): void;
  readonly ledger: Ledger;
}

abstract class Allocation implements Disposable {
  readonly label: string;
  readonly rows: number;
  readonly columns: number;
  readonly byteLength: number;
  #buffer: GPUBuffer | undefined;
  readonly #owner: BufferOwner;

  constructor(owner: BufferOwner, buffer: GPUBuffer, byteLength: number, rows: number, columns: number, label: string) {
    this.#owner = owner;
    this.#buffer = buffer;
    this.byteLength = byteLength;
    this.rows = rows;
    this.columns = columns;
    this.label = label;
    owner.ledger.add(label, byteLength);
  }

  belongsTo(owner: BufferOwner): boolean {
    return this.#owner === owner;
  }

  get buffer(): GPUBuffer {
    if (this.#buffer === undefined) {
      throw new InternalError("E_DISPOSED", `webgpu device: "${this.label}" is used after it was disposed.`);
    }
    return this.#buffer;
  }

  [Symbol.dispose](): void {
    const buffer = this.#buffer;
    if (buffer === undefined) return;
    this.#buffer = undefined;
    this.#owner.ledger.remove(this.label, this.byteLength);
    this.#owner.release(buffer);
  }
}

/** [rows, columns] f32, rows `pitch` floats apart. */
export class GpuMatrix extends Allocation implements Matrix {
  get pitch(): number {
    return rowPitch(this.columns);
  }
}

/** [rows, columns] bits in rows of `words` u32. */
export class GpuMask extends Allocation implements KeepMask {
  get words(): number {
    return maskWordsPerRow(this.columns);
  }
}

/** A part of a buffer as a kernel sees it. */
export interface Binding {
  readonly buffer: GPUBuffer;
  /** Bytes, a multiple of 256. */
  readonly offset: number;
  readonly size: number;
}

/** A view with nothing left out. */
export interface GpuView {
  readonly matrix: GpuMatrix;
  readonly firstRow: number;
  readonly rows: number;
  readonly firstColumn: number;
  readonly columns: number;
}

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

export function ownMatrix(owner: BufferOwner, matrix: Matrix): GpuMatrix {
  if (matrix instanceof GpuMatrix && matrix.belongsTo(owner)) return matrix;
  throw new InternalError("E_FOREIGN_MATRIX", `webgpu device: matrix "${matrix.label}" belongs to another device.`);
}

export function ownMask(owner: BufferOwner, mask: KeepMask): GpuMask {
  if (mask instanceof GpuMask && mask.belongsTo(owner)) return mask;
  throw new InternalError("E_FOREIGN_MASK", `webgpu device: mask "${mask.label}" belongs to another device.`);
}

/** Fills the defaults in and checks that the view lies within its matrix. */
export function resolveView(owner: BufferOwner, view: MatrixView): GpuView {
  const matrix = ownMatrix(owner, view.matrix);
  const firstRow = view.firstRow ?? 0;
  const firstColumn = view.firstColumn ?? 0;
  const rows = view.rows ?? matrix.rows - firstRow;
  const columns = view.columns ?? matrix.columns - firstColumn;
  const fits = (first: number, count: number, limit: number): boolean =>
    Number.isInteger(first) && Number.isInteger(count) && first >= 0 && count >= 0 && first + count <= limit;
  if (!fits(firstRow, rows, matrix.rows) || !fits(firstColumn, columns, matrix.columns)) {
    throw new InternalError(
      "E_VIEW",
      `webgpu device: view rows ${firstRow}+${rows}, columns ${firstColumn}+${columns} leaves "${matrix.label}" ` +
        `of ${matrix.rows} × ${matrix.columns}.`,
    );
  }
  return { matrix, firstRow, rows, firstColumn, columns };
}

/** Throws unless `condition` holds: a caller broke the contract of an operation. */
export function requireShape(condition: boolean, operation: string, message: string): asserts condition {
  if (!condition) throw new InternalError("E_SHAPE", `webgpu device: ${operation}: ${message}.`);
}
