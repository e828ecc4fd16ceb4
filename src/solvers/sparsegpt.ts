/**
 * SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): prune columns from left to right and let the columns further
 * right make up for each removed weight. The sweep's mathematics and legend are in obs.ts.
 *
 * Masks are chosen per block of `blockSize` columns over all rows from the weights as updated so far, score |w|·R_cc
 * (R_cc = 1/U_cc), with counts that add up to the exact total; N:M masks are chosen when a group's first column is
 * reached.
 *
 * Matches IST-DASLab/sparsegpt 147d215 except that its threshold prunes one weight more per block than asked; with
 * `counting: "released"` that one goes too.
 */
import { z } from "zod";
import { LARGEST_PANEL, type Device, type Matrix } from "../device/device.js";
import { COUNTINGS, pruneCountOfRange, releasedPruneCount } from "../sparsity/target.js";
import { disposeOnFailure, expectGroupsFit } from "./layer.js";
import { dropDeadInputs, factorize, prepareHessian, walkPanels, type Panel } from "./obs.js";
import type { LayerProblem, LayerSolution, LayerSolver } from "./solver.js";

const damping = z.number().positive().finite();
const schema = z.strictObject({
  /** Fraction of the mean diagonal of H added to the diagonal, unitless. */
  damping: damping.default(0.01),
  /** Columns over which an unstructured mask is chosen at once: a power of two up to the panel's 128. */
  blockSize: z
    .number()
    .int()
    .min(1)
    .max(LARGEST_PANEL)
    .refine((value) => LARGEST_PANEL % value === 0, `must divide ${LARGEST_PANEL}: 1, 2, 4, 8, 16, 32, 64 or 128`)
    .default(LARGEST_PANEL),
  /** "released" prunes the one weight more per block that the paper's code does: to reproduce published numbers. */
  counting: z.enum(COUNTINGS).default("exact"),
  /** Dampings to try in turn where `damping` leaves H not positive definite; without it that is an error. */
  dampingLadder: z.array(damping).readonly().optional(),
});
export type SparseGptOptions = z.infer<typeof schema>;

/** `damping` is the one that made H positive definite: the first of `damping`, `dampingLadder`. */
export interface SparseGptSolution extends LayerSolution {
  readonly damping: number;
}

export const sparsegpt = {
  name: "sparsegpt",
  summary: "remove weights column by column and correct the remaining ones by second-order updates",
  needs: ["gram"],
  schema,
  /**
   * `loss` is ½ tr(D·H·Dᵀ) with D the change of the weight: the paper code's per-layer error.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   * @throws ConfigError E_PATTERN_WIDTH when inFeatures is not a multiple of the pattern's group
   */
  solve(problem, options, { device }): Promise<SparseGptSolution> {
    return disposeOnFailure(problem.weight, async (owned) => {
      expectGroupsFit(problem);
      const hessian = await prepareHessian(problem, device);
      dropDeadInputs(problem, hessian, device);
      const ladder = [options.damping, ...(options.dampingLadder ?? [])];
      const { cholesky, damping } = await factorize(problem, hessian, ladder, device);
      using _factor = cholesky.factor;
      using _inverses = cholesky.panelInverses;
      using _diagonal = cholesky.diagonal;
      const keepMask = owned(device.createMask(problem.outFeatures, problem.inFeatures, `${problem.name}: keep mask`));
      const loss = await walkPanels(problem, cholesky, keepMask, device, (panel) =>
        sweepAndChoose(panel, problem, options, cholesky.diagonal, device),
      );
      return { weight: problem.weight, keepMask, loss: loss * hessian.meanDiagonal, damping };
    });
  },
} satisfies LayerSolver<SparseGptOptions>;

/** Choose masks and sweep: N:M inside the sweep, unstructured block by block. */
function sweepAndChoose(
  { sweep, start, width }: Panel,
  { outFeatures: R, pattern, sparsity }: LayerProblem,
  { blockSize, counting }: SparseGptOptions,
  diagonal: Matrix,
  device: Device,
): void {
  if (pattern.kind === "n-of-m") {
    const choose = { keep: pattern.keep, group: pattern.group };
    device.sweepPanel({ ...sweep, firstColumn: 0, columns: width, choose });
    return;
  }
  for (let first = 0; first < width; first += blockSize) {
    const columns = Math.min(blockSize, width - first);
    const column = start + first;
    device.selectPanel(
      { matrix: sweep.panel.matrix, firstRow: first, rows: columns },
      { matrix: diagonal, firstColumn: column, columns },
      counting === "exact"
        ? pruneCountOfRange(R * column, R * (column + columns), sparsity)
        : releasedPruneCount(R * columns, sparsity),
      sweep.keepMask,
      column,
    );
    device.sweepPanel({ ...sweep, firstColumn: first, columns });
  }
}
