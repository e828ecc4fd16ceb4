/**
 * Element types of the safetensors format, and the conversions between its 16-bit floats and f32.
 *
 * A 7B model passes through `widen` several times per run, so both directions are plain loops over typed-array views:
 * bits in, bits out, nothing allocated per element. Data is little-endian, as the format and every platform that Node's
 * native addons exist for. Other dtypes (F64, FP8, integers) are deliberately not converted: the program copies them as
 * bytes.
 */

type HalfDtype = "F16" | "BF16";
export type FloatDtype = "F32" | HalfDtype;

/** What rounding to a narrower type did to finite values. */
export interface NarrowReport {
  /** Finite values whose rounded magnitude is infinite. */
  readonly overflowed: number;
  /** Nonzero values that were rounded to zero. */
  readonly underflowed: number;
}

/** Whole-byte dtypes. The sub-byte ones (F4, F6_*) are missing on purpose: their size follows from byte ranges only. */
const BYTES_PER_ELEMENT: ReadonlyMap<string, number> = new Map([
  ["BOOL", 1],
  ["U8", 1],
  ["I8", 1],
  ["F8_E5M2", 1],
  ["F8_E4M3", 1],
  ["F8_E8M0", 1],
  ["F8_E4M3FNUZ", 1],
  ["F8_E5M2FNUZ", 1],
  ["I16", 2],
  ["U16", 2],
  ["F16", 2],
  ["BF16", 2],
  ["I32", 4],
  ["U32", 4],
  ["F32", 4],
  ["C64", 8],
  ["F64", 8],
  ["I64", 8],
  ["U64", 8],
]);

/** Bytes of one element, or undefined for sub-byte and unknown dtypes. */
export function bytesPerElement(dtype: string): number | undefined {
  return BYTES_PER_ELEMENT.get(dtype);
}

/** Whether the program computes with this dtype. */
export function isFloatDtype(dtype: string): dtype is FloatDtype {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

/**
 * Convert stored elements to f32, exactly; NaN payloads and the sign of zero survive.
 *
 * @param bytes little-endian elements, at any offset of their ArrayBuffer
 * @param out   as many elements as `bytes` holds
 * @throws RangeError when the lengths do not fit each other
 */
export function widen(bytes: Uint8Array, dtype: FloatDtype, out: Float32Array): void {
  checkLengths(bytes, dtype, out);
  if (dtype === "F32") {
    new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
    return;
  }
  const bits = new Int32Array(out.buffer, out.byteOffset, out.length);
  if (bytes.byteOffset % 4 === 0) widenWords(bytes, dtype, bits);
  else widenUnaligned(bytes, dtype, bits);
}

/**
 * Round f32 values to nearest, ties to even, and store them. Zeros are stored as +0 (bit pattern 0), NaN stays NaN.
 *
 * @param values borrowed, not changed
 * @param out    little-endian elements, at any offset of its ArrayBuffer
 * @returns how many finite values became infinite and how many nonzero ones became zero
 * @throws RangeError when the lengths do not fit each other
 */
export function narrow(values: Float32Array, dtype: FloatDtype, out: Uint8Array): NarrowReport {
  checkLengths(out, dtype, values);
  const width = dtype === "F32" ? 4 : 2;
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  if (out.byteOffset % width === 0) return narrowAligned(values, bits, dtype, out);
  const scratch = new Uint8Array(out.byteLength);
  const report = narrowAligned(values, bits, dtype, scratch);
  out.set(scratch);
  return report;
}

function checkLengths(bytes: Uint8Array, dtype: FloatDtype, values: Float32Array): void {
  const width = dtype === "F32" ? 4 : 2;
  if (bytes.byteLength !== values.length * width) {
    throw new RangeError(`${bytes.byteLength} bytes are not ${values.length} elements of ${dtype}.`);
  }
}

/** Elements copied at a time to get an aligned view of unaligned bytes; small enough to stay in the L1 cache. */
const ALIGNMENT_CHUNK = 4096;

function widenUnaligned(bytes: Uint8Array, dtype: HalfDtype, bits: Int32Array): void {
  const chunk = new Uint8Array(2 * ALIGNMENT_CHUNK);
  for (let first = 0; first < bits.length; first += ALIGNMENT_CHUNK) {
    const last = Math.min(first + ALIGNMENT_CHUNK, bits.length);
    const piece = chunk.subarray(0, 2 * (last - first));
    piece.set(bytes.subarray(2 * first, 2 * last));
    widenWords(piece, dtype, bits.subarray(first, last));
  }
}

function widenWords(bytes: Uint8Array, dtype: HalfDtype, bits: Int32Array): void {
  // Two elements per load: the loop's own overhead is most of the cost of a one-element body.
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bits.length >> 1);
  if (dtype === "BF16") widenBf16Pairs(words, bits);
  else widenF16Pairs(words, bits);
  if (bits.length % 2 === 1) {
    const last = bits.length - 1;
    const pattern = (bytes[2 * last] ?? 0) | ((bytes[2 * last + 1] ?? 0) << 8);
    bits[last] = dtype === "BF16" ? pattern << 16 : F16_TO_F32[pattern];
  }
}

