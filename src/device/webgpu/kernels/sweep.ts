/** The OBS sweep of one panel: host side of obs_sweep.wgsl. */
import type { SweepOperations, SweepOptions } from "../../device.js";
import type { GpuMask, GpuMatrix, GpuView } from "../buffer.js";
import { bindMask, bindRows, bindView } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";

const THREADS = 64;
/** Groups that fit the 16 columns a thread holds in registers; others are chosen from memory (constant 1). */
const REGISTER_GROUPS: readonly number[] = [2, 4, 8, 16];
const MASK_GIVEN = 0;
const GENERAL_GROUP = 1;

const OBS_SWEEP = defineKernel({
  name: "obs_sweep",
  files: ["lib/linear_workgroup.wgsl", "lib/score_key.wgsl", "lib/mask_bits.wgsl", "obs_sweep.wgsl"],
  bindings: ["read", "read_write", "read_write", "read_write"],
  params: {
    rows: "u32",
    panel_columns: "u32",
    words: "u32",
    panel_offset: "u32",
    panel_pitch: "u32",
    inverse_offset: "u32",
    inverse_pitch: "u32",
    first_column: "u32",
    end_column: "u32",
    mask_column: "u32",
    segment: "u32",
    prune_count: "u32",
  },
  constantSets: [MASK_GIVEN, GENERAL_GROUP, ...REGISTER_GROUPS].map((group) => ({ GROUP: group })),
});

export function sweepOperations(dispatcher: Dispatcher): SweepOperations<GpuMatrix, GpuView, GpuMask> {
  return { sweepPanel: (options) => encodeSweep(dispatcher, options) };
}

function encodeSweep(dispatcher: Dispatcher, sweep: SweepOptions<GpuMatrix, GpuView, GpuMask>): void {
  const { panel, inverse, keepMask: mask, choose } = sweep;
  if (sweep.columns === 0) return;
  const rows = panel.columns;
  const inRegisters = choose !== undefined && REGISTER_GROUPS.includes(choose.group);
  const general = choose !== undefined && !inRegisters;
  dispatcher.dispatch(
    OBS_SWEEP,
    [bindView(inverse), bindView(panel), bindMask(mask), bindRows(sweep.losses, 0, 1)],
    {
      rows,
      panel_columns: panel.rows,
      words: mask.words,
      panel_offset: panel.firstColumn,
      panel_pitch: panel.matrix.pitch,
      inverse_offset: inverse.firstColumn,
      inverse_pitch: inverse.matrix.pitch,
      first_column: sweep.firstColumn,
      end_column: sweep.firstColumn + sweep.columns,
      mask_column: sweep.maskColumn,
      segment: general ? choose.group : Math.max(1, sweep.columns),
      prune_count: choose === undefined ? 0 : choose.group - choose.keep,
    },
    Math.ceil(rows / THREADS),
    rows * panel.rows * Math.max(64, sweep.columns) * 2,
    { GROUP: choose === undefined ? MASK_GIVEN : inRegisters ? choose.group : GENERAL_GROUP },
  );
}
