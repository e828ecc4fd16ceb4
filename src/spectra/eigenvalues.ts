/**
 * All singular values of a matrix, squared: the eigenvalues of its Gram matrix on the smaller side, in f64.
 *
 * f64 because the Gram matrix squares the condition: the smallest of 4096 singular values is often 10⁻⁵ of the largest,
 * which f32 cannot tell from nothing. The O(n³) work is products, which ONNX Runtime does: reduction to a band by
 * panels of Householder reflections (Bischof, Lang & Sun 2000, "A framework for symmetric band reduction"). What is
 * left is O(n²·band) and O(n²) on the host (tridiagonal.ts). No eigenvectors.
 */
import { createDoubleEngine, type DoubleEngine } from "../onnx/matmul.js";
import { bandToTridiagonal, SymmetricBand, tridiagonalEigenvalues } from "./tridiagonal.js";

/** Subdiagonals of the band: wide enough for the products, narrow enough for what follows them. */
export const BAND = 32;
/** Elements of W in f64 at a time while its Gram matrix is formed. */
const CHUNK_ELEMENTS = 2 ** 22;

export class SpectrumEngine implements AsyncDisposable {
  readonly #products: DoubleEngine = createDoubleEngine();
  readonly #chunkElements: number;

  /** @param options.chunkElements tests lower it, so that small matrices too come in several chunks */
  constructor({ chunkElements = CHUNK_ELEMENTS }: { readonly chunkElements?: number } = {}) {
    this.#chunkElements = chunkElements;
  }

