/**
 * SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): prune columns from left to right and let the columns further
 * right make up for each removed weight. The sweep's mathematics and legend are in obs.ts.
 *
 * Masks are chosen per block of `blockSize` columns over all rows from the weights as updated so far, score |w|·R_cc
 * (R_cc = 1/U_cc), with counts that add up to the exact total; N:M masks are chosen when a group's first column is
 * reached.
 *
 * With `order: "activation"` columns are visited by descending diagonal of H, as GPTQ's act-order does: the layer's columns
 * and the rows and columns of H are permuted before and the result is put back after. N:M groups stay together.
 *
 * Matches IST-DASLab/sparsegpt 147d215 except that its threshold prunes one weight more per block than asked; with
 * `counting: "released"` that one goes too.
 */
import { z } from "zod";
import { LARGEST_PANEL, maskWordsPerRow, type Device, type KeepMask, type Matrix } from "../device/device.js";
import { COUNTINGS, pruneCountOfRange, releasedPruneCount } from "../sparsity/target.js";
import type { Pattern } from "../sparsity/pattern.js";
import { costOf, elementsOf, holding, inSequence, maskBytes, matrixBytes, PASSES } from "./cost.js";
import { disposeOnFailure, permuteSymmetric } from "./matrices.js";
import {
  DAMPING,
  dropDeadInputs,
  factorCost,
  prepareHessian,
  walkCost,
  walkPanels,
  withFactor,
  type Hessian,
  type Panel,
} from "./obs.js";
import { expectGroupsFit, requireStatistic } from "./problem.js";
import type { LayerProblem, LayerSolution, LayerSolver } from "./solver.js";

const schema = z.strictObject({
  damping: DAMPING.damping,
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
  /** "activation": columns of large diagonal of H first. */
  order: z.enum(["natural", "activation"]).default("natural"),
  dampingLadder: DAMPING.dampingLadder,
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
  cost(size, { order }) {
    const { inFeatures: C, outFeatures: R, pattern } = size;
    const elements = elementsOf(size);
    const selected = costOf({ entries: pattern.kind === "n-of-m" ? 0 : PASSES.panelSelection * elements });
    const factor = factorCost(size);
    const walk = holding(factor.bytes, inSequence(walkCost(size), selected));
    const swept = holding(maskBytes(size), inSequence(factor, walk));
    if (order === "natural") return swept;
    const permuted = costOf({ entries: 3 * C ** 2 + 2 * elements, hostEntries: elements });
    const held = matrixBytes(C, C) + matrixBytes(R, C) + maskBytes(size);
    return inSequence(permuted, holding(held, swept));
  },
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
      const { name, weight, outFeatures: R, inFeatures: C } = problem;
      if (options.order === "natural") {
        const keepMask = owned(device.createMask(R, C, `${name}: keep mask`));
        const { loss, damping } = await sweepLayer(problem, hessian, keepMask, options, device);
        return { weight, keepMask, loss, damping };
      }
      const columns = activationOrder(hessian.diagonal, problem.pattern);
      const { tokenCount, sequenceCount } = problem.statistics;
      using gram = permuteSymmetric(
        device,
        requireStatistic(problem, "gram"),
        columns,
        `${name}: permuted Gram matrix`,
      );
      using permuted = device.createMatrix(R, C, `${name}: permuted weight`);
      using mask = device.createMask(R, C, `${name}: permuted mask`);
      device.gather(weight, permuted, { columns });
      const { loss, damping } = await sweepLayer(
        { ...problem, weight: permuted, statistics: { gram, tokenCount, sequenceCount } },
        { ...hessian, diagonal: Float64Array.from(columns, (column) => hessian.diagonal[column]) },
        mask,
        options,
        device,
      );
      device.gather(permuted, weight, { columns: inverseOf(columns) });
      const words = putBack(await device.downloadMask(mask), R, columns);
      return { weight, keepMask: owned(device.uploadMask(words, R, C, `${name}: keep mask`)), loss, damping };
    });
  },
} satisfies LayerSolver<SparseGptOptions>;

/** Prune `problem.weight` in the order in which its columns lie, and write the mask. */
function sweepLayer(
  problem: LayerProblem,
  hessian: Hessian,
  keepMask: KeepMask,
  options: SparseGptOptions,
  device: Device,
): Promise<{ readonly loss: number; readonly damping: number }> {
  return withFactor(problem, hessian, options, device, (cholesky) =>
    walkPanels(problem, cholesky, keepMask, device, (panel) =>
      sweepAndChoose(panel, problem, options, cholesky.diagonal, device),
    ),
  );
}

/** Columns by descending diagonal, or whole N:M groups by descending sum of theirs; equals in storage order. */
function activationOrder(diagonal: Float64Array, pattern: Pattern): Uint32Array {
  const group = pattern.kind === "n-of-m" ? pattern.group : 1;
  const sums = new Float64Array(diagonal.length / group);
  diagonal.forEach((value, column) => (sums[Math.floor(column / group)] += value));
  const groups = [...sums.keys()].sort((x, y) => sums[y] - sums[x] || x - y);
  return Uint32Array.from(groups.flatMap((g) => Array.from({ length: group }, (_, i) => g * group + i)));
}

/** Place of every column in `columns`. */
function inverseOf(columns: Uint32Array): Uint32Array {
  const places = new Uint32Array(columns.length);
  columns.forEach((column, place) => (places[column] = place));
  return places;
}

/** Mask words whose bit at `place` becomes that of column `columns[place]`. */
function putBack(words: Uint32Array, rows: number, columns: Uint32Array): Uint32Array {
  const wordsPerRow = maskWordsPerRow(columns.length);
  const natural = new Uint32Array(words.length);
  for (let start = 0; start < rows * wordsPerRow; start += wordsPerRow) {
    columns.forEach((column, place) => {
      const bit = (words[start + (place >> 5)] >>> (place & 31)) & 1;
      natural[start + (column >> 5)] |= bit << (column & 31);
    });
  }
  return natural;
}

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
