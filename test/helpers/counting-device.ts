/**
 * A device that counts what is asked of it: floating-point operations, entries gone over and the most memory alive at once.
 * Operations are counted from the shapes of their arguments, by the formulas of textbooks.
 */
import type {
  Device,
  Matrix,
  MatmulOptions,
  MatrixView,
  RowSystemOptions,
  SweepOptions,
} from "../../src/device/device.js";
import { PASSES } from "../../src/solvers/cost.js";

export interface Counts {
  products: number;
  kernels: number;
  entries: number;
  /** Most bytes alive at once, whatever they are for. */
  bytes: number;
}

const sizeOf = ({ rows, columns }: Pick<Matrix, "rows" | "columns">): number => rows * columns;

function shapeOf({ matrix, firstRow = 0, firstColumn = 0, rows, columns }: MatrixView): [number, number] {
  return [rows ?? matrix.rows - firstRow, columns ?? matrix.columns - firstColumn];
}

function viewSize(view: MatrixView): number {
  const [rows, columns] = shapeOf(view);
  return rows * columns;
}

/** @param sparsity of the masks that row systems are solved for, of which a device knows nothing before it looks */
export function createCountingDevice(
  device: Device,
  sparsity: number,
): { readonly device: Device; readonly counts: Counts } {
  const counts: Counts = { products: 0, kernels: 0, entries: 0, bytes: 0 };
  const entries = (count: number): void => {
    counts.entries += count;
  };
  const counters: Readonly<Record<string, (...args: never[]) => void>> = {
    uploadMatrix: (values: Float32Array) => entries(values.length),
    copy: (source: Matrix) => entries(sizeOf(source)),
    download: (view: MatrixView) => entries(viewSize(view)),
    scale: (matrix: Matrix) => entries(sizeOf(matrix)),
    scaleColumns: (matrix: Matrix) => entries(sizeOf(matrix)),
    scaleRows: (matrix: Matrix) => entries(sizeOf(matrix)),
    subtract: (_a: MatrixView, _b: MatrixView, out: MatrixView) => entries(viewSize(out)),
    transpose: (a: MatrixView) => entries(viewSize(a)),
    gather: (_a: Matrix, out: Matrix) => entries(sizeOf(out)),
    mirrorLower: (matrix: Matrix) => entries(sizeOf(matrix)),
    applyMask: (matrix: Matrix) => entries(sizeOf(matrix)),
    combine: ({ out }: { readonly out: Matrix }) => entries(sizeOf(out)),
    combinePair: ({ out }: { readonly out: Matrix }) => entries(PASSES.combinePair * sizeOf(out)),
    rowDots: (a: Matrix) => entries(sizeOf(a)),
    conjugateStep: ({ solution }: { readonly solution: Matrix }) => entries(PASSES.conjugateStep * sizeOf(solution)),
    selectRows: (weight: Matrix) => entries(PASSES.selection * sizeOf(weight)),
    selectMatrix: (weight: Matrix) => entries(PASSES.selection * sizeOf(weight)),
    selectGroups: (weight: Matrix) => entries(sizeOf(weight)),
    selectPanel: (panel: MatrixView) => entries(PASSES.panelSelection * viewSize(panel)),
    selectRemaining: (panel: MatrixView) => entries(PASSES.panelSelection * viewSize(panel)),
    matmul: ({ a, transposeA, out }: MatmulOptions) => {
      const [rows, columns] = shapeOf(a);
      counts.products += 2 * viewSize(out) * (transposeA === true ? rows : columns);
    },
    choleskyReversed: (h: Matrix) => (counts.products += h.rows ** 3 / 3),
    triangularInverse: (_cholesky: unknown, out: Matrix) => (counts.products += out.rows ** 3 / 3),
    invertPositiveDefinite: (h: Matrix) => (counts.products += h.rows ** 3),
    sweepPanel: ({ panel, firstColumn, columns }: SweepOptions) => {
      const [width, rows] = shapeOf(panel);
      for (let c = firstColumn; c < firstColumn + columns; c++) counts.kernels += 2 * rows * (width - c);
    },
    solveRowSystems: ({ panel }: RowSystemOptions) => {
      const [width, rows] = shapeOf(panel);
      const size = Math.round(Math.min(sparsity, 1 - sparsity) * width);
      counts.kernels += rows * (size ** 3 / 3 + 2 * width ** 2);
    },
  };
  const measure = (): void => {
    counts.bytes = Math.max(
      counts.bytes,
      [...device.liveBytes().values()].reduce((sum, bytes) => sum + bytes, 0),
    );
  };
  const counting = new Proxy(device, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (...args: never[]): unknown => {
        counters[String(name)]?.(...args);
        const result: unknown = Reflect.apply(value, target, args);
        measure();
        if (!(result instanceof Promise)) return result;
        return result.then((found: unknown) => {
          measure();
          return found;
        });
      };
    },
  });
  return { device: counting, counts };
}
