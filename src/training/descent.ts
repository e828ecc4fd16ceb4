/**
 * Steps of Adam on a loss of the whole model: what training under a fixed mask and Elsa have in common. Groups of parameters
 * are taken from their store one after the other.
 */
import { NumericalError } from "../errors.js";
import { clipScale, takeStep } from "./optimiser.js";
import type { Parameters } from "./parameters.js";
import type { ParameterStore } from "./parameter-store.js";
import { linearRate } from "./schedule.js";

export interface DescentOptions {
  readonly steps: number;
  /** Peak learning rate; it falls to 0 in a straight line. */
  readonly lr: number;
  /** Fraction of the steps in which the rate rises. */
  readonly warmup: number;
  /** Largest norm of the loss's gradient; 0 for no clipping. */
  readonly clip: number;
}

export interface StepGradient {
  readonly loss: number;
  /** Σ g² over all parameters. */
  readonly squares: number;
  /** Where the loss is not finite: what was the first that is not. */
  readonly origin?: string;
}

export interface Descent {
  readonly store: ParameterStore;
  /** Steps that an earlier run took; its state is in the store. */
  readonly taken: number;
  /** Leave the gradients of a step, counted from 1, in the store. */
  gradient(step: number): Promise<StepGradient>;
  /** Called after every step. */
  onStep?(progress: StepProgress): void | Promise<void>;
}

export interface StepProgress {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  /** Where this step projected: see elsa.ts. */
  readonly projected?: ProjectionReport;
}

/** Relative to the norms of x and z; flips are entries that entered or left the support, a fraction of all. */
export interface ProjectionReport {
  readonly primal: number;
  readonly dual: number;
  readonly flips: number;
  readonly lambda: number;
  /** ‖λ (x - z)‖ over the norm of the clipped gradient: far from 1 the penalty is lost, or all there is. */
  readonly penaltyRatio: number;
}

/** What a step does beside minimising the loss. */
export interface Course {
  /** Strength of the pull towards sparse twins. */
  readonly pull?: number | undefined;
  /** Whether zeros of masks found by splitting stay. */
  readonly holds?: boolean;
  /** What happens to each group after its step: it may change values, twins and masks. */
  readonly visit?: ((group: string, parameters: Parameters) => Promise<void>) | undefined;
  /** After all groups; `gradientNorm` is the clipped one. */
  finish?(gradientNorm: number): ProjectionReport | undefined;
}

/**
 * @param courseOf of each step, counted from 1
 * @throws NumericalError E_NON_FINITE where the loss is not finite, before the values change
 */
export async function descend(
  { store, taken, gradient, onStep }: Descent,
  { steps, lr, warmup, clip }: DescentOptions,
  courseOf: (step: number) => Course = () => ({}),
): Promise<void> {
  for (let step = taken + 1; step <= steps; step++) {
    const found = await gradient(step);
    expectFinite(found, step, steps);
    const { loss, squares } = found;
    const { visit, finish, pull, holds = false } = courseOf(step);
    const gradientNorm = Math.sqrt(squares);
    const gradientScale = clipScale(gradientNorm, clip);
    const rate = linearRate(lr, step, steps, warmup);
    const isSplit = pull !== undefined || visit !== undefined;
    const access = {
      reads: ["values", "gradient", "first", "second", "mask", ...(isSplit ? (["split", "dual"] as const) : [])],
      writes: ["values", "first", "second", ...(visit ? (["split", "dual", "mask"] as const) : [])],
    } as const;
    for (const group of store.names)
      await store.use(group, access, async (parameters) => {
        await takeStep(parameters, { rate, step, gradientScale, pull, holds });
        await visit?.(group, parameters);
      });
    const projected = finish?.(gradientNorm * gradientScale);
    await onStep?.({ step, steps, loss, gradientNorm, ...(projected && { projected }) });
  }
}

function expectFinite({ loss, squares, origin }: StepGradient, step: number, steps: number): void {
  if (Number.isFinite(loss) && Number.isFinite(squares)) return;
  const what = Number.isFinite(loss) ? "the loss's gradient is not finite" : `the loss is ${loss}`;
  const where = origin === undefined ? "" : `; the first that is not finite is ${origin}`;
  throw new NumericalError("E_NON_FINITE", `${what} at step ${step} of ${steps}${where}.`, {
    hint: "Try a smaller learning rate.",
    details: { step, loss, squares, origin },
  });
}
