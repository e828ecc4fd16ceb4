/** Clipping a gradient by its norm, as PyTorch's `clip_grad_norm_` does it. */

/** Factor on a gradient of this norm that brings it to `largest` at most; 1 where `largest` is 0. */
export function clipScale(norm: number, largest: number): number {
  return largest === 0 ? 1 : Math.min(1, largest / (norm + 1e-6));
}
