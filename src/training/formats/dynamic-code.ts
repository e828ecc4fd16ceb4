/**
 * Block-wise 8-bit states of Adam: 256 values share a scale, their largest magnitude, and every value is stored as the
 * nearest of 256 levels that lie closer to each other towards zero.
 *
 * The levels (Dettmers et al., "8-bit optimizers via block-wise quantization", arXiv 2110.02861, after arXiv 1511.04561; as
 * `create_dynamic_map` of bitsandbytes and torchao/optim/quant_utils.py build them): seven decades end at 1e-6, 1e-5, …, 1.
 * A decade's upper nine tenths are cut into equal parts, one in the lowest decade, twice as many in each next one, and
 * the parts' midpoints are levels, with either sign. 0 and 1 make it 256. Without signs every decade has twice as many parts.
 * -1 is no level, so a block whose largest magnitude is a negative value comes back at 0.993 of it, as theirs does.
 *
 * Two differences from torchao: levels are rounded to f32 once, from exact midpoints, so some are a unit in the last
 * place off; and a block's scale is its largest magnitude however small, where theirs is 1e-12 at least, which squares of
 * gradients of large models lie below. As there, a value halfway between two levels goes to the larger one.
 *
 * Bytes: the scales as little-endian f32, one per block, the last one ragged; then one code per element, the index of
 * its level in ascending order.
 */
import { NumericalError } from "../../errors.js";
import type { StateFormat } from "./formats.js";
import { largestMagnitude, requireLengths } from "./magnitude.js";

export interface DynamicKind {
  readonly name: string;
  readonly isSigned: boolean;
}

export const BLOCK = 256;
const DECADES = 7;

/** The levels that are not negative, ascending from 0 to 1. */
function magnitudesOf(isSigned: boolean): Float32Array {
  const levels = [0];
  for (let decade = 0; decade < DECADES; decade++) {
    const parts = (isSigned ? 1 : 2) * 2 ** decade;
    const top = 10 ** (decade - DECADES + 1);
    for (let part = 0; part < parts; part++) levels.push((0.1 + (0.9 * (part + 0.5)) / parts) * top);
  }
  return Float32Array.from([...levels, 1]);
}

/** The value of each code for a block whose scale is 1. */
export function dynamicLevels(isSigned: boolean): Float32Array {
  const magnitudes = magnitudesOf(isSigned);
  if (!isSigned) return magnitudes;
  const negative = magnitudes.subarray(1, magnitudes.length - 1).map((level) => -level);
  return Float32Array.of(...negative.reverse(), ...magnitudes);
}

export function dynamicFormat({ name, isSigned }: DynamicKind): StateFormat {
  let tables: { readonly levels: Float32Array; readonly lookup: Lookup } | undefined; // made when they are needed
  const tablesOf = (): NonNullable<typeof tables> =>
    (tables ??= { levels: dynamicLevels(isSigned), lookup: lookupOf(isSigned) });
  const blocksOf = (elements: number): number => Math.ceil(elements / BLOCK);
  const format: StateFormat = {
    name,
    bytesFor: (elements) => 4 * blocksOf(elements) + elements,
    pack(values, bytes) {
      requireLengths(format, values, bytes);
      const { lookup } = tablesOf();
      const blocks = blocksOf(values.length);
      const scales = new DataView(bytes.buffer, bytes.byteOffset, 4 * blocks);
      const codes = bytes.subarray(4 * blocks);
      const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
      for (let block = 0; block < blocks; block++) {
        const first = block * BLOCK;
        const end = Math.min(first + BLOCK, values.length);
        const scale = largestMagnitude(bits, first, end);
        scales.setFloat32(4 * block, scale, true);
        if (!isSigned) requireNoSigns(values, first, end);
        encode(lookup, values, first, end, scale, codes);
      }
    },
    unpack(bytes, values) {
      requireLengths(format, values, bytes);
      const { levels } = tablesOf();
      const blocks = blocksOf(values.length);
      const scales = new DataView(bytes.buffer, bytes.byteOffset, 4 * blocks);
      const codes = bytes.subarray(4 * blocks);
      for (let block = 0; block < blocks; block++) {
        const scale = scales.getFloat32(4 * block, true);
        const end = Math.min((block + 1) * BLOCK, values.length);
        for (let i = block * BLOCK; i < end; i++) values[i] = levels[codes[i]] * scale;
      }
    },
  };
  return format;
}

