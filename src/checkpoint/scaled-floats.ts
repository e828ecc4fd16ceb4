/**
 * Tensors stored as eight-bit floats (OCP 8-bit Floating Point Specification 1.0) with scales beside them: <module>.weight
 * [out, in] of F8_E4M3 or F8_E5M2, and <module>.weight_scale_inv or <module>.weight_scale, which is one number, one per row, or one
 * per block of 128 × 128, those at the edges smaller. A weight is its code times its scale. Nothing is written in this form.
 */
import { elementsOf } from "../array.js";
import { isFloatDtype } from "./dtype.js";
import type { TensorInfo } from "./checkpoint.js";

/** A weight that is read with its scales. */
export interface ScaledTensor extends TensorInfo {
  readonly scales: string;
  /** Rows and columns that share a scale. */
  readonly block: readonly [rows: number, columns: number];
}

const BLOCK = 128;

/** Values of all 256 codes: a sign, `exponentBits` of exponent, the others of fraction. */
function codesOf(
  exponentBits: number,
  special: (exponent: number, fraction: number) => number | undefined,
): Float32Array {
  const fractionBits = 7 - exponentBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  return Float32Array.from({ length: 256 }, (_, code) => {
    const [exponent, fraction] = [(code & 127) >> fractionBits, code & (2 ** fractionBits - 1)];
    const share = fraction / 2 ** fractionBits;
    const finite = exponent === 0 ? share * 2 ** (1 - bias) : (1 + share) * 2 ** (exponent - bias);
    return (special(exponent, fraction) ?? finite) * (code < 128 ? 1 : -1);
  });
}

/** By dtype. E4M3 has no infinities and one NaN of each sign, E5M2 those of IEEE 754. */
export const EIGHT_BIT_FLOATS: ReadonlyMap<string, Float32Array> = new Map([
  ["F8_E4M3", codesOf(4, (exponent, fraction) => (exponent === 15 && fraction === 7 ? NaN : undefined))],
  ["F8_E5M2", codesOf(5, (exponent, fraction) => (exponent < 31 ? undefined : fraction === 0 ? Infinity : NaN))],
]);

/** All weights with scales among the tensors of a checkpoint, by name. */
export function findScaled(tensors: ReadonlyMap<string, TensorInfo>): Map<string, ScaledTensor> {
  const found = new Map<string, ScaledTensor>();
  for (const info of tensors.values()) {
    if (!EIGHT_BIT_FLOATS.has(info.dtype) || info.shape.length !== 2 || !info.name.endsWith(".weight")) continue;
    const scales = tensors.get(`${info.name}_scale_inv`) ?? tensors.get(`${info.name}_scale`);
    const block = scales && isFloatDtype(scales.dtype) ? blockOf(info.shape, scales.shape) : undefined;
    if (scales !== undefined && block !== undefined) found.set(info.name, { ...info, scales: scales.name, block });
  }
  return found;
}

function blockOf(
  [rows = 0, columns = 0]: readonly number[],
  scales: readonly number[],
): ScaledTensor["block"] | undefined {
  const [height, width = 1] = scales;
  if (elementsOf(scales) === 1) return [rows, columns];
  if (height === rows && width === 1 && scales.length <= 2) return [1, columns];
  const isInBlocks = height === Math.ceil(rows / BLOCK) && width === Math.ceil(columns / BLOCK) && scales.length === 2;
  return isInBlocks ? [BLOCK, BLOCK] : undefined;
}

/** Stored tensors that say nothing once a weight is a plain float: its scales, and those of what its module reads. */
export function scalesBeside({ name }: ScaledTensor): readonly string[] {
  const module = name.slice(0, -".weight".length);
  return ["weight_scale_inv", "weight_scale", "input_scale", "input_scale_ub", "activation_scale"].map(
    (tensor) => `${module}.${tensor}`,
  );
}

/**
 * The values of whole rows.
 * @param bytes  codes of the rows from `firstRow` on
 * @param scales of the whole tensor, row-major
 */
export function unscale(
  { dtype, shape, block }: ScaledTensor,
  firstRow: number,
  bytes: Uint8Array,
  scales: Float32Array,
  out: Float32Array,
): void {
  const codes = EIGHT_BIT_FLOATS.get(dtype) as Float32Array;
  const [columns, [height, width]] = [shape[1] as number, block];
  const perRow = Math.ceil(columns / width);
  for (let at = 0; at < bytes.length;) {
    const row = firstRow + at / columns;
    const line = Math.floor(row / height) * perRow;
    for (let first = 0; first < columns; first += width) {
      const scale = scales[line + first / width] as number;
      const end = at + Math.min(width, columns - first);
      for (; at < end; at++) out[at] = codes[bytes[at]] * scale;
    }
  }
}
