/**
 * ADMM pruning (Boža 2024, arXiv:2401.02938): alternate between the weight update that is best for the current mask and
 * the mask that is best for the current weight. One inverse of the damped Gram matrix serves all rows and iterations;
 * the iteration and its legend are in splitting.ts.
 *
 * The mask is chosen anew in the first `maskIterations` iterations from |P|: unstructured over the whole matrix, N:M per
 * group. How many weights it prunes in iteration t of them:
 *
 *     cubic      s·(1 - (1 - (t+1)/maskIterations)³): the paper's gradual schedule
 *     released   what fmfi-compbio/admm-pruning 8039208 does: the final count from the first iteration on where
 *                unstructured (it computes the schedule and does not use it), the cubic schedule for N:M
 *
 * Under a gradual N:M mask the `keep` largest of each group are safe and the others go in the order of their |P|.
 * Matches the released code's masks; that code is hard-wired to 2:4, here any N:M works.
 */
import { z } from "zod";
import type { Device, KeepMask, Matrix } from "../device/device.js";
import { pruneCount } from "../sparsity/target.js";
import {
  costOf,
  elementsOf,
  holding,
  inSequence,
  inverseOf,
  maskBytes,
  matrixBytes,
  PASSES,
  repeated,
} from "./cost.js";
import { invert } from "./matrices.js";
import { Selection, selectionCost } from "./selection.js";
import { iterate, iterationCost, scaledCost, scaledGram, scaledGramCost, solveScaled } from "./splitting.js";
import type { LayerProblem, LayerSolver } from "./solver.js";

const SCHEDULES = ["released", "cubic"] as const;

const schema = z
  .strictObject({
    /** Fraction of the mean diagonal of the preconditioned Gram matrix added to its diagonal, unitless. */
    damping: z.number().positive().finite().default(0.1),
    iterations: z.number().int().min(1).default(20),
    /** Iterations in which the mask is chosen anew; 0 chooses it once, from the dense weight. */
    maskIterations: z.number().int().min(0).default(15),
    /** Penalty ρ of the splitting, in units of the preconditioned diagonal (about 1). */
    rho: z.number().positive().finite().default(1),
    schedule: z.enum(SCHEDULES).default("released"),
  })
  .refine(({ iterations, maskIterations }) => maskIterations <= iterations, {
    message: "must not exceed iterations",
    path: ["maskIterations"],
  });
export type AdmmOptions = z.infer<typeof schema>;

export const admm = {
  name: "admm",
  summary: "choose weights and their values together by alternating directions; better and slower than sparsegpt",
  needs: ["gram"],
  schema,
  cost(size, { iterations, maskIterations }) {
    const { inFeatures: C, outFeatures: R, pattern } = size;
    const choices = Math.max(1, maskIterations);
    const gradual = pattern.kind === "n-of-m" && maskIterations > 1 ? 1 + PASSES.selection : 0; // see chooseMask
    const choosing = inSequence(selectionCost(size), costOf({ entries: gradual * elementsOf(size) }));
    const iterating = inSequence(repeated(iterations, iterationCost(size)), repeated(choices, choosing));
    const held = matrixBytes(C, C) + matrixBytes(R, C);
    const work = inSequence(scaledGramCost(size), inverseOf(size), holding(held, iterating));
    return holding(maskBytes(size), scaledCost(size, work));
  },
  /**
   * `loss` is tr(D·G·Dᵀ) / sequences with D the change of the weight: the squared output error, undamped.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   * @throws ConfigError E_PATTERN_WIDTH when inFeatures is not a multiple of the pattern's group
   */
  solve(problem, options, { device }) {
    const { name, inFeatures, outFeatures } = problem;
    const { rho, iterations, maskIterations } = options;
    const scheme = { damping: { fraction: options.damping, when: "after" }, mask: "chosen" } as const;
    return solveScaled(problem, scheme, device, async ({ scaling, dense, weight, keepMask }) => {
      using inverse = scaledGram(problem, scaling, rho, device);
      await invert(problem, inverse, device);
      using scratch = device.createMatrix(outFeatures, inFeatures, `${name}: scratch`);
      using selection = new Selection(problem, device);
      const state = { dense, state: weight, scratch, mask: keepMask, inverse, rho };
      for (let t = 0; t < iterations; t++) {
        if (t < Math.max(1, maskIterations))
          chooseMask(problem, shareOf(t, problem, options), { state: weight, scratch, selection, keepMask }, device);
        iterate(state, device);
      }
    });
  },
} satisfies LayerSolver<AdmmOptions>;

/** Share of the final number of zeros that iteration t prunes. */
function shareOf(t: number, { pattern }: LayerProblem, { schedule, maskIterations }: AdmmOptions): number {
  const gradual = schedule === "cubic" || pattern.kind === "n-of-m";
  return gradual && maskIterations > 0 ? 1 - (1 - (t + 1) / maskIterations) ** 3 : 1;
}

interface Choice {
  readonly state: Matrix;
  readonly scratch: Matrix;
  readonly selection: Selection;
  readonly keepMask: KeepMask;
}

/** Lifts the safe weights of N:M groups above all others in a selection over the whole matrix. */
const SAFE = 2 ** 60;

function chooseMask(problem: LayerProblem, share: number, choice: Choice, device: Device): void {
  const { pattern, sparsity, inFeatures, outFeatures } = problem;
  const { state, scratch, selection, keepMask } = choice;
  const elements = inFeatures * outFeatures;
  if (share < 1 && pattern.kind === "unstructured") {
    selection.chooseFewer(state, pruneCount(elements, share * sparsity), keepMask);
    return;
  }
  selection.choose(state, keepMask);
  if (share === 1 || pattern.kind === "unstructured") return;
  const count = pruneCount(elements, (share * (pattern.group - pattern.keep)) / pattern.group);
  // `scratch` keeps what the last iteration left in it: finite numbers, taken zero times.
  device.combine({ a: state, b: scratch, out: scratch, mask: keepMask, kept: [SAFE, 0], pruned: [1, 0] });
  selection.chooseFewer(scratch, count, keepMask);
}
