/**
 * ALPS (Meng, Behdin, Wang, Mazumder 2024, arXiv:2406.07831): ADMM on the ℓ₀-constrained problem with a growing penalty
 * until the support stops moving, then conjugate gradients for the optimal weights on it. The splitting, its iteration and
 * the legend are in splitting.ts; here B is the paper's dense iterate (W there), D = M∘P and V = ρU = ρ(1-M)∘P.
 *
 *     B = (W₀·A + ρ(D - U))·K(ρ),   M keeps the largest |P| with P = B + U,   U ← (1-M)∘P
 *
 * Every third iteration ρ grows with the share of the support that moved since the last look (by 1.3, 1.2 or 1.1); K is
 * then factored anew, where the paper's code has an eigendecomposition. While the support has not moved at all in the
 * beginning, ρ was too large: it falls to a fifth. As mazumder-lab/ALPS does, the support is finally taken from B, and
 * damping (0.01 of the mean diagonal) comes before the preconditioner; the paper's text says 0.01 of the trace.
 */
import { z } from "zod";
import type { Device, KeepMask, Matrix } from "../device/device.js";
import { costOf, elementsOf, holding, inSequence, inverseOf, maskBytes, matrixBytes, repeated } from "./cost.js";
import { invert } from "./matrices.js";
import { keptCount, Selection, selectionCost } from "./selection.js";
import {
  iterate as advance,
  iterationCost,
  refine,
  refinementCost,
  scaledCost,
  scaledGram,
  scaledGramCost,
  setPenalty,
  solveScaled,
  type Scaling,
} from "./splitting.js";
import type { LayerProblem, LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** Fraction of the mean diagonal of the Gram matrix added to its diagonal, unitless. */
  damping: z.number().positive().finite().default(0.01),
  /** First penalty ρ, in units of the preconditioned diagonal (1). */
  rho: z.number().positive().finite().default(0.1),
  /** At most so many iterations of the splitting. */
  iterations: z.number().int().min(1).default(300),
  /** Conjugate gradient steps on the final support. */
  refinements: z.number().int().min(0).default(10),
});
export type AlpsOptions = z.infer<typeof schema>;

/** Iterations between two looks at the support. */
const LOOK_EVERY = 3;
const LARGEST_RHO = 1e6;
/** Iterations after which a support that moves by less than SETTLED of its size is final. */
const EARLIEST_END = 30;
const SETTLED = 3e-4;
/** Iterations until then: 30 to 39 in all linears of the demo model, at 50 % and 70 % and 2:4. What a plan counts on. */
const USUAL_ITERATIONS = 33;

export const alps = {
  name: "alps",
  summary: "choose weights under a growing penalty, then solve for their values; best and slowest",
  needs: ["gram"],
  schema,
  cost(size, { iterations, refinements }) {
    const { inFeatures: C, outFeatures: R } = size;
    const weight = matrixBytes(R, C);
    const expected = Math.min(iterations, USUAL_ITERATIONS);
    const looks = expected / LOOK_EVERY;
    const inverting = inSequence(inverseOf(size), costOf({ entries: C ** 2 }));
    const iterating = inSequence(
      repeated(1 + looks, inverting),
      repeated(expected, inSequence(iterationCost(size), selectionCost(size))),
      costOf({ entries: (5 + looks) * elementsOf(size) }),
    );
    const search = holding(matrixBytes(C, C) + weight + 2 * maskBytes(size), iterating);
    const refining = holding(maskBytes(size), refinementCost(size, refinements));
    const gram = scaledGramCost(size);
    const mirrored = costOf({ entries: C ** 2 + 2 * elementsOf(size) });
    const work = holding(gram.bytes + weight, inSequence(mirrored, search, refining));
    return holding(maskBytes(size), scaledCost(size, inSequence(gram, work)));
  },
  /**
   * `loss` is tr(D·G·Dᵀ) / sequences with D the change of the weight: the squared output error, undamped.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   * @throws ConfigError E_PATTERN_WIDTH when inFeatures is not a multiple of the pattern's group
   */
  solve(problem, options, { device }) {
    const { name, inFeatures, outFeatures } = problem;
    const scheme = { damping: { fraction: options.damping, when: "before" }, mask: "chosen" } as const;
    return solveScaled(problem, scheme, device, async ({ scaling, dense, weight, keepMask }) => {
      using gram = scaledGram(problem, scaling, 0, device);
      device.mirrorLower(gram);
      using solution = device.createMatrix(outFeatures, inFeatures, `${name}: iterate`);
      const search = { problem, options, scaling, gram, dense, state: weight, iterate: solution, keepMask };
      await findSupport(search, device);
      device.applyMask(solution, keepMask);
      refine({ problem, gram, dense, solution, residual: weight, keepMask, steps: options.refinements }, device);
      device.copy(solution, weight);
    });
  },
} satisfies LayerSolver<AlpsOptions>;