function widenBf16Pairs(words: Int32Array, bits: Int32Array): void {
  const even = words.length - (words.length % 2);
  for (let i = 0; i < even; i += 2) {
    const low = words[i];
    const high = words[i + 1];
    bits[2 * i] = low << 16;
    bits[2 * i + 1] = low & 0xffff0000;
    bits[2 * i + 2] = high << 16;
    bits[2 * i + 3] = high & 0xffff0000;
  }
  if (even < words.length) {
    bits[2 * even] = words[even] << 16;
    bits[2 * even + 1] = words[even] & 0xffff0000;
  }
}

function widenF16Pairs(words: Int32Array, bits: Int32Array): void {
  for (let i = 0; i < words.length; i++) {
    const pair = words[i];
    bits[2 * i] = F16_TO_F32[pair & 0xffff];
    bits[2 * i + 1] = F16_TO_F32[pair >>> 16];
  }
}

/** f32 bits of every f16 bit pattern. */
const F16_TO_F32: Int32Array = buildF16Table();

function buildF16Table(): Int32Array {
  const table = new Int32Array(1 << 16);
  const bitsOf = new Int32Array(1);
  const valueOf = new Float32Array(bitsOf.buffer);
  for (let magnitude = 0; magnitude < 1 << 15; magnitude++) {
    const exponent = magnitude >>> 10;
    const mantissa = magnitude & 0x3ff;
    if (exponent === 31) {
      bitsOf[0] = 0x7f800000 | (mantissa << 13); // infinity, or NaN with its payload
    } else {
      // subnormals: mantissa * 2^-24; normals: (1024 + mantissa) * 2^(exponent - 25)
      valueOf[0] = exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25);
    }
    table[magnitude] = bitsOf[0];
    table[magnitude | 0x8000] = bitsOf[0] | 0x80000000;
  }
  return table;
}

function narrowAligned(values: Float32Array, bits: Int32Array, dtype: FloatDtype, out: Uint8Array): NarrowReport {
  switch (dtype) {
    case "F32":
      return narrowF32(bits, new Int32Array(out.buffer, out.byteOffset, bits.length));
    case "BF16":
      return narrowBf16(bits, new Uint16Array(out.buffer, out.byteOffset, bits.length));
    case "F16":
      return narrowF16(values, bits, new Uint16Array(out.buffer, out.byteOffset, bits.length));
    default:
      return dtype satisfies never;
  }
}

const F32_INFINITY = 0x7f800000;

function narrowF32(bits: Int32Array, out: Int32Array): NarrowReport {
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i];
    out[i] = word === -0x80000000 ? 0 : word; // the int32 of -0's bit pattern
  }
  return { overflowed: 0, underflowed: 0 };
}

/**
 * Round at bit 16. Adding 0x7fff plus the lowest kept bit carries into the kept bits exactly when the dropped part is
 * above half, or half with an odd kept part.
 */
function narrowBf16(bits: Int32Array, out: Uint16Array): NarrowReport {
  const SMALLEST_TO_INFINITY = 0x7f7f8000;
  const LARGEST_TO_ZERO = 0x8000; // half of the smallest subnormal, a tie with the even 0
  let overflowed = 0;
  let underflowed = 0;
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i];
    const magnitude = word & 0x7fffffff;
    if (magnitude >= SMALLEST_TO_INFINITY) {
      if (magnitude < F32_INFINITY) overflowed++;
      // The set quiet bit keeps a NaN whose payload lies in the dropped bits from turning into infinity.
      out[i] = magnitude > F32_INFINITY ? (word >>> 16) | 0x40 : ((word >>> 16) & 0x8000) | 0x7f80;
    } else if ((magnitude - 1) >>> 0 < LARGEST_TO_ZERO) {
      underflowed++;
      out[i] = 0;
    } else {
      // The last factor is all ones, or 0 for ±0: half of a pruned matrix is zero, a branch here would be mispredicted.
      out[i] = ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & (-magnitude >> 31);
    }
  }
  return { overflowed, underflowed };
}

/** As `narrowBf16` at bit 13, with the exponent's bias moved from 127 to 15 and f16's subnormals apart. */
function narrowF16(values: Float32Array, bits: Int32Array, out: Uint16Array): NarrowReport {
  const SMALLEST_NORMAL = 0x38800000; // 2^-14
  const SMALLEST_TO_INFINITY = 0x477ff000; // 65520, half way between 65504 and 2^16
  const BIAS = 112 << 23;
  // A double has 52 fraction bits, so adding and subtracting 2^52 rounds to an integer, ties to even.
  const ROUND = 2 ** 52;
  let overflowed = 0;
  let underflowed = 0;
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i];
    const magnitude = word & 0x7fffffff;
    const sign = (word >>> 16) & 0x8000;
    if ((magnitude - 1) >>> 0 < SMALLEST_NORMAL - 1) {
      const units = Math.abs(values[i]) * 2 ** 24 + ROUND - ROUND; // in steps of the smallest subnormal
      if (units === 0) underflowed++;
      out[i] = units === 0 ? 0 : sign | units;
    } else if (magnitude >= SMALLEST_TO_INFINITY) {
      if (magnitude < F32_INFINITY) overflowed++;
      out[i] = magnitude > F32_INFINITY ? sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff) : sign | 0x7c00;
    } else {
      // ±0 comes here too and is cleared by the last factor, see narrowBf16.
      out[i] = (sign | ((magnitude - BIAS + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)) & (-magnitude >> 31);
    }
  }
  return { overflowed, underflowed };
}
