/**
 * Matrix product and Gram accumulation: the host side of matmul.wgsl. Chooses the operand variant (vec4, any alignment,
 * shared buffer) and cuts the work: along k at fixed multiples (short sums), along rows and columns so that bindings fit
 * the adapter's limit and a dispatch stays within the work budget. Cuts along rows and columns never change a sum; the
 * cut along k depends on the adapter only where k runs along rows and 2048 of them exceed its binding limit.
 */
import type { MatmulOptions, ProductOperations } from "../../device.js";
import type { GpuMatrix, GpuView } from "../buffer.js";
import { bindView, subColumns, subRows } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import type { Access, Constants, KernelSpec } from "../kernel.js";
import { defineKernel } from "../kernel.js";
import { detach } from "./copy-view.js";

/** Longest chain of additions in one accumulator of a product. */
const LARGEST_K = 2048;
/**
 * Tokens per accumulator of a Gram matrix: relative error about 3e-7 at 512 to 2048 against 2e-6 at 16,384 (offset data).
 * 1024 rows of 28,672 floats still fit the smallest binding limit, 128 MiB, so the cut is the same on every adapter.
 */
const GRAM_TOKENS = 1024;
const TILE = 64;

const MATMUL_PARAMS = {
  m: "u32",
  n: "u32",
  k: "u32",
  a_offset: "u32",
  a_pitch: "u32",
  b_offset: "u32",
  b_pitch: "u32",
  out_offset: "u32",
  out_pitch: "u32",
  tile_rows: "u32",
  tile_columns: "u32",
  row_origin: "u32",
  alpha: "f32",
  beta: "f32",
} as const;
type MatmulKernel = KernelSpec<keyof typeof MATMUL_PARAMS>;

const TRANSPOSITIONS: readonly Constants[] = [
  { TRANS_A: 0, TRANS_B: 0 },
  { TRANS_A: 0, TRANS_B: 1 },
  { TRANS_A: 1, TRANS_B: 0 },
  { TRANS_A: 1, TRANS_B: 1 },
];
const GRAM_CONSTANTS: Constants = { TRANS_A: 1, LOWER: 1 };

function productKernel(
  operands: string,
  bindings: readonly Access[],
  constantSets: readonly Constants[],
): MatmulKernel {
  return defineKernel({
    name: operands.replace("operands", "matmul"),
    files: ["lib/linear_workgroup.wgsl", `lib/${operands}.wgsl`, "matmul.wgsl"],
    bindings,
    params: MATMUL_PARAMS,
    constantSets,
  });
}

/** Also of a Gram matrix, whose x stands in both read bindings. */
const VARIANTS: readonly Constants[] = [...TRANSPOSITIONS, GRAM_CONSTANTS];
const MATMUL_VEC4 = productKernel("operands_vec4", ["read", "read", "read_write"], VARIANTS);
const MATMUL_SCALAR = productKernel("operands_scalar", ["read", "read", "read_write"], VARIANTS);
const MATMUL_SHARED = productKernel("operands_vec4_shared", ["read_write", "read_write", "read_write"], TRANSPOSITIONS);
const GRAM_SHARED = productKernel("operands_gram_vec4_shared", ["read_write", "read_write"], [GRAM_CONSTANTS]);

export function productOperations(dispatcher: Dispatcher): ProductOperations<GpuView> {
  return {
    matmul: ({ transposeA = false, transposeB = false, alpha = 1, beta = 0, ...views }) =>
      encodeProduct(dispatcher, { ...views, transposeA, transposeB, alpha, beta }),
  };
}

type ProductOptions = Required<MatmulOptions<GpuView>>;

