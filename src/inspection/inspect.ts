/**
 * Counts zeros and checks N:M patterns in the tensors of a checkpoint, streaming: a few megabytes at a time, whatever
 * the tensor's size. It reads bits, so that -0 counts as zero and no dtype has to be converted; it knows nothing of
 * model families, the caller says which tensors count as prunable and along which axis their inputs lie.
 */
import { elementsOf } from "../array.js";
import type { Checkpoint, TensorInfo } from "../checkpoint/checkpoint.js";
import { bytesPerElement } from "../checkpoint/dtype.js";
import type { InspectionReport, TensorInspection } from "../contract.js";

/** keep:group, narrowest group first; the ones that published kernels and papers use. */
const PATTERNS: readonly { readonly keep: number; readonly group: number }[] = [
  { keep: 1, group: 2 },
  { keep: 2, group: 4 },
  { keep: 4, group: 8 },
  { keep: 8, group: 16 },
  { keep: 1, group: 4 },
  { keep: 2, group: 8 },
];

/** Bytes looked at per step; a multiple of 16 elements of every dtype, so that no group is cut along the last axis. */
const PIECE_BYTES = 1 << 20;

/**
 * Count zeros per tensor and in total.
 *
 * @param prunable tensor names that the totals count, with the axis of their matrices that inputs lie along: 1 for
 *   [out, in], 0 for [in, out]. Other matrices are looked at along axis 1.
 * @returns zeros by value: +0 and -0 of floats, 0 of integers, false of BOOL; 0 zeros for a dtype of unknown width.
 *   `patterns` lists only those that hold in every group, and only for float matrices, single or stacked, that have zeros
 */
export async function inspectCheckpoint(
  checkpoint: Checkpoint,
  prunable: ReadonlyMap<string, { readonly inputAxis: 0 | 1 }>,
): Promise<Omit<InspectionReport, "further">> {
  const buffers = createBuffers();
  const tensors: TensorInspection[] = [];
  let zeros = 0;
  let elements = 0;
  for (const info of checkpoint.tensors.values()) {
    const target = prunable.get(info.name);
    const found = await inspectTensor(checkpoint, info, target?.inputAxis ?? 1, buffers);
    const isPrunable = target !== undefined;
    tensors.push({ name: info.name, dtype: info.dtype, shape: info.shape, prunable: isPrunable, ...found });
    if (isPrunable) {
      zeros += found.zeros;
      elements += elementsOf(info.shape);
    }
  }
  const sparsity = elements === 0 ? 0 : zeros / elements;
  return { schema: "prune.inspect/v1", model: checkpoint.directory, zeros, elements, sparsity, tensors };
}

interface Buffers {
  /** Two, so that the next piece is read while one is looked at. */
  readonly pieces: readonly [Uint8Array, Uint8Array];
  /** 1 per element that is zero. */
  readonly isZero: Uint8Array;
}

function createBuffers(): Buffers {
  return { pieces: [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)], isZero: new Uint8Array(PIECE_BYTES) };
}

async function inspectTensor(
  checkpoint: Checkpoint,
  info: TensorInfo,
  inputAxis: 0 | 1,
  buffers: Buffers,
): Promise<Pick<TensorInspection, "zeros" | "patterns">> {
  const width = bytesPerElement(info.dtype);
  const marks = ZERO_TESTS.get(info.dtype);
  if (width === undefined || marks === undefined || info.byteLength === 0) return { zeros: 0, patterns: [] };
  const isMatrix = info.shape.length === 2 || info.shape.length === 3; // experts are stacked [experts, …, …]
  const groups = isMatrix && FLOATS.has(info.dtype) ? groupChecks(info.shape.slice(-2), inputAxis) : [];
  let zeros = 0;
  const read = (begin: number, buffer: Uint8Array): Promise<Uint8Array> => {
    const end = Math.min(begin + PIECE_BYTES, info.byteLength);
    return checkpoint.readBytes(info.name, begin, end, buffer.subarray(0, end - begin));
  };
  let reading = read(0, buffers.pieces[0]);
  for (let begin = 0, piece = 0; begin < info.byteLength; begin += PIECE_BYTES, piece++) {
    const bytes = await reading;
    if (begin + PIECE_BYTES < info.byteLength)
      reading = read(begin + PIECE_BYTES, buffers.pieces[piece % 2 === 0 ? 1 : 0]);
    const isZero = buffers.isZero.subarray(0, bytes.byteLength / width);
    zeros += marks(bytes, isZero);
    for (const check of groups) check.add(isZero);
  }
  const holding =
    zeros === 0
      ? []
      : PATTERNS.filter(({ keep, group }) =>
          groups.some((check) => check.group === group && check.fewestZeros >= group - keep),
        );
  return { zeros, patterns: holding.map(({ keep, group }) => `${keep}:${group}`) };
}

const FLOATS: ReadonlySet<string> = new Set([
  "F64",
  "F32",
  "F16",
  "BF16",
  "F8_E5M2",
  "F8_E4M3",
  "F8_E4M3FNUZ",
  "F8_E5M2FNUZ",
]);

/** Finds the fewest zeros of any group of consecutive inputs, fed with the elements in the order of their data. */
interface GroupCheck {
  readonly group: number;
  readonly fewestZeros: number;
  add(isZero: Uint8Array): void;
}

/** One check per group size that divides the inputs; stacked matrices are checked as one tall one. */
function groupChecks(shape: readonly number[], inputAxis: 0 | 1): GroupCheck[] {
  const sizes = [...new Set(PATTERNS.map(({ group }) => group))].filter((group) => shape[inputAxis] % group === 0);
  return sizes.map((group) => (inputAxis === 1 ? new RowGroupCheck(group) : new ColumnGroupCheck(group, shape[1])));
}

/**
 * Groups along the last axis. The width is a multiple of the group, so groups are also consecutive in the flat order
 * and rows need not be looked at; pieces are multiples of the group too.
 */
class RowGroupCheck implements GroupCheck {
  readonly group: number;
  fewestZeros: number;

  constructor(group: number) {
    this.group = group;
    this.fewestZeros = group;
  }

  add(isZero: Uint8Array): void {
    const { group } = this;
    let fewest = this.fewestZeros;
    for (let first = 0; first < isZero.length && fewest > 0; first += group) {
      let zeros = 0;
      for (let i = first; i < first + group; i++) zeros += isZero[i];
      if (zeros < fewest) fewest = zeros;
    }
    this.fewestZeros = fewest;
  }
}

/** Groups along the first axis: zeros are counted per column until `group` rows are complete. */
class ColumnGroupCheck implements GroupCheck {
  readonly group: number;
  fewestZeros: number;
  /** Zeros so far in the current group of rows, per column. */
  readonly #counts: Uint8Array;
  #row = 0;
  #column = 0;

  constructor(group: number, columns: number) {
    this.group = group;
    this.fewestZeros = group;
    this.#counts = new Uint8Array(columns);
  }

  add(isZero: Uint8Array): void {
    const counts = this.#counts;
    for (let next = 0; next < isZero.length && this.fewestZeros > 0;) {
      const run = Math.min(counts.length - this.#column, isZero.length - next);
      for (let i = 0; i < run; i++) counts[this.#column + i] += isZero[next + i];
      next += run;
      this.#column += run;
      if (this.#column === counts.length) this.#endRow();
    }
  }

  #endRow(): void {
    this.#column = 0;
    this.#row++;
    if (this.#row % this.group !== 0) return;
    for (const zeros of this.#counts) if (zeros < this.fewestZeros) this.fewestZeros = zeros;
    this.#counts.fill(0);
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
