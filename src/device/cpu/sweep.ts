/** The OBS sweep of the CPU device: stages the panel, its inverse and its mask bits, and runs the kernel over rows. */
import { maskWordsPerRow, type ResolvedView, type SweepOperations, type SweepOptions } from "../device.js";
import { defineKernel, type KernelPool } from "./kernel-pool.js";
import { rectangleOf, type BorrowedMask, type CpuMask, type CpuMatrix, type Rectangle } from "./matrix.js";
import { readPanelMask, writePanelMask } from "./panel-mask.js";
import type { WorkQueue } from "./queue.js";
import { stagePanel } from "./selection.js";

/** In step with assembly/sweep.ts: tile, errors, lanes, scores and losses of one thread. */
const SCRATCH_BYTES = 64 * (128 + 8 + 64 + 16 + 1);

const SWEEP_TILES = defineKernel("sweepTiles");

export function sweepOperations(
  queue: WorkQueue,
  pool: KernelPool,
): SweepOperations<CpuMatrix, ResolvedView<CpuMatrix>, CpuMask> {
  return {
    sweepPanel(options) {
      const sweep = {
        ...options,
        panel: rectangleOf(options.panel),
        inverse: rectangleOf(options.inverse),
        keepMask: options.keepMask.borrow(),
        losses: options.losses.values,
      };
      queue.enqueue(() => sweepPanel(pool, sweep));
    },
  };
}

function sweepPanel(pool: KernelPool, sweep: SweepOptions<Float32Array, Rectangle, BorrowedMask>): void {
  const { panel, inverse, firstColumn, columns, keepMask: mask, maskColumn, choose } = sweep;
  const panelColumns = panel.rows;
  const rows = panel.columns;
  pool.reset(SCRATCH_BYTES);
  const { address, paddedRows } = stagePanel(pool, panel);
  const u = pool.allocate(4 * panelColumns * panelColumns);
  const staged = pool.floats(u, panelColumns * panelColumns);
  for (let c = 0; c < panelColumns; c++) {
    const start = inverse.offset + c * inverse.stride;
    staged.set(inverse.values.subarray(start, start + panelColumns), c * panelColumns);
  }
  const wordCount = maskWordsPerRow(panelColumns) * paddedRows;
  const words = pool.allocate(4 * wordCount);
  if (choose === undefined) readPanelMask(mask, maskColumn, panelColumns, pool.words(words, wordCount), paddedRows);
  const losses = pool.allocate(4 * paddedRows);
  pool.floats(losses, paddedRows).fill(0);
  pool.run({
    kernel: SWEEP_TILES,
    items: paddedRows / 16,
    grain: 1,
    args: [
      address,
      paddedRows,
      panelColumns,
      u,
      panelColumns,
      firstColumn,
      columns,
      words,
      choose?.keep ?? 0,
      choose?.group ?? 0,
      losses,
    ],
  });
  const swept = pool.floats(address, paddedRows * panelColumns);
  for (let c = firstColumn; c < panelColumns; c++) {
    panel.values.set(swept.subarray(c * paddedRows, c * paddedRows + rows), panel.offset + c * panel.stride);
  }
  if (choose !== undefined) {
    const range = { first: firstColumn, end: firstColumn + columns };
    writePanelMask(mask, maskColumn, range, pool.words(words, wordCount), paddedRows);
  }
  const added = pool.floats(losses, rows);
  for (let r = 0; r < rows; r++) sweep.losses[r] += added[r];
}