/** out = alpha·op(a)·op(b) + beta·out. */
export function encodeProduct(dispatcher: Dispatcher, options: ProductOptions): void {
  const { out, transposeA, transposeB } = options;
  const k = transposeA ? options.a.rows : options.a.columns;
  if (out.rows === 0 || out.columns === 0) return;
  const { a, b, shared, release } = separate(dispatcher, options);
  const alongK = Math.min(
    LARGEST_K,
    limitOf(dispatcher, transposeA ? a : undefined),
    limitOf(dispatcher, transposeB ? undefined : b),
  );
  const alongN = Math.min(out.columns, limitOf(dispatcher, transposeB ? b : undefined));
  const depth = Math.min(Math.max(k, 1), alongK);
  const alongM = Math.min(
    limitOf(dispatcher, transposeA ? undefined : a),
    limitOf(dispatcher, out),
    rowsWithinBudget(dispatcher, 2 * depth * alongN),
  );
  for (let m0 = 0; m0 < out.rows; m0 += alongM) {
    const m = Math.min(alongM, out.rows - m0);
    for (let n0 = 0; n0 < out.columns; n0 += alongN) {
      const n = Math.min(alongN, out.columns - n0);
      for (let k0 = 0; k0 < Math.max(k, 1); k0 += alongK) {
        const part = Math.min(alongK, k - k0);
        encodeTiles(
          dispatcher,
          { ...options, beta: k0 === 0 ? options.beta : 1 },
          transposeA ? subColumns(subRows(a, k0, part), m0, m) : subColumns(subRows(a, m0, m), k0, part),
          transposeB ? subColumns(subRows(b, n0, n), k0, part) : subColumns(subRows(b, k0, part), n0, n),
          subColumns(subRows(out, m0, m), n0, n),
          shared,
        );
      }
    }
  }
  release();
}

/** Operands in a form that may be bound beside `out`: as they are, in other rows of its buffer, or copied away. */
function separate(
  dispatcher: Dispatcher,
  options: ProductOptions,
): { a: GpuView; b: GpuView; shared: boolean; release: () => void } {
  const { a, b, out } = options;
  const inOut = [a, b].filter((view) => view.matrix === out.matrix);
  if (inOut.length === 0) return { a, b, shared: false, release: () => undefined };
  const disjoint = inOut.every(
    (view) => view.firstRow + view.rows <= out.firstRow || out.firstRow + out.rows <= view.firstRow,
  );
  // Two overlapping read_write bindings are refused as well, so a and b may not both be that matrix.
  if (disjoint && a.matrix !== b.matrix && [a, b, out].every(isAligned)) {
    return { a, b, shared: true, release: () => undefined };
  }
  const copies = [a, b].map((view) => (view.matrix === out.matrix ? detach(dispatcher, view) : undefined));
  return {
    a: copies[0] ?? a,
    b: copies[1] ?? b,
    shared: false,
    release: () => copies.forEach((copy) => copy?.matrix[Symbol.dispose]()),
  };
}

function encodeTiles(
  dispatcher: Dispatcher,
  options: ProductOptions,
  a: GpuView,
  b: GpuView,
  out: GpuView,
  shared: boolean,
): void {
  const k = options.transposeA ? a.rows : a.columns;
  const tileRows = Math.ceil(out.rows / TILE);
  const tileColumns = Math.ceil(out.columns / TILE);
  const aligned = [a, b, out].every(isAligned);
  const kernel = shared ? MATMUL_SHARED : aligned ? MATMUL_VEC4 : MATMUL_SCALAR;
  dispatcher.dispatch(
    kernel,
    // A product over nothing still scales `out`; WebGPU has no empty bindings, so any bytes do.
    [
      k === 0 ? bindView(subRows(wholeRows(a), 0, 1)) : bindView(a),
      k === 0 ? bindView(subRows(wholeRows(b), 0, 1)) : bindView(b),
      bindView(out),
    ],
    {
      m: out.rows,
      n: out.columns,
      k,
      a_offset: a.firstColumn,
      a_pitch: a.matrix.pitch,
      b_offset: b.firstColumn,
      b_pitch: b.matrix.pitch,
      out_offset: out.firstColumn,
      out_pitch: out.matrix.pitch,
      tile_rows: tileRows,
      tile_columns: tileColumns,
      row_origin: 0,
      alpha: options.alpha,
      beta: options.beta,
    },
    tileRows * tileColumns,
    2 * k * out.rows * out.columns,
    { TRANS_A: options.transposeA ? 1 : 0, TRANS_B: options.transposeB ? 1 : 0 },
  );
}

