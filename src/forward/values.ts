/** Reading arrays where the forward still works on the host. */
import { isHostArray, type NdArray } from "../array.js";
import { InternalError } from "../errors.js";
import type { StateSpec } from "../model/architecture.js";

/** The floats of an array on the host. */
export function valuesOf(array: NdArray): Float32Array {
  if (isHostArray(array) && array.values instanceof Float32Array) return array.values;
  throw new InternalError("E_HOME", `${array.label}: ${array.dtype} on ${array.home}; expected f32 on the host`);
}

/** Σ x² over the hidden states of some rows; what is carried beside them does not count. */
export function squaresOf(rows: Float32Array, { width, hidden }: StateSpec): number {
  let sum = 0;
  for (let i = 0; i < rows.length; i++) if (i % width < hidden) sum += rows[i] * rows[i];
  return sum;
}
