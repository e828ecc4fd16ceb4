/** What the formats of states share: the largest magnitude, which refuses what is not finite, and lengths. */
import { NumericalError } from "../../errors.js";
import type { StateFormat } from "./formats.js";

const INFINITY_BITS = 0x7f800000;

/**
 * The largest magnitude of f32 numbers, by their bits: those of non-negative floats are ordered as the floats are, and a
 * NaN is the largest of all. Over [first, end); 0 where there are none.
 *
 * @throws NumericalError where one is not finite
 */
export function largestMagnitude(bits: Int32Array, first: number, end: number): number {
  // Four maxima side by side: a single one would wait for every comparison.
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let i = first;
  for (; i + 4 <= end; i += 4) {
    a = Math.max(a, bits[i] & 0x7fffffff);
    b = Math.max(b, bits[i + 1] & 0x7fffffff);
    c = Math.max(c, bits[i + 2] & 0x7fffffff);
    d = Math.max(d, bits[i + 3] & 0x7fffffff);
  }
  for (; i < end; i++) a = Math.max(a, bits[i] & 0x7fffffff);
  const largest = Math.max(a, b, c, d);
  if (largest >= INFINITY_BITS) throw notFinite(largest > INFINITY_BITS ? "a value that is not a number" : "infinity");
  BITS[0] = largest;
  return VALUE[0];
}

const BITS = new Int32Array(1);
const VALUE = new Float32Array(BITS.buffer);

/** As `largestMagnitude` of all values. */
export function largestOf(values: Float32Array): number {
  return largestMagnitude(new Int32Array(values.buffer, values.byteOffset, values.length), 0, values.length);
}

export function notFinite(what: string): NumericalError {
  return new NumericalError("E_STATE_NOT_FINITE", `training: ${what} among the values of a state to be stored.`, {
    hint: "Training has diverged: lower the learning rate, or the penalty.",
  });
}

export function requireLengths(format: StateFormat, values: Float32Array, bytes: Uint8Array): void {
  const expected = format.bytesFor(values.length);
  if (bytes.byteLength !== expected) {
    throw new RangeError(`${bytes.byteLength} bytes are not ${values.length} elements of ${format.name}, ${expected}.`);
  }
}