function wholeRows(view: GpuView): GpuView {
  return { ...view, firstRow: 0, rows: view.matrix.rows };
}

/** gram[i, j] += alpha·Σ_t x[t, i]·x[t, j] for i ≥ j, all columns of x; gram is square. */
export function encodeGram(dispatcher: Dispatcher, x: GpuView, gram: GpuMatrix): void {
  const alongTokens = Math.min(GRAM_TOKENS, limitOf(dispatcher, x));
  for (let token = 0; token < x.rows; token += alongTokens) {
    const chunk = subRows(x, token, Math.min(alongTokens, x.rows - token));
    encodeGramRows(dispatcher, { x: chunk, gram, firstRow: 0, endRow: gram.rows, alpha: 1 });
  }
}

export interface GramRows {
  /** [k, columns of gram from 0]: element (t, i) meets row or column i of `gram`. */
  readonly x: GpuView;
  readonly gram: GpuMatrix;
  /** Rows [firstRow, endRow) are updated from column 0 to the diagonal. firstRow is a multiple of 4. */
  readonly firstRow: number;
  readonly endRow: number;
  readonly alpha: number;
}

/** The lower part of some rows of gram += alpha·xᵀx; x may be other rows of the same matrix. */
export function encodeGramRows(dispatcher: Dispatcher, options: GramRows): void {
  const { x, gram, endRow, alpha } = options;
  const isShared = x.matrix === gram;
  const kernel = isShared ? GRAM_SHARED : isAligned(x) ? MATMUL_VEC4 : MATMUL_SCALAR;
  // One buffer may stand in two read bindings, but not in overlapping read_write ones.
  const operands = isShared ? [bindView(x)] : [bindView(x), bindView(x)];
  const height = Math.min(
    wholeTiles(dispatcher.rowsPerBinding(gram.pitch)),
    rowsWithinBudget(dispatcher, 2 * x.rows * endRow),
  );
  for (let row = options.firstRow; row < endRow; row += height) {
    const rows = Math.min(height, endRow - row);
    const columns = row + rows;
    const tileRows = Math.ceil(rows / TILE);
    const tileColumns = Math.ceil(columns / TILE);
    dispatcher.dispatch(
      kernel,
      [...operands, { buffer: gram.buffer, offset: row * gram.pitch * 4, size: rows * gram.pitch * 4 }],
      {
        m: rows,
        n: columns,
        k: x.rows,
        a_offset: x.firstColumn + row,
        a_pitch: x.matrix.pitch,
        b_offset: x.firstColumn,
        b_pitch: x.matrix.pitch,
        out_offset: 0,
        out_pitch: gram.pitch,
        tile_rows: tileRows,
        tile_columns: tileColumns,
        row_origin: row,
        alpha,
        beta: 1,
      },
      tileRows * tileColumns,
      x.rows * rows * (row + columns),
      GRAM_CONSTANTS,
    );
  }
}

function isAligned(view: GpuView): boolean {
  return view.firstColumn % 4 === 0;
}

/** Rows of the view's matrix per binding, in whole tiles; no limit for a dimension that does not run along rows. */
function limitOf(dispatcher: Dispatcher, view: GpuView | undefined): number {
  return view === undefined ? Number.MAX_SAFE_INTEGER : wholeTiles(dispatcher.rowsPerBinding(view.matrix.pitch));
}

/** Whole tile rows that the work budget allows when a row costs `perRow` operations. */
function rowsWithinBudget(dispatcher: Dispatcher, perRow: number): number {
  return Math.max(TILE, wholeTiles(Math.floor(dispatcher.workBudget / Math.max(perRow, 1))));
}

/** Cuts fall on tile borders, so that what begins there is aligned for vec4 again. */
function wholeTiles(rows: number): number {
  return Math.max(TILE, Math.floor(rows / TILE) * TILE);
}
