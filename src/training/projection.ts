/**
 * Which entries of a tensor survive a projection: of every linear that it holds the best by a score, exactly as many as its
 * sparsity or pattern leaves, the lower index going first among equals. Entries that belong to no pruned linear survive.
 */
import { maskWordsPerRow, type Device, type KeepMask, type Matrix } from "../device/device.js";
import type { LinearSpec } from "../model/architecture.js";
import { isWholeTensor, putMatrix, takeMatrix } from "../model/logical-matrix.js";
import type { Pattern } from "../sparsity/pattern.js";
import { pruneCount } from "../sparsity/target.js";

export interface ProjectedLinear {
  readonly linear: LinearSpec;
  /** Fraction of its entries that go; an N:M pattern has its own. */
  readonly sparsity: number;
  /** Factor of every input's scores, [inFeatures]; absent: 1. */
  readonly scale?: Float32Array | undefined;
}

/**
 * @param scores of the whole tensor, not negative; a tensor of more than two axes has all but the last as rows
 * @param shape of the tensor
 * @returns the caller's
 */
export async function projectionMask(
  device: Device,
  scores: Matrix,
  shape: readonly number[],
  linears: readonly ProjectedLinear[],
  pattern: Pattern,
): Promise<KeepMask> {
  const { rows, columns, label } = scores;
  const [first] = linears;
  if (first !== undefined && linears.length === 1 && isWholeTensor(first.linear)) {
    const mask = device.createMask(rows, columns, `${label}: mask`);
    select(device, scores, first, pattern, mask);
    return mask;
  }
  // Parts of a tensor, or inputs along its rows: each linear by itself, its choice put back where it belongs.
  const values = await device.download({ matrix: scores });
  const kept = new Float32Array(values.length).fill(1);
  for (const projected of linears) {
    const { linear } = projected;
    const { outFeatures, inFeatures, name } = linear;
    using own = device.uploadMatrix(takeMatrix(values, shape, linear), outFeatures, inFeatures, `${name}: scores`);
    using mask = device.createMask(outFeatures, inFeatures, `${name}: mask`);
    select(device, own, projected, pattern, mask);
    putMatrix(flagsOf(await device.downloadMask(mask), outFeatures, inFeatures), kept, shape, linear);
  }
  return device.uploadMask(wordsOf(kept, rows, columns), rows, columns, `${label}: mask`);
}

function select(
  device: Device,
  scores: Matrix,
  { sparsity, scale }: Pick<ProjectedLinear, "sparsity" | "scale">,
  pattern: Pattern,
  mask: KeepMask,
): void {
  const { rows, columns, label } = scores;
  using factors = device.uploadMatrix(scale ?? new Float32Array(columns).fill(1), 1, columns, `${label}: scale`);
  if (pattern.kind === "n-of-m") device.selectGroups(scores, factors, pattern.keep, pattern.group, mask);
  else device.selectMatrix(scores, factors, pruneCount(rows * columns, sparsity), mask);
}

/** 1 where the keep bit is set, row-major. */
export function flagsOf(words: Uint32Array, rows: number, columns: number): Float32Array {
  const perRow = maskWordsPerRow(columns);
  return Float32Array.from(
    { length: rows * columns },
    (_, i) => (words[Math.floor(i / columns) * perRow + ((i % columns) >> 5)] >>> ((i % columns) & 31)) & 1,
  );
}

/** Keep bits of the entries that are not zero. */
export function wordsOf(values: Float32Array, rows: number, columns: number): Uint32Array {
  const perRow = maskWordsPerRow(columns);
  const words = new Uint32Array(rows * perRow);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) if (values[r * columns + c] !== 0) words[r * perRow + (c >> 5)] |= 1 << (c & 31);
  return words;
}

/** A copy with zeros where the keep bits are 0. */
export function keepWhere(values: Float32Array, words: Uint32Array, columns: number): Float32Array {
  const perRow = maskWordsPerRow(columns);
  const kept = new Float32Array(values.length);
  for (let r = 0, i = 0; i < values.length; r++)
    for (let c = 0; c < columns; c++, i++)
      if (((words[r * perRow + (c >> 5)] as number) >>> (c & 31)) & 1) kept[i] = values[i] as number;
  return kept;
}