const FLOAT = new Float32Array(1);
const FLOAT_BITS = new Int32Array(FLOAT.buffer);
const QUOTIENTS = new Float32Array(BLOCK);
const QUOTIENT_BITS = new Int32Array(QUOTIENTS.buffer);
/** The leading bits of a quotient by which a first guess is looked up: its exponent and seven bits of its fraction. */
const PREFIX_SHIFT = 16;

/** How codes are found without a search. */
interface Lookup {
  /** Code of 0. */
  readonly zero: number;
  /**
   * [k]: bits of the quotient from which on level k is the nearest; [stride + k]: the same for negative quotients, where
   * halfway belongs to level k - 1.
   */
  readonly thresholds: Int32Array;
  readonly stride: number;
  /**
   * The level of the smallest quotient with these leading bits. Between two thresholds lies at least one change of the
   * leading bits, so it is that level or the next one, and one comparison tells which.
   */
  readonly guesses: Uint8Array;
}

function lookupOf(isSigned: boolean): Lookup {
  const magnitudes = magnitudesOf(isSigned);
  const count = magnitudes.length;
  const stride = count + 1;
  const thresholds = new Int32Array(2 * stride).fill(0x7fffffff);
  for (let k = 1; k < count; k++) {
    const middle = (magnitudes[k - 1] + magnitudes[k]) / 2; // exact in f64
    const bits = bitsAbove(middle);
    thresholds[k] = bits;
    thresholds[stride + k] = bits + Number(valueOf(bits) === middle);
  }
  const guesses = new Uint8Array((bitsAbove(1) >>> PREFIX_SHIFT) + 1);
  for (let prefix = 0, k = 0; prefix < guesses.length; prefix++) {
    // By the thresholds of negative quotients, which are the higher ones: a guess may be a level too low, not too high.
    while (k + 1 < count && thresholds[stride + k + 1] <= prefix << PREFIX_SHIFT) k++;
    guesses[prefix] = k;
  }
  return { zero: isSigned ? count - 2 : 0, thresholds, stride, guesses };
}

/** Writes the codes of values[first, end) / scale, in which no value's magnitude exceeds `scale`. */
function encode(
  lookup: Lookup,
  values: Float32Array,
  first: number,
  end: number,
  scale: number,
  codes: Uint8Array,
): void {
  const { zero, thresholds, stride, guesses } = lookup;
  const length = end - first;
  const divisor = scale === 0 ? 1 : scale;
  for (let i = 0; i < length; i++) QUOTIENTS[i] = values[first + i] / divisor;
  // Without branches: signs and zeros come in any order, and every second guess of a processor would be wrong.
  for (let i = 0; i < length; i++) {
    const word = QUOTIENT_BITS[i];
    const magnitude = word & 0x7fffffff;
    const isNegative = word >>> 31;
    const guess = guesses[magnitude >>> PREFIX_SHIFT];
    const threshold = thresholds[isNegative * stride + guess + 1];
    const level = guess + ((threshold - 1 - magnitude) >>> 31); // one more where magnitude >= threshold
    const least = isNegative & (level >>> 7); // -1 is no level: the one before it
    codes[first + i] = zero + ((level - least) ^ -isNegative) + isNegative; // zero ± level
  }
}

function requireNoSigns(values: Float32Array, first: number, end: number): void {
  for (let i = first; i < end; i++) if (values[i] < 0) throw negative(values[i]);
}

function negative(value: number): NumericalError {
  return new NumericalError("E_STATE_NEGATIVE", `training: ${value} in a state that is stored without signs.`, {
    hint: "This is a defect of the program: a mean of squares is not negative. Please report it.",
  });
}

/** Bits of the smallest f32 that is at least `value`, which is positive. */
function bitsAbove(value: number): number {
  FLOAT[0] = value;
  return FLOAT[0] < value ? FLOAT_BITS[0] + 1 : FLOAT_BITS[0];
}

function valueOf(bits: number): number {
  FLOAT_BITS[0] = bits;
  return FLOAT[0];
}
