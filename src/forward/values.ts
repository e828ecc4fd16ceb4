/** Reading arrays where the forward still works on the host. */
import { isHostArray, type NdArray } from "../array.js";
import { InternalError } from "../errors.js";

/** The floats of an array on the host. */
export function valuesOf(array: NdArray): Float32Array {
  if (isHostArray(array) && array.values instanceof Float32Array) return array.values;
  throw new InternalError("E_HOME", `${array.label}: ${array.dtype} on ${array.home}; expected f32 on the host`);
}