interface Search {
  readonly problem: LayerProblem;
  readonly options: AlpsOptions;
  readonly scaling: Scaling;
  /** A, both triangles. */
  readonly gram: Matrix;
  /** W₀ */
  readonly dense: Matrix;
  /** P; its content is lost. */
  readonly state: Matrix;
  /** Receives B. */
  readonly iterate: Matrix;
  /** Receives the support of B. */
  readonly keepMask: KeepMask;
}

async function findSupport(search: Search, device: Device): Promise<void> {
  const { problem, options, dense, state, iterate, keepMask } = search;
  const { name, inFeatures, outFeatures } = problem;
  using selection = new Selection(problem, device);
  using scratch = device.createMatrix(outFeatures, inFeatures, `${name}: scratch`);
  using otherMask = device.createMask(outFeatures, inFeatures, `${name}: other mask`);
  /** P = D = the dense weight's largest entries, U = 0. */
  const start = (mask: KeepMask): void => {
    selection.choose(dense, mask);
    device.copy(dense, state);
    device.applyMask(state, mask);
  };

  let mask: KeepMask = keepMask;
  let seen: KeepMask = keepMask; // the support at the last look
  start(mask);
  let { rho } = options;
  let shrink = 1;
  let started = false;
  using inverse = device.createMatrix(inFeatures, inFeatures, `${name}: inverse`);
  await invertPenalised(search, rho, inverse, device);
  for (let i = 0; i < options.iterations; i++) {
    const last = i === options.iterations - 1;
    const looks = (i + 1) % LOOK_EVERY === 0;
    const constant = looks || last ? iterate : undefined;
    advance({ dense, state, scratch, mask, inverse, rho }, device, { shrink, constant });
    shrink = 1;
    if (mask === seen) mask = mask === keepMask ? otherMask : keepMask;
    selection.choose(state, mask);
    if (!looks || last) continue;

    const moved = await device.countDifferences(mask, seen);
    seen = mask;
    const next = nextPenalty(rho, moved, moved / keptCount(problem), started);
    if (next === undefined || (i >= EARLIEST_END && moved < SETTLED * keptCount(problem))) break;
    started ||= next.rho > rho;
    if (next.restart) start(mask);
    else shrink = rho / next.rho; // V = ρU stays, so U shrinks as ρ grows
    rho = next.rho;
    await invertPenalised(search, rho, inverse, device);
  }
  device.combine({ a: state, b: iterate, out: iterate, mask, kept: [1, -1], pruned: [1, -1] });
  device.combine({ a: iterate, b: dense, out: iterate, mask, kept: [1, 1], pruned: [1, 1] });
  selection.choose(iterate, keepMask);
}

/** inverse = K(ρ) = (A + ρI)⁻¹. */
async function invertPenalised(
  { problem, scaling, gram }: Search,
  rho: number,
  inverse: Matrix,
  device: Device,
): Promise<void> {
  device.copy(gram, inverse);
  setPenalty(inverse, scaling, rho, device);
  await invert(problem, inverse, device);
}

/** The penalty after a look at the support; undefined where the support has settled. */
function nextPenalty(
  rho: number,
  moved: number,
  share: number,
  started: boolean,
): { readonly rho: number; readonly restart: boolean } | undefined {
  const grown = (factor: number) => ({ rho: Math.min(rho * factor, LARGEST_RHO), restart: false });
  if (share > 0.1) return grown(1.3);
  if (share > 0.005) return grown(1.2);
  if (moved >= 1) return started ? grown(1.1) : { rho: rho / 5, restart: true };
  return started ? undefined : { rho: rho / 5, restart: false };
}
