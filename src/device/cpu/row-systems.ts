/** Row systems of the CPU device: stages a block, its two matrices and its mask bits, and runs the kernel over rows. */
import { maskWordsPerRow, type ResolvedView, type RowSystemOperations, type RowSystemOptions } from "../device.js";
import { defineKernel, type KernelPool } from "./kernel-pool.js";
import {
  compactValues,
  rectangleOf,
  type BorrowedMask,
  type CpuMask,
  type CpuMatrix,
  type Rectangle,
} from "./matrix.js";
import { readPanelMask, writePanelMask } from "./panel-mask.js";
import type { WorkQueue } from "./queue.js";
import { stagePanel } from "./selection.js";

const SOLVE_ROWS = defineKernel("solveRows");

export function rowSystemOperations(
  queue: WorkQueue,
  pool: KernelPool,
): RowSystemOperations<CpuMatrix, ResolvedView<CpuMatrix>, CpuMask> {
  return {
    solveRowSystems({ choose, ...options }) {
      const systems = {
        panel: rectangleOf(options.panel),
        matrix: rectangleOf(options.matrix),
        inverse: rectangleOf(options.inverse),
        keepMask: options.keepMask.borrow(),
        maskColumn: options.maskColumn,
        ...(choose && { choose: { ...choose, scale: rectangleOf(choose.scale) } }),
        multipliers: rectangleOf(options.multipliers),
        losses: options.losses.values,
      };
      queue.enqueue(() => solveRowSystems(pool, systems));
    },
  };
}

/** Work of one grain: some hundred microseconds. */
const MULTIPLICATIONS_PER_GRAIN = 1e5;

function solveRowSystems(pool: KernelPool, systems: RowSystemOptions<Float32Array, Rectangle, BorrowedMask>): void {
  const { panel, keepMask: mask, maskColumn, choose, multipliers } = systems;
  const columns = panel.rows; // the panel lies transposed
  const rows = panel.columns;
  const width = columns + (columns & 1);
  const largest = Math.floor(columns / 2);
  // In step with assembly/row-systems.ts: order, weights, products, then the largest system and its right-hand side.
  pool.reset(8 * (3 * width + (largest + 1) * (largest + (largest & 1))));
  const { address, paddedRows } = stagePanel(pool, panel);
  const matrix = stageDoubles(pool, systems.matrix, width);
  const inverse = stageDoubles(pool, systems.inverse, width);
  const wordCount = maskWordsPerRow(columns) * paddedRows;
  const words = pool.allocate(4 * wordCount);
  const solved = pool.allocate(4 * paddedRows * columns);
  const losses = pool.allocate(4 * paddedRows);
  const scales = pool.allocate(4 * columns);
  if (choose === undefined) readPanelMask(mask, maskColumn, columns, pool.words(words, wordCount), paddedRows);
  else pool.floats(scales, columns).set(compactValues(choose.scale));
  pool.run({
    kernel: SOLVE_ROWS,
    items: rows,
    grain: Math.max(1, Math.ceil(MULTIPLICATIONS_PER_GRAIN / (largest ** 3 / 6 + columns ** 2))),
    args: [
      address,
      paddedRows,
      width,
      columns,
      matrix,
      inverse,
      words,
      solved,
      losses,
      scales,
      choose?.keep ?? 0,
      choose?.group ?? 0,
    ],
  });
  for (let c = 0; c < columns; c++) {
    multipliers.values.set(pool.floats(solved + 4 * c * paddedRows, rows), multipliers.offset + c * multipliers.stride);
  }
  if (choose !== undefined) {
    writePanelMask(mask, maskColumn, { first: 0, end: columns }, pool.words(words, wordCount), paddedRows);
  }
  const added = pool.floats(losses, rows);
  for (let r = 0; r < rows; r++) systems.losses[r] += added[r];
}

/** [columns, columns] as f64 with rows of `width` entries, zeros beyond. */
function stageDoubles(pool: KernelPool, { values, offset, stride, rows, columns }: Rectangle, width: number): number {
  const address = pool.allocate(8 * width * rows);
  const staged = pool.doubles(address, width * rows);
  staged.fill(0);
  for (let r = 0; r < rows; r++) {
    const start = offset + r * stride;
    staged.set(values.subarray(start, start + columns), r * width);
  }
  return address;
}
