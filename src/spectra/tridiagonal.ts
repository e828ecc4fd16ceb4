/**
 * From a symmetric band matrix to its eigenvalues, in f64 on the host: Givens rotations remove one subdiagonal after
 * another (Schwarz 1968), the tridiagonal rest goes through the implicit QL iteration (Dubrulle, Martin & Wilkinson
 * 1968). Pure.
 */
import { NumericalError } from "../errors.js";

/** The lower triangle of a symmetric matrix with few subdiagonals. */
export class SymmetricBand {
  readonly size: number;
  readonly width: number;
  /** Distance d below the diagonal of column j is at j · stride + d; one more than `width` for the bulge. */
  readonly values: Float64Array;
  readonly stride: number;

  constructor(size: number, width: number) {
    this.size = size;
    this.width = width;
    this.stride = width + 2;
    this.values = new Float64Array(size * this.stride);
  }

  /** Set an element of the lower triangle, row >= column. */
  set(row: number, column: number, value: number): void {
    this.values[column * this.stride + row - column] = value;
  }
}

export interface Tridiagonal {
  readonly diagonal: Float64Array;
  /** One shorter: element i couples i and i + 1. */
  readonly offDiagonal: Float64Array;
}

/** An orthogonally similar tridiagonal matrix; the band is overwritten. About 6 · size² · width operations. */
export function bandToTridiagonal(band: SymmetricBand): Tridiagonal {
  const { size, width } = band;
  for (let distance = width; distance >= 2; distance--) {
    for (let column = 0; column + distance < size; column++) {
      // The element at (column + distance, column) goes; the bulge this makes `distance` further down is chased out.
      let [row, source] = [column + distance, column];
      while (row < size && rotateAway(band, row, source, distance)) [source, row] = [row - 1, row + distance];
    }
  }
  const { values, stride } = band;
  return {
    diagonal: Float64Array.from({ length: size }, (_, i) => values[i * stride]),
    offDiagonal: Float64Array.from({ length: Math.max(0, size - 1) }, (_, i) => values[i * stride + 1]),
  };
}

/**
 * Rotate rows and columns row - 1 and row so that (row, source) becomes zero; elements further than `distance` from
 * the diagonal are zero but for that one. Leaves a bulge at (row + distance, row - 1).
 * @returns whether there was anything to do
 */
function rotateAway({ values, stride, size }: SymmetricBand, row: number, source: number, distance: number): boolean {
  const target = source * stride + row - source;
  const b = values[target];
  if (b === 0) return false;
  const a = values[target - 1];
  const norm = Math.hypot(a, b);
  const [c, s] = [a / norm, b / norm];
  values[target - 1] = norm;
  values[target] = 0;
  const [upper, lower] = [row - 1, row];
  // Columns between the source and the pair: elements (upper, j) and (lower, j) lie beside each other.
  for (let j = source + 1; j < upper; j++) {
    const at = j * stride + upper - j;
    const [x, y] = [values[at], values[at + 1]];
    values[at] = c * x + s * y;
    values[at + 1] = c * y - s * x;
  }
  const [p, q] = [upper * stride, lower * stride];
  const [alpha, beta, gamma] = [values[p], values[p + 1], values[q]];
  values[p] = c * c * alpha + 2 * c * s * beta + s * s * gamma;
  values[q] = s * s * alpha - 2 * c * s * beta + c * c * gamma;
  values[p + 1] = c * s * (gamma - alpha) + (c * c - s * s) * beta;
  // Rows below the pair: (i, upper) and (i, lower).
  const last = Math.min(size - 1, lower + distance);
  for (let i = lower + 1; i <= last; i++) {
    const [atUpper, atLower] = [p + i - upper, q + i - lower];
    const [x, y] = [values[atUpper], values[atLower]];
    values[atUpper] = c * x + s * y;
    values[atLower] = c * y - s * x;
  }
  return true;
}

/** Far more than any matrix needs; two or three are usual. */
const LARGEST_SWEEPS = 60;

/**
 * Eigenvalues of a symmetric tridiagonal matrix, ascending; both arguments are overwritten.
 * @throws NumericalError E_EIGENVALUES where the iteration does not converge: the matrix is not finite
 */
export function tridiagonalEigenvalues(d: Float64Array, offDiagonal: Float64Array): Float64Array {
  const size = d.length;
  const e = new Float64Array(size);
  e.set(offDiagonal);
  for (let first = 0; first < size; first++) {
    for (let sweep = 0; ; sweep++) {
      // The unreduced block [first, end]: its last off-diagonal is negligible beside its neighbours.
      let end = first;
      while (end < size - 1) {
        const scale = Math.abs(d[end]) + Math.abs(d[end + 1]);
        if (Math.abs(e[end]) <= Number.EPSILON * scale) break;
        end++;
      }
      if (end === first) break;
      if (sweep === LARGEST_SWEEPS || !Number.isFinite(d[first])) {
        throw new NumericalError("E_EIGENVALUES", "the eigenvalues of a weight's Gram matrix do not converge.", {
          hint: "The weights hold values that are not finite, or are far too large.",
        });
      }
      qlSweep(d, e, first, end);
    }
  }
  return d.sort();
}

/** One implicit QL sweep with Wilkinson's shift over [first, end]. */
function qlSweep(d: Float64Array, e: Float64Array, first: number, end: number): void {
  const half = (d[first + 1] - d[first]) / (2 * e[first]);
  const root = Math.hypot(half, 1);
  let g = d[end] - d[first] + e[first] / (half + (half >= 0 ? root : -root));
  let [s, c, p] = [1, 1, 0];
  for (let i = end - 1; i >= first; i--) {
    const f = s * e[i];
    const b = c * e[i];
    const r = Math.sqrt(f * f + g * g);
    e[i + 1] = r;
    if (r === 0) {
      // The block has come apart: undo the shift here and start again.
      d[i + 1] -= p;
      e[end] = 0;
      return;
    }
    s = f / r;
    c = g / r;
    g = d[i + 1] - p;
    const rotated = (d[i] - g) * s + 2 * c * b;
    p = s * rotated;
    d[i + 1] = g + p;
    g = c * rotated - b;
  }
  d[first] -= p;
  e[first] = g;
  e[end] = 0;
}
