/**
 * Matrices and masks of the CPU device: plain (not shared) typed arrays, which ONNX Runtime takes without a copy.
 * Views are resolved and checked here; nothing here computes.
 */
import { InternalError } from "../../errors.js";
import { type KeepMask, type Matrix, type MatrixView } from "../device.js";

/** Bytes of live objects by label. */
export class Ledger {
  readonly #bytes = new Map<string, { bytes: number; count: number }>();

  add(label: string, bytes: number): void {
    const entry = this.#bytes.get(label) ?? { bytes: 0, count: 0 };
    this.#bytes.set(label, { bytes: entry.bytes + bytes, count: entry.count + 1 });
  }

  remove(label: string, bytes: number): void {
    const entry = this.#bytes.get(label) ?? { bytes, count: 1 };
    if (entry.count === 1) this.#bytes.delete(label);
    else this.#bytes.set(label, { bytes: entry.bytes - bytes, count: entry.count - 1 });
  }

  snapshot(): ReadonlyMap<string, number> {
    return new Map([...this.#bytes].map(([label, { bytes }]) => [label, bytes]));
  }
}

/** What queued work holds on to: it outlives the object's disposal. */
export interface Borrowed<Values> {
  readonly values: Values;
  readonly rows: number;
  readonly columns: number;
}

/** Shape, label and life of an object on the device. Queued work keeps its array; new work on it is refused. */
abstract class Resident<Values extends Float32Array | Uint32Array> implements Disposable {
  readonly rows: number;
  readonly columns: number;
  readonly label: string;
  readonly #ledger: Ledger;
  #values: Values | undefined;

  constructor(
    values: Values,
    shape: { readonly rows: number; readonly columns: number },
    label: string,
    ledger: Ledger,
  ) {
    this.rows = shape.rows;
    this.columns = shape.columns;
    this.label = label;
    this.#values = values;
    this.#ledger = ledger;
    ledger.add(label, values.byteLength);
  }

  get values(): Values {
    if (this.#values === undefined) throw new InternalError("E_DISPOSED", `${this.label}: used after it was disposed`);
    return this.#values;
  }

  borrow(): Borrowed<Values> {
    return { values: this.values, rows: this.rows, columns: this.columns };
  }

  [Symbol.dispose](): void {
    if (this.#values !== undefined) this.#ledger.remove(this.label, this.#values.byteLength);
    this.#values = undefined;
  }
}

/** Rows of zeros that lie behind every matrix, for products that read beyond its end (products.ts). */
export const SPARE_ROWS = 16;

/** All zero when it is made. */
export class CpuMatrix extends Resident<Float32Array> implements Matrix {
  constructor(rows: number, columns: number, label: string, ledger: Ledger) {
    const values = new Float32Array((rows + SPARE_ROWS) * columns).subarray(0, rows * columns);
    super(values, { rows, columns }, label, ledger);
  }
}

/** `values` are the mask's words. */
export class CpuMask extends Resident<Uint32Array> implements KeepMask {}

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

export function cpuMatrix(matrix: Matrix): CpuMatrix {
  if (!(matrix instanceof CpuMatrix))
    throw new InternalError("E_DEVICE", `${matrix.label}: not a matrix of this device`);
  return matrix;
}

export function cpuMask(mask: KeepMask): CpuMask {
  if (!(mask instanceof CpuMask)) throw new InternalError("E_DEVICE", `${mask.label}: not a mask of this device`);
  return mask;
}

export function resolveView(view: MatrixView): Rectangle {
  const matrix = cpuMatrix(view.matrix);
  const firstRow = view.firstRow ?? 0;
  const firstColumn = view.firstColumn ?? 0;
  const rows = view.rows ?? matrix.rows - firstRow;
  const columns = view.columns ?? matrix.columns - firstColumn;
  const inside =
    firstRow >= 0 &&
    firstColumn >= 0 &&
    rows >= 0 &&
    columns >= 0 &&
    firstRow + rows <= matrix.rows &&
    firstColumn + columns <= matrix.columns;
  if (!inside) {
    throw new InternalError(
      "E_VIEW",
      `${matrix.label}: the view leaves the matrix [${matrix.rows}, ${matrix.columns}]`,
      {
        details: { firstRow, rows, firstColumn, columns },
      },
    );
  }
  return {
    values: matrix.values,
    offset: firstRow * matrix.columns + firstColumn,
    stride: matrix.columns,
    rows,
    columns,
    isWhole: rows === matrix.rows && columns === matrix.columns,
  };
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

/** Throw unless `condition` holds: a broken invariant between a solver and the device. */
export function expectShapes(condition: boolean, operation: string, details: Readonly<Record<string, unknown>>): void {
  if (!condition)
    throw new InternalError("E_SHAPE", `${operation}: shapes do not fit: ${JSON.stringify(details)}`, { details });
}
