/** How fast a step of training learns at each of its steps. */

/**
 * Up in a straight line over the first `warmup` of the steps, then down in one to 0 at the end.
 * @param step counted from 1
 * @param warmup fraction of the steps, 0 for none
 */
export function linearRate(peak: number, step: number, steps: number, warmup: number): number {
  const rising = Math.floor(warmup * steps);
  if (step <= rising) return (peak * step) / (rising + 1);
  return (peak * (steps - step + 1)) / (steps - rising);
}
