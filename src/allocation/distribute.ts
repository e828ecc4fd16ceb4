/**
 * Turning wishes into sparsities: whatever a rule asks of each unit, the parameter-weighted mean must equal the
 * request and every unit stays within the bounds. Pure.
 */
import { ConfigError } from "../errors.js";

/** A part of the model that shares one sparsity: a linear or a block. */
export interface Unit {
  readonly name: string;
  /** Prunable weights. */
  readonly elements: number;
}

/** Rules may ask for almost all of a layer, but a layer without weights is no layer. */
export const LARGEST_SPARSITY = 0.99;

/** What no unit may exceed or fall short of. */
export interface Bounds {
  readonly smallest: number;
  readonly largest: number;
}

const DEFAULT_BOUNDS: Bounds = { smallest: 0, largest: LARGEST_SPARSITY };

/**
 * Shift raw sparsities by one common constant until their weighted mean is the target, clamping to the bounds: units
 * that hit one stay there and the others are shifted again.
 *
 * @param raw one wished sparsity per unit, any real numbers
 * @returns sparsities within the bounds whose weighted mean is the target to rounding
 * @throws ConfigError E_ALLOCATION when the target itself is out of bounds
 */
export function distribute(
  units: readonly Unit[],
  raw: readonly number[],
  target: number,
  { smallest, largest }: Bounds = DEFAULT_BOUNDS,
): number[] {
  if (!(target >= smallest && target <= largest)) {
    throw new ConfigError(
      "E_ALLOCATION",
      `a sparsity of ${target} cannot be reached with ${smallest} to ${largest} in every layer.`,
      {
        hint: "Change the allocation's smallest or largest, or use the uniform allocation.",
        details: { target, smallest, largest },
      },
    );
  }
  const bounds: (number | undefined)[] = units.map(() => undefined);
  const total = units.reduce((sum, unit) => sum + unit.elements, 0);
  for (;;) {
    let fixedZeros = 0;
    let freeElements = 0;
    let freeWish = 0;
    units.forEach(({ elements }, i) => {
      const bound = bounds[i];
      if (bound !== undefined) fixedZeros += bound * elements;
      else {
        freeElements += elements;
        freeWish += raw[i] * elements;
      }
    });
    const shift = freeElements === 0 ? 0 : (target * total - fixedZeros - freeWish) / freeElements;
    const shifted = units.map((_, i) => bounds[i] ?? raw[i] + shift);
    // Clamp one side at a time, the one that overshoots more: clamping both could fix a unit that the next shift frees.
    const excess = overshoot(units, shifted, bounds, (value) => value - largest);
    const lack = overshoot(units, shifted, bounds, (value) => smallest - value);
    if (excess === 0 && lack === 0) return shifted;
    units.forEach((_, i) => {
      if (bounds[i] !== undefined) return;
      if (excess >= lack && shifted[i] > largest) bounds[i] = largest;
      else if (lack > excess && shifted[i] < smallest) bounds[i] = smallest;
    });
  }
}

function overshoot(
  units: readonly Unit[],
  values: readonly number[],
  bounds: readonly (number | undefined)[],
  beyond: (value: number) => number,
): number {
  // Rounding of the shift itself is no overshoot.
  return units.reduce(
    (sum, { elements }, i) => sum + (bounds[i] === undefined ? Math.max(0, beyond(values[i]) - 1e-12) * elements : 0),
    0,
  );
}

/**
 * Spread raw scores over a band of the given width: the largest score becomes `width` above the smallest.
 * Equal scores give no preference at all.
 */
export function rescale(scores: readonly number[], width: number): number[] {
  const low = scores.reduce((least, score) => Math.min(least, score), Infinity);
  const high = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  return scores.map((score) => (high === low ? 0 : ((score - low) / (high - low)) * width));
}
