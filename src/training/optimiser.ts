/** One step of Adam on everything that is trained, with the settings that all trainings here have in common. */
import { NumericalError } from "../errors.js";
import type { AdamStep, Parameter, Parameters, Pull } from "./parameters.js";

/** As the papers' released code of Elsa, SAFE and block reconstruction has it. */
const ADAM = { decay: [0.9, 0.95], epsilon: 1e-8 } as const;

export interface StepSettings extends Pick<AdamStep, "rate" | "step"> {
  /** Largest norm of the gradient, over all parameters; 0 for no clipping. Absent: the norm is not even computed. */
  readonly clip?: number;
  /** What draws a parameter towards other values besides, after the clipping. */
  readonly pullOf?: (parameter: Parameter) => Pull | undefined;
}

/**
 * By the gradients in the sinks.
 * @returns the gradient's norm before clipping, and the factor that it was clipped by
 */
export async function takeStep(
  parameters: readonly Parameters[],
  { rate, step, clip, pullOf }: StepSettings,
): Promise<{ readonly gradientNorm: number; readonly gradientScale: number }> {
  for (const each of parameters) each.uploadGradients();
  let squares = 0;
  if (clip !== undefined) for (const each of parameters) squares += await each.gradientSquares();
  const gradientNorm = Math.sqrt(squares);
  const gradientScale = clipScale(gradientNorm, clip ?? 0);
  for (const each of parameters) await each.step({ ...ADAM, rate, step, gradientScale }, pullOf);
  return { gradientNorm, gradientScale };
}

/** Factor on a gradient of this norm that brings it to `largest` at most, as PyTorch's `clip_grad_norm_`; 1 where that is 0. */
export function clipScale(norm: number, largest: number): number {
  return largest === 0 ? 1 : Math.min(1, largest / (norm + 1e-6));
}

/** @throws NumericalError E_NON_FINITE */
export function expectFiniteLoss(loss: number, step: number, steps: number, hint: string): void {
  if (Number.isFinite(loss)) return;
  throw new NumericalError("E_NON_FINITE", `the loss is ${loss} at step ${step} of ${steps}.`, {
    hint,
    details: { step, loss },
  });
}
