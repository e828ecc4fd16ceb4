/** Adam, with the settings that all trainings here have in common. */
import type { AdamStep, Parameters } from "./parameters.js";

/** As the papers' released code of Elsa, SAFE and block reconstruction has it. */
const ADAM = { decay: [0.9, 0.95], epsilon: 1e-8 } as const;

/** By the gradients that were uploaded. */
export function takeStep(parameters: Parameters, step: Omit<AdamStep, keyof typeof ADAM>): Promise<void> {
  return parameters.step({ ...ADAM, ...step });
}

/** Factor on a gradient of this norm that brings it to `largest` at most, as PyTorch's `clip_grad_norm_`; 1 where that is 0. */
export function clipScale(norm: number, largest: number): number {
  return largest === 0 ? 1 : Math.min(1, largest / (norm + 1e-6));
}
