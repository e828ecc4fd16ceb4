/**
 * Tensors stored as MXFP4 (OCP Microscaling Formats 1.0): two four-bit floats to a byte, the low half first, and a power
 * of two for every 32 of them. A pair <name>_blocks [experts, outputs, groups, 16] and <name>_scales [experts, outputs, groups],
 * both U8, is read as one tensor <name> [experts, 32 · groups, outputs], as libraries have it. Nothing is written in this form.
 */
import type { TensorInfo } from "./checkpoint.js";

/** The dtype that such a tensor is said to have. */
export const PACKED_DTYPE = "MXFP4";

/** A tensor that two stored ones make. */
export interface PackedTensor extends TensorInfo {
  readonly blocks: string;
  readonly scales: string;
}

export const BYTES_PER_GROUP = 16;
export const VALUES_PER_GROUP = 32;

/** Values of the codes: a sign, two bits of exponent, one of fraction. */
const CODES = [1, -1].flatMap((sign) => [0, 0.5, 1, 1.5, 2, 3, 4, 6].map((value) => sign * value));

/** Of a scale's exponent. */
const BIAS = 127;

/** All pairs among the tensors of a checkpoint, by the name of what they make. */
export function findPacked(tensors: ReadonlyMap<string, TensorInfo>): Map<string, PackedTensor> {
  const found = new Map<string, PackedTensor>();
  for (const info of tensors.values()) {
    if (!info.name.endsWith("_blocks") || info.dtype !== "U8" || info.shape.at(-1) !== BYTES_PER_GROUP) continue;
    const name = info.name.slice(0, -"_blocks".length);
    const scales = tensors.get(`${name}_scales`);
    const groups = info.shape.slice(0, -1);
    const fits = scales?.dtype === "U8" && scales.shape.join() === groups.join() && groups.length === 3;
    if (!fits || tensors.has(name)) continue;
    const [experts = 0, outputs = 0, perOutput = 0] = groups;
    found.set(name, {
      ...info,
      name,
      dtype: PACKED_DTYPE,
      shape: [experts, perOutput * VALUES_PER_GROUP, outputs],
      blocks: info.name,
      scales: scales.name,
    });
  }
  return found;
}

/**
 * The values of whole groups.
 * @param blocks 16 bytes of each group
 * @param scales a byte of each; 255 is not a number
 * @param out    32 values of each
 */
export function unpack(blocks: Uint8Array, scales: Uint8Array, out: Float32Array): void {
  scales.forEach((exponent, group) => {
    const scale = exponent === 255 ? NaN : 2 ** (exponent - BIAS);
    for (let byte = 0; byte < BYTES_PER_GROUP; byte++) {
      const pair = blocks[group * BYTES_PER_GROUP + byte] as number;
      const at = 2 * (group * BYTES_PER_GROUP + byte);
      out[at] = (CODES[pair & 15] as number) * scale;
      out[at + 1] = (CODES[pair >> 4] as number) * scale;
    }
  });
}
