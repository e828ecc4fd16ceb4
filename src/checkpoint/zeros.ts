/**
 * Where a tensor's zeros are, streaming: a few megabytes at a time, whatever its size. It reads bits, so that -0 counts as zero
 * and no dtype has to be converted.
 */
import type { Checkpoint, TensorInfo } from "./checkpoint.js";
import { bytesPerElement } from "./dtype.js";

/** Bytes looked at per step; a multiple of 16 elements of every dtype, so that no group of N:M is cut along the last axis. */
const PIECE_BYTES = 1 << 20;

/** Memory that is used again from tensor to tensor. */
export class ZeroFinder {
  readonly #checkpoint: Checkpoint;
  /** Two, so that the next piece is read while one is looked at. */
  readonly #pieces = [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)] as const;
  readonly #isZero = new Uint8Array(PIECE_BYTES);

  constructor(checkpoint: Checkpoint) {
    this.#checkpoint = checkpoint;
  }

  /** Whether zeros of such a dtype can be told: not of those of unknown width, or without a zero. */
  static knows({ dtype }: Pick<TensorInfo, "dtype">): boolean {
    return bytesPerElement(dtype) !== undefined && ZERO_TESTS.has(dtype);
  }

  /**
   * 1 for every element that is zero, 0 for every other, in the order of the data, piece by piece.
   * @returns how many there are; 0 of a dtype that is not known
   */
  async find(info: TensorInfo, hear: (isZero: Uint8Array) => void): Promise<number> {
    const width = bytesPerElement(info.dtype);
    const marks = ZERO_TESTS.get(info.dtype);
    if (width === undefined || marks === undefined || info.byteLength === 0) return 0;
    let zeros = 0;
    const read = (begin: number, buffer: Uint8Array): Promise<Uint8Array> => {
      const end = Math.min(begin + PIECE_BYTES, info.byteLength);
      return this.#checkpoint.readBytes(info.name, begin, end, buffer.subarray(0, end - begin));
    };
    let reading = read(0, this.#pieces[0]);
    for (let begin = 0, piece = 0; begin < info.byteLength; begin += PIECE_BYTES, piece++) {
      const bytes = await reading;
      if (begin + PIECE_BYTES < info.byteLength)
        reading = read(begin + PIECE_BYTES, this.#pieces[piece % 2 === 0 ? 1 : 0]);
      const isZero = this.#isZero.subarray(0, bytes.byteLength / width);
      zeros += marks(bytes, isZero);
      hear(isZero);
    }
    return zeros;
  }
}

/** Marks the zeros of a piece and counts them. */
type ZeroTest = (bytes: Uint8Array, isZero: Uint8Array) => number;

/** Without a branch, which half a pruned matrix would mispredict: only 0 leaves the top bit of bits | -bits clear. */
function oneIfZero(bits: number): number {
  return ~(bits | (0 - bits)) >>> 31;
}

/**
 * An element is zero when none of the bits of `mask` is set; a float's mask leaves out its sign. One function per
 * width: a loop that has seen several array types runs several times slower.
 */
function byteTest(mask: number): ZeroTest {
  return (bytes, isZero) => {
    const count = isZero.length;
    let zeros = 0;
    for (let i = 0; i < count; i++) {
      const zero = oneIfZero(bytes[i] & mask);
      isZero[i] = zero;
      zeros += zero;
    }
    return zeros;
  };
}

function halfTest(mask: number): ZeroTest {
  return (bytes, isZero) => {
    const words = new Uint16Array(bytes.buffer, bytes.byteOffset, isZero.length);
    const count = isZero.length;
    let zeros = 0;
    for (let i = 0; i < count; i++) {
      const zero = oneIfZero(words[i] & mask);
      isZero[i] = zero;
      zeros += zero;
    }
    return zeros;
  };
}

function wordTest(mask: number): ZeroTest {
  return (bytes, isZero) => {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, isZero.length);
    const count = isZero.length;
    let zeros = 0;
    for (let i = 0; i < count; i++) {
      const zero = oneIfZero(words[i] & mask);
      isZero[i] = zero;
      zeros += zero;
    }
    return zeros;
  };
}

/** The same for elements of two 32-bit words. */
function pairTest(lowMask: number, highMask: number): ZeroTest {
  return (bytes, isZero) => {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, 2 * isZero.length);
    const count = isZero.length;
    let zeros = 0;
    for (let i = 0; i < count; i++) {
      const zero = oneIfZero((words[2 * i] & lowMask) | (words[2 * i + 1] & highMask));
      isZero[i] = zero;
      zeros += zero;
    }
    return zeros;
  };
}

const ALL = -1;
const ZERO_TESTS: ReadonlyMap<string, ZeroTest> = new Map([
  ["BOOL", byteTest(0xff)],
  ["U8", byteTest(0xff)],
  ["I8", byteTest(0xff)],
  ["F8_E5M2", byteTest(0x7f)],
  ["F8_E4M3", byteTest(0x7f)],
  // These two have no -0 (the pattern is their NaN); F8_E8M0 has no zero at all and is left out.
  ["F8_E5M2FNUZ", byteTest(0xff)],
  ["F8_E4M3FNUZ", byteTest(0xff)],
  ["I16", halfTest(0xffff)],
  ["U16", halfTest(0xffff)],
  ["F16", halfTest(0x7fff)],
  ["BF16", halfTest(0x7fff)],
  ["I32", wordTest(ALL)],
  ["U32", wordTest(ALL)],
  ["F32", wordTest(0x7fffffff)],
  ["I64", pairTest(ALL, ALL)],
  ["U64", pairTest(ALL, ALL)],
  ["F64", pairTest(ALL, 0x7fffffff)],
  ["C64", pairTest(0x7fffffff, 0x7fffffff)],
]);