  /**
   * σ² of every singular value, ascending.
   * @param values [rows, columns], row-major; borrowed
   * @returns min(rows, columns) numbers; the smallest may come out as tiny negative ones
   */
  async squaredSingularValues(values: Float32Array, rows: number, columns: number): Promise<Float64Array> {
    return this.symmetricEigenvalues(await this.#gram(values, rows, columns), Math.min(rows, columns));
  }

  /**
   * Eigenvalues of a symmetric matrix, ascending.
   * @param matrix [size, size], both triangles; overwritten
   */
  async symmetricEigenvalues(matrix: Float64Array, size: number): Promise<Float64Array> {
    const band = await this.#toBand(matrix, size);
    const { diagonal, offDiagonal } = bandToTridiagonal(band);
    return tridiagonalEigenvalues(diagonal, offDiagonal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#products[Symbol.asyncDispose]();
  }

  /** WWᵀ or WᵀW, whichever is smaller: a sum over chunks of the longer side. */
  async #gram(values: Float32Array, rows: number, columns: number): Promise<Float64Array> {
    const size = Math.min(rows, columns);
    const length = Math.max(rows, columns);
    const isTall = rows >= columns;
    const step = Math.max(1, Math.min(length, Math.floor(this.#chunkElements / size)));
    let gram: Float64Array = new Float64Array(size * size);
    for (let first = 0; first < length; first += step) {
      const count = Math.min(step, length - first);
      const chunk = isTall
        ? Float64Array.from(values.subarray(first * columns, (first + count) * columns)) // [count, size]
        : takeColumns(values, rows, columns, first, count); // [size, count]
      const form = { transpose: isTall ? "a" : "b", sign: 1 } as const;
      gram = await this.#products.multiplyAdd(chunk, chunk, gram, { m: size, n: size, k: count }, form);
    }
    return gram;
  }

  /**
   * QᵀAQ with at most BAND subdiagonals. Each step takes the next BAND columns below the band, E = Q·[R; 0] with
   * Q = I - V·T·Vᵀ, and updates what is left: A - V·Wᵀ - W·Vᵀ, W = Y - V·(Tᵀ·(Vᵀ·Y)) / 2, Y = A·V·T.
   */
  async #toBand(matrix: Float64Array, size: number): Promise<SymmetricBand> {
    const band = new SymmetricBand(size, Math.min(BAND, Math.max(1, size - 1)));
    let [rest, order] = [matrix, size];
    for (let first = 0; first < size; first += BAND) {
      const width = Math.min(BAND, order);
      for (let j = 0; j < width; j++) {
        for (let i = j; i < width; i++) band.set(first + i, first + j, rest[j * order + i]);
      }
      const inner = order - width;
      if (inner === 0) break;
      // Columns of E are rows of A, which lie together.
      const panel = new Float64Array(width * inner); // [width, inner]
      for (let j = 0; j < width; j++) panel.set(rest.subarray(j * order + width, (j + 1) * order), j * inner);
      const factor = reflect(panel, width, inner);
      for (let j = 0; j < width; j++) {
        for (let i = 0; i <= Math.min(j, inner - 1); i++)
          band.set(first + width + i, first + j, factor.r[i * width + j]);
      }
      for (let i = 0; i < inner; i++) {
        rest.copyWithin(i * inner, (width + i) * order + width, (width + i + 1) * order);
      }
      rest = await this.#update(rest.subarray(0, inner * inner), inner, factor, width);
      order = inner;
    }
    return band;
  }

  async #update(rest: Float64Array, order: number, { v, t }: Reflections, width: number): Promise<Float64Array> {
    const columns = transpose(v, width, order); // V [order, width]
    const product = await this.#products.multiply(rest, columns, order, width, order);
    const y = multiplySmall(product, t, order, width); // Y = A·V·T
    const inner = new Float64Array(width * width); // Vᵀ·Y
    for (let i = 0; i < order; i++) {
      for (let a = 0; a < width; a++) {
        const factor = columns[i * width + a];
        if (factor === 0) continue;
        for (let b = 0; b < width; b++) inner[a * width + b] += factor * y[i * width + b];
      }
    }
    const correction = multiplySmall(
      columns,
      multiplySmall(transpose(t, width, width), inner, width, width),
      order,
      width,
    );
    // [V W]·[W V]ᵀ = V·Wᵀ + W·Vᵀ
    const left = new Float64Array(2 * width * order);
    const right = new Float64Array(2 * width * order);
    for (let i = 0; i < order; i++) {
      for (let a = 0; a < width; a++) {
        const at = i * width + a;
        const w = y[at] - correction[at] / 2;
        left[2 * i * width + a] = right[(2 * i + 1) * width + a] = columns[at];
        left[(2 * i + 1) * width + a] = right[2 * i * width + a] = w;
      }
    }
    const form = { transpose: "b", sign: -1 } as const;
    return this.#products.multiplyAdd(left, right, rest, { m: order, n: order, k: 2 * width }, form);
  }
}

interface Reflections {
  /** [width, length]: reflection j is row j, zero before its element j, which is 1. */
  readonly v: Float64Array;
  /** [width, width], upper triangular: the product of all reflections is I - Vᵀ·T·V for rows V. */
  readonly t: Float64Array;
  /** [width, width], upper triangular; rows beyond the length are zero. */
  readonly r: Float64Array;
}

/**
 * QR of a tall matrix given by its columns, in the compact form of Schreiber & Van Loan (1989).
 * @param columns [width, length]; overwritten, becomes `v`
 */
function reflect(columns: Float64Array, width: number, length: number): Reflections {
  const t = new Float64Array(width * width);
  const r = new Float64Array(width * width);
  const row = (j: number): Float64Array => columns.subarray(j * length, (j + 1) * length);
  for (let j = 0; j < width; j++) {
    const x = row(j);
    const count = Math.min(j, length);
    for (let i = 0; i < count; i++) {
      r[i * width + j] = x[i];
      x[i] = 0;
    }
    if (j >= length) continue; // nothing left below: the reflection is the identity, v = 0
    let tail = 0;
    for (let i = j + 1; i < length; i++) tail += x[i] * x[i];
    const norm = Math.sqrt(x[j] * x[j] + tail);
    let tau = 0;
    if (tail === 0) r[j * width + j] = x[j];
    else {
      const head = x[j] > 0 ? -norm : norm; // away from x[j], so that nothing cancels
      const pivot = x[j] - head;
      tau = -pivot / head;
      for (let i = j + 1; i < length; i++) x[i] /= pivot;
      r[j * width + j] = head;
    }
    x[j] = 1;
    if (tau !== 0) for (let other = j + 1; other < width; other++) applyReflection(x, tau, row(other), j);
    // T[0..j, j] = -τ·T·(Vᵀ·v), T[j, j] = τ
    for (let a = 0; a < j; a++) {
      const before = row(a);
      let dot = 0;
      for (let i = j; i < length; i++) dot += before[i] * x[i];
      for (let b = 0; b <= a; b++) t[b * width + j] -= tau * t[b * width + a] * dot;
    }
    t[j * width + j] = tau;
  }
  return { v: columns, t, r };
}

function applyReflection(v: Float64Array, tau: number, x: Float64Array, first: number): void {
  let dot = 0;
  for (let i = first; i < v.length; i++) dot += v[i] * x[i];
  dot *= tau;
  for (let i = first; i < v.length; i++) x[i] -= dot * v[i];
}

/** a·b with a [rows, width] and b [width, width]. */
function multiplySmall(a: Float64Array, b: Float64Array, rows: number, width: number): Float64Array {
  const result = new Float64Array(rows * width);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < width; k++) {
      const factor = a[i * width + k];
      if (factor === 0) continue;
      for (let j = 0; j < width; j++) result[i * width + j] += factor * b[k * width + j];
    }
  }
  return result;
}

function transpose(values: Float64Array, rows: number, columns: number): Float64Array {
  const result = new Float64Array(values.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = values[i * columns + j];
  return result;
}

function takeColumns(values: Float32Array, rows: number, columns: number, first: number, count: number): Float64Array {
  const result = new Float64Array(rows * count);
  for (let i = 0; i < rows; i++)
    result.set(values.subarray(i * columns + first, i * columns + first + count), i * count);
  return result;
}
