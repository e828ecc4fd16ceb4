/**
 * FP8 with one scale per tensor (OFP8: Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433; E4M3 is the
 * variant without infinities). As Elsa-L stores z:
 *
 *     scale = max(1e-8, 1.05 · max|t| / largest),  q = round(t / (scale + 1e-12)),  t' = q · scale
 *
 * Every line is rounded to f32 as the authors' code does; q is rounded to nearest, ties to even, subnormals too, and what is
 * beyond the largest value becomes it. Zeros are code 0; non-zeros below half of the smallest subnormal become it as well,
 * in E4M3 those below 2.3e-6 of the largest.
 *
 * Bytes: the scale as little-endian f32, then one code per element.
 */
import type { StateFormat } from "./formats.js";
import { largestOf, requireLengths } from "./magnitude.js";

export interface Fp8Kind {
  readonly name: string;
  readonly fractionBits: number;
  readonly bias: number;
  /** The largest finite value. */
  readonly largest: number;
}

const SCALE_BYTES = 4;
const SMALLEST_SCALE = 1e-8;
const MARGIN = 1.05;
const DIVISOR_GUARD = 1e-12;

export function fp8Format(kind: Fp8Kind): StateFormat {
  const encode = fp8Encoder(kind);
  const decoded = fp8Values(kind);
  const format: StateFormat = {
    name: kind.name,
    bytesFor: (elements) => SCALE_BYTES + elements,
    pack(values, bytes) {
      requireLengths(format, values, bytes);
      const largest = largestOf(values);
      const scale = Math.fround(Math.max(SMALLEST_SCALE, (MARGIN * largest) / kind.largest));
      viewOf(bytes).setFloat32(0, scale, true);
      encode(values, Math.fround(scale + DIVISOR_GUARD), bytes.subarray(SCALE_BYTES));
    },
    unpack(bytes, values) {
      requireLengths(format, values, bytes);
      const scale = viewOf(bytes).getFloat32(0, true);
      const codes = bytes.subarray(SCALE_BYTES);
      const scaled = decoded.map((value) => value * scale);
      for (let i = 0; i < values.length; i++) values[i] = scaled[codes[i]];
    },
  };
  return format;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The value of each of the 256 codes. */
export function fp8Values({ fractionBits, bias, largest }: Fp8Kind): Float32Array {
  return Float32Array.from({ length: 256 }, (_, code) => {
    const exponent = (code & 0x7f) >>> fractionBits;
    const fraction = (code & ((1 << fractionBits) - 1)) / (1 << fractionBits);
    const magnitude = exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
    const sign = code < 128 ? 1 : -1;
    if (magnitude <= largest) return sign * magnitude;
    // E5M2 has an infinity at its next binary order; E4M3 gave all but one of those codes to finite values.
    return fractionBits === 2 && fraction === 0 ? sign * Infinity : NaN;
  });
}

/** Quotients at a time: a page, which stays in the first-level cache. */
const CHUNK = 1024;
const QUOTIENTS = new Float32Array(CHUNK);
const QUOTIENT_BITS = new Int32Array(QUOTIENTS.buffer);

/** Constants of an encoding, in bits of f32. */
interface Fp8Rounding {
  /** Fraction bits that are dropped. */
  readonly shift: number;
  readonly biasBits: number;
  readonly smallestNormal: number;
  readonly largest: number;
  /** Reciprocal of the smallest subnormal. */
  readonly units: number;
}

function fp8Rounding({ fractionBits, bias, largest }: Fp8Kind): Fp8Rounding {
  return {
    shift: 23 - fractionBits,
    biasBits: (127 - bias) << 23,
    smallestNormal: (128 - bias) << 23,
    largest: bitsOf(largest),
    units: 2 ** (bias - 1 + fractionBits),
  };
}

/** A function that writes the codes of values / divisor; values are finite. */
export function fp8Encoder(kind: Fp8Kind): (values: Float32Array, divisor: number, codes: Uint8Array) => void {
  const rounding = fp8Rounding(kind);
  return (values, divisor, codes) => {
    for (let first = 0; first < values.length; first += CHUNK) {
      const count = Math.min(CHUNK, values.length - first);
      for (let i = 0; i < count; i++) QUOTIENTS[i] = values[first + i] / divisor;
      encodeQuotients(rounding, codes, first, count);
    }
  };
}

/** One function with locals for all kinds: closures over constants that differ are twice as slow. */
function encodeQuotients(rounding: Fp8Rounding, codes: Uint8Array, first: number, count: number): void {
  const { shift, biasBits, smallestNormal, largest, units: unitsPerOne } = rounding;
  const roundUp = (1 << (shift - 1)) - 1;
  // A double has 52 fraction bits, so adding and subtracting 2^52 rounds to an integer, ties to even.
  const ROUND = 2 ** 52;
  for (let i = 0; i < count; i++) {
    const word = QUOTIENT_BITS[i];
    const magnitude = Math.min(word & 0x7fffffff, largest);
    const sign = (word >>> 24) & 0x80;
    if ((magnitude - 1) >>> 0 < smallestNormal - 1) {
      const units = Math.abs(QUOTIENTS[i]) * unitsPerOne + ROUND - ROUND;
      codes[first + i] = units === 0 ? 0 : sign | units;
    } else {
      // Adding half less one and the lowest kept bit carries exactly when rounding to nearest even goes up. ±0 comes here
      // too and is cleared by the last factor: most of z is zero, a branch would be mispredicted.
      const rounded = (magnitude - biasBits + roundUp + ((magnitude >>> shift) & 1)) >>> shift;
      codes[first + i] = (sign | rounded) & (-magnitude >> 31);
    }
  }
}

function bitsOf(value: number): number {
  return new Int32Array(Float32Array.of(value).buffer)[0];
}
