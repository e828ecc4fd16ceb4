/**
 * Matrices and masks of the CPU device: plain (not shared) typed arrays, which ONNX Runtime takes without a copy.
 * Views become rectangles of such arrays here; nothing here computes.
 */
import type { HostArray } from "../../array.js";
import { ResourceError } from "../../errors.js";
import { maskWordsPerRow, type KeepMask, type Matrix, type ResolvedView } from "../device.js";
import { Resident, type Description, type Owner } from "../resident.js";

/** What queued work holds on to: it outlives the object's disposal. */
export interface Borrowed<Values> {
  readonly values: Values;
  readonly rows: number;
  readonly columns: number;
}

/** Rows of zeros that lie behind every matrix, for products that read beyond its end (products.ts). */
export const SPARE_ROWS = 16;

/** All zero when it is made. */
export class CpuMatrix extends Resident<Float32Array> implements Matrix, HostArray {
  readonly home = "host";
  readonly dtype = "f32";

  constructor(owner: Owner<Float32Array>, size: Description) {
    const elements = size.rows * size.columns;
    const memory = allocate(size, () => new Float32Array(elements + SPARE_ROWS * size.columns));
    super(owner, memory.subarray(0, elements), 4 * elements, size);
  }

  get shape(): readonly [rows: number, columns: number] {
    return [this.rows, this.columns];
  }

  get values(): Float32Array {
    return this.memory;
  }

  borrow(): BorrowedMatrix {
    return { values: this.values, rows: this.rows, columns: this.columns };
  }
}

/** Copies `values`. */
export function filledMatrix(owner: Owner<Float32Array>, size: Description, values: Float32Array): CpuMatrix {
  const matrix = new CpuMatrix(owner, size);
  matrix.values.set(values);
  return matrix;
}

/** All pruned when it is made. */
export class CpuMask extends Resident<Uint32Array> implements KeepMask {
  constructor(owner: Owner<Uint32Array>, size: Description) {
    const memory = allocate(size, () => new Uint32Array(size.rows * maskWordsPerRow(size.columns)));
    super(owner, memory, memory.byteLength, size);
  }

  /** The words. */
  get values(): Uint32Array {
    return this.memory;
  }

  borrow(): BorrowedMask {
    return { values: this.values, rows: this.rows, columns: this.columns };
  }
}

function allocate<Memory>({ label, rows, columns }: Description, make: () => Memory): Memory {
  try {
    return make();
  } catch (cause) {
    throw new ResourceError("E_OUT_OF_MEMORY", `cpu device: "${label}" of ${rows} × ${columns} cannot be allocated`, {
      cause,
      details: { rows, columns },
    });
  }
}

export type BorrowedMatrix = Borrowed<Float32Array>;
/** `values` are the words. */
export type BorrowedMask = Borrowed<Uint32Array>;

/** A resolved view: entry (r, c) is values[offset + r * stride + c]. */
export interface Rectangle {
  readonly values: Float32Array;
  readonly offset: number;
  readonly stride: number;
  readonly rows: number;
  readonly columns: number;
  /** Whether it is a whole matrix, with SPARE_ROWS rows of zeros behind it. */
  readonly isWhole?: boolean;
}

export function rectangleOf({ matrix, firstRow, rows, firstColumn, columns }: ResolvedView<CpuMatrix>): Rectangle {
  return {
    values: matrix.values,
    offset: firstRow * matrix.columns + firstColumn,
    stride: matrix.columns,
    rows,
    columns,
    isWhole: rows === matrix.rows && columns === matrix.columns,
  };
}

export function wholeOf(matrix: CpuMatrix): Rectangle {
  const { rows, columns } = matrix;
  return rectangleOf({ matrix, firstRow: 0, rows, firstColumn: 0, columns });
}

/** A rectangle inside another. */
export function subRectangle(
  of: Rectangle,
  firstRow: number,
  rows: number,
  firstColumn: number,
  columns: number,
): Rectangle {
  return {
    values: of.values,
    offset: of.offset + firstRow * of.stride + firstColumn,
    stride: of.stride,
    rows,
    columns,
  };
}

/** The rectangle's entries, compact row-major: borrowed where they already lie so, else a copy. */
export function compactValues(rectangle: Rectangle): Float32Array {
  const { values, offset, stride, rows, columns } = rectangle;
  if (columns === stride || rows <= 1) return values.subarray(offset, offset + rows * columns);
  const out = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    const start = offset + r * stride;
    out.set(values.subarray(start, start + columns), r * columns);
  }
  return out;
}

/** Copy `from` to the top left corner of `to`. */
export function copyRectangle(from: Rectangle, to: Rectangle): void {
  for (let r = 0; r < from.rows; r++) {
    const start = from.offset + r * from.stride;
    to.values.set(from.values.subarray(start, start + from.columns), to.offset + r * to.stride);
  }
}

export function wholeMatrix(values: Float32Array, rows: number, columns: number): Rectangle {
  return { values, offset: 0, stride: columns, rows, columns };
}
