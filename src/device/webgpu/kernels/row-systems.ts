/** One small system per weight row: host side of row_systems.wgsl. Rows are cut to bound scratch memory and work. */
import type { RowSystemOperations, RowSystemOptions } from "../../device.js";
import type { GpuMask, GpuMatrix, GpuView } from "../buffer.js";
import { bindMask, bindRows, bindView } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";

/** Unknowns that fit the shader's packed triangle in workgroup memory. */
const LARGEST_IN_WORKGROUP = 64;
const LARGEST_SCRATCH_BYTES = 64 * 2 ** 20;

const ROW_SYSTEMS = defineKernel({
  name: "row_systems",
  files: ["lib/linear_workgroup.wgsl", "lib/score_key.wgsl", "lib/mask_bits.wgsl", "row_systems.wgsl"],
  bindings: ["read", "read", "read", "read", "read_write", "read_write", "read_write", "read_write"],
  params: {
    rows: "u32",
    first_row: "u32",
    width: "u32",
    words: "u32",
    panel_offset: "u32",
    panel_pitch: "u32",
    matrix_offset: "u32",
    matrix_pitch: "u32",
    inverse_offset: "u32",
    inverse_pitch: "u32",
    out_offset: "u32",
    out_pitch: "u32",
    mask_column: "u32",
    group: "u32",
    prune_count: "u32",
    scale_offset: "u32",
  },
  constantSets: [{ IN_SCRATCH: 0 }, { IN_SCRATCH: 1 }],
});

export function rowSystemOperations(dispatcher: Dispatcher): RowSystemOperations<GpuMatrix, GpuView, GpuMask> {
  return { solveRowSystems: (options) => encodeRowSystems(dispatcher, options) };
}

function encodeRowSystems(dispatcher: Dispatcher, systems: RowSystemOptions<GpuMatrix, GpuView, GpuMask>): void {
  const { panel, matrix, inverse, keepMask: mask, choose, multipliers } = systems;
  const width = panel.rows;
  const rows = panel.columns;
  if (width === 0 || rows === 0) return;
  const unknowns = Math.floor(width / 2);
  const inScratch = unknowns > LARGEST_IN_WORKGROUP;
  const systemBytes = 2 * (unknowns + 1) * (unknowns + 2);
  // Operations with their loads; the copies of both matrices and, by kept columns, two products with the inverse.
  const workPerRow = 4 * (unknowns ** 3 / 6 + 2 * width ** 2);
  const rowsAtOnce = Math.max(
    1,
    Math.min(
      rows,
      Math.floor(dispatcher.workBudget / workPerRow),
      inScratch ? Math.floor(LARGEST_SCRATCH_BYTES / systemBytes) : rows,
    ),
  );
  const scratch = dispatcher.scratch("row systems", inScratch ? rowsAtOnce * systemBytes : 4);
  for (let first = 0; first < rows; first += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - first);
    dispatcher.dispatch(
      ROW_SYSTEMS,
      [
        bindView(panel),
        bindView(matrix),
        bindView(inverse),
        bindView(choose?.scale ?? matrix),
        bindMask(mask),
        bindView(multipliers),
        bindRows(systems.losses, 0, 1),
        scratch,
      ],
      {
        rows: count,
        first_row: first,
        width,
        words: mask.words,
        panel_offset: panel.firstColumn,
        panel_pitch: panel.matrix.pitch,
        matrix_offset: matrix.firstColumn,
        matrix_pitch: matrix.matrix.pitch,
        inverse_offset: inverse.firstColumn,
        inverse_pitch: inverse.matrix.pitch,
        out_offset: multipliers.firstColumn,
        out_pitch: multipliers.matrix.pitch,
        mask_column: systems.maskColumn,
        group: choose?.group ?? 0,
        prune_count: choose === undefined ? 0 : choose.group - choose.keep,
        scale_offset: choose?.scale.firstColumn ?? 0,
      },
      count,
      count * workPerRow,
      { IN_SCRATCH: inScratch ? 1 : 0 },
    );
  }
}
