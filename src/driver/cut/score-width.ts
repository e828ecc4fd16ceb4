/**
 * Channels of dense MLPs to one number in all blocks. Each block is scored by the Gram matrix of what its down projection reads in
 * the model whose earlier blocks have lost theirs, and the kept columns are refitted to make up for the others: with K kept
 * and P gone, V = W_K + W_P·Cᵀ, C = (G_KK + λI)⁻¹ G_KP, the least squares towards what the whole projection returns.
 */
import { join } from "node:path";
import { collectStatistics } from "../../calibration/statistics.js";
import { isFloatDtype, narrow, widen } from "../../checkpoint/dtype.js";
import type { EngineContext } from "../../context.js";
import { throwIfStopped } from "../../context.js";
import type { Device, Matrix } from "../../device/device.js";
import { InternalError } from "../../errors.js";
import { embedTokens } from "../../forward/embedding.js";
import { Stream } from "../../forward/stream.js";
import { readBlockWeights } from "../../forward/weights.js";
import { lookUp } from "../../look-up.js";
import { tensorOf, type BlockSpec, type LinearSpec } from "../../model/architecture.js";
import { channelGroup } from "../../model/cut-tensors.js";
import { putMatrix, takeMatrix } from "../../model/logical-matrix.js";
import type { WidthCriterion } from "../../options/cut-options.js";
import { copyMatrix, invert } from "../../solvers/matrices.js";
import { createStates, type MeasuringPlace } from "../dense-reference.js";
import type { Replacements } from "./cut-model.js";

/** Of the Gram matrix's mean diagonal, added to its diagonal: as SparseGPT's. */
const DAMPING = 0.01;

export interface WidthTask {
  readonly criterion: WidthCriterion;
  /** Channels that stay of so many. */
  readonly keep: (channels: number) => number;
  readonly isRefitted: boolean;
}

export interface NarrowedBlock {
  readonly block: number;
  readonly kept: readonly number[];
  readonly of: number;
  /** Error of the outputs over their size, as roots of sums of squares. */
  readonly cutError: number;
  readonly error: number;
}

export interface NarrowedModel {
  readonly blocks: readonly NarrowedBlock[];
  readonly replacements: Replacements;
}

export async function narrowModel(
  { model, runner, memoryBytes, directory, onBatch }: MeasuringPlace,
  device: Device,
  sequences: readonly Int32Array[],
  task: WidthTask,
  context: EngineContext,
): Promise<NarrowedModel> {
  const all = model.architecture.blocks;
  const blocks: NarrowedBlock[] = [];
  const replacements = new Map<string, Uint8Array>();
  await using states = await createStates(model, sequences, memoryBytes, join(directory, "states.bin"));
  await embedTokens(model, sequences, states);
  const stream = new Stream(runner, states);
  let weights = new Map<string, Float32Array>();
  for (const block of all) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    const group = channelGroup(block);
    if (group !== undefined) {
      const collected = await collectStatistics({
        stream,
        block,
        weights,
        groups: [group],
        needs: ["gram"],
        device,
        onBatch,
      });
      using statistics = lookUp(collected, group.name);
      const { gram } = await statistics.finish();
      if (gram === undefined) throw new InternalError("E_INTERNAL", `${block.name}: no Gram matrix`);
      const [linear] = group.linears as [LinearSpec];
      const narrowed = await narrowBlock({ device, block, linear, gram, weights }, task);
      blocks.push(narrowed.report);
      const name = tensorOf(block, linear);
      const { dtype } = model.checkpoint.info(name);
      if (!isFloatDtype(dtype)) throw new InternalError("E_INTERNAL", `${name} is ${dtype}`);
      // What the next blocks see is what will be on the disk.
      const { values, bytes } = rounded(asStored(narrowed.refitted, linear), dtype);
      if (task.isRefitted) replacements.set(name, bytes);
      placeColumns(block, linear, weights, narrowed.report.kept, asStored(values, linear));
    }
    if (block.index < all.length - 1) await stream.pass(block, weights, { moves: true, onBatch });
    const done = block.index + 1;
    context.emit({ type: "windows", done, total: all.length, fraction: done / all.length });
    throwIfStopped(context, false);
  }
  return { blocks, replacements };
}

interface BlockAtHand {
  readonly device: Device;
  readonly block: BlockSpec;
  readonly linear: LinearSpec;
  /** Lower triangle. */
  readonly gram: Matrix;
  readonly weights: ReadonlyMap<string, Float32Array>;
}

/** A matrix as [rows, columns]. */
interface Plain {
  readonly values: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

async function narrowBlock(
  { device, block, linear, gram, weights }: BlockAtHand,
  { criterion, keep, isRefitted }: WidthTask,
): Promise<{ readonly report: NarrowedBlock; readonly refitted: Plain }> {
  const { shape } = lookUp(block.tensors, linear.role);
  const matrix = takeMatrix(lookUp(weights, linear.role), shape, linear).slice();
  const { inFeatures: columns, outFeatures: rows } = linear;
  using full = copyMatrix(device, gram, `${linear.name}: Gram matrix`);
  device.mirrorLower(full);
  const diagonal = await device.downloadDiagonal(full);
  const damping = (DAMPING * diagonal.reduce((sum, value) => sum + value, 0)) / columns || 1;
  const scores = await channelScores(criterion, { device, full, diagonal, damping, matrix, name: linear.name });
  const kept = largest(scores, keep(columns));
  using dense = device.uploadMatrix(matrix, rows, columns, `${linear.name}: dense`);
  using cut = device.uploadMatrix(zeroOutside(matrix, columns, kept), rows, columns, `${linear.name}: cut`);
  const size = await errorOf(device, full, dense);
  const cutError = await errorOf(device, full, dense, cut);
  const refitted = isRefitted
    ? await refit({ device, full, damping, dense, kept, name: linear.name })
    : { values: takeColumns(matrix, columns, kept), rows, columns: kept.length };
  using spread = device.uploadMatrix(spreadColumns(refitted, columns, kept), rows, columns, `${linear.name}: refitted`);
  const error = await errorOf(device, full, dense, spread);
  const relative = (square: number): number => (size === 0 ? 0 : Math.sqrt(Math.max(0, square) / size));
  const report = { block: block.index, kept, of: columns, cutError: relative(cutError), error: relative(error) };
  return { report, refitted };
}

interface Scored {
  readonly device: Device;
  /** Both triangles. */
  readonly full: Matrix;
  readonly diagonal: Float32Array;
  readonly damping: number;
  /** [rows, columns] of the down projection. */
  readonly matrix: Float32Array;
  readonly name: string;
}

/**
 * "obs": ‖w_c‖² / [G⁻¹]_cc, the error once the others are refitted; "energy": ‖w_c‖² · G_cc, the error as it is; "wanda": mean
 * |w| · √G_cc.
 */
export async function channelScores(
  criterion: WidthCriterion,
  { device, full, diagonal, damping, matrix, name }: Scored,
): Promise<Float64Array> {
  const columns = diagonal.length;
  const sums = new Float64Array(columns);
  for (let i = 0; i < matrix.length; i++) {
    const value = matrix[i] as number;
    sums[i % columns] = (sums[i % columns] as number) + (criterion === "wanda" ? Math.abs(value) : value * value);
  }
  if (criterion === "energy") return sums.map((square, c) => square * (diagonal[c] as number));
  if (criterion === "wanda") return sums.map((sum, c) => sum * Math.sqrt(diagonal[c] as number));
  using inverse = copyMatrix(device, full, `${name}: inverse`);
  device.setDiagonal(
    inverse,
    diagonal.map((value) => value + damping),
  );
  await invert({ name }, inverse, device);
  const inverted = await device.downloadDiagonal(inverse);
  // A channel that is never anything but zero is missed by nothing.
  return sums.map((square, c) => ((diagonal[c] as number) === 0 ? 0 : square / (inverted[c] as number)));
}

/** The `count` largest scores' places, ascending; of equal ones the lower. */
function largest(scores: Float64Array, count: number): number[] {
  const order = Array.from(scores.keys()).toSorted((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
  return order.slice(0, count).toSorted((a, b) => a - b);
}

/** V = W_K + W_P·Cᵀ; one step of refinement makes up for the inverse's rounding. */
export async function refit({
  device,
  full,
  damping,
  dense,
  kept,
  name,
}: {
  readonly device: Device;
  readonly full: Matrix;
  readonly damping: number;
  readonly dense: Matrix;
  readonly kept: readonly number[];
  readonly name: string;
}): Promise<Plain> {
  const isKept = new Set(kept);
  const [k, p] = [
    Uint32Array.from(kept),
    Uint32Array.from({ length: dense.columns }, (_, c) => c).filter((c) => !isKept.has(c)),
  ];
  const { rows } = dense;
  using weightK = device.createMatrix(rows, k.length, `${name}: kept columns`);
  device.gather(dense, weightK, { columns: k });
  if (p.length > 0) {
    using weightP = device.createMatrix(rows, p.length, `${name}: other columns`);
    device.gather(dense, weightP, { columns: p });
    using gramKK = device.createMatrix(k.length, k.length, `${name}: Gram of kept`);
    device.gather(full, gramKK, { rows: k, columns: k });
    const diagonal = await device.downloadDiagonal(gramKK);
    device.setDiagonal(
      gramKK,
      diagonal.map((value) => value + damping),
    );
    using gramKP = device.createMatrix(k.length, p.length, `${name}: Gram of both`);
    device.gather(full, gramKP, { rows: k, columns: p });
    using inverse = copyMatrix(device, gramKK, `${name}: inverse`);
    await invert({ name }, inverse, device);
    using coefficients = device.createMatrix(k.length, p.length, `${name}: coefficients`);
    const view = (matrix: Matrix): { readonly matrix: Matrix } => ({ matrix });
    device.matmul({ a: view(inverse), b: view(gramKP), out: view(coefficients) });
    device.matmul({ a: view(gramKK), b: view(coefficients), out: view(gramKP), alpha: -1, beta: 1 }); // the residual
    device.matmul({ a: view(inverse), b: view(gramKP), out: view(coefficients), beta: 1 });
    device.matmul({ a: view(weightP), b: view(coefficients), out: view(weightK), transposeB: true, beta: 1 });
  }
  return { values: await device.download({ matrix: weightK }), rows, columns: k.length };
}

/** tr(D·G·Dᵀ), D = a - b. */
async function errorOf(device: Device, full: Matrix, a: Matrix, b?: Matrix): Promise<number> {
  using change = copyMatrix(device, a, "width: change");
  if (b !== undefined) device.subtract({ matrix: a }, { matrix: b }, { matrix: change });
  using product = device.createMatrix(a.rows, a.columns, "width: product");
  device.matmul({ a: { matrix: change }, b: { matrix: full }, out: { matrix: product } });
  using dots = device.createMatrix(1, a.rows, "width: errors");
  device.rowDots(change, product, dots);
  return (await device.download({ matrix: dots })).reduce((sum, value) => sum + value, 0);
}

function takeColumns(matrix: Float32Array, columns: number, kept: readonly number[]): Float32Array {
  const rows = matrix.length / columns;
  return Float32Array.from({ length: rows * kept.length }, (_, i) => {
    const [row, place] = [Math.floor(i / kept.length), i % kept.length];
    return matrix[row * columns + (kept[place] as number)] as number;
  });
}

/** Kept columns in their places, zeros elsewhere. */
function spreadColumns(
  { values, rows, columns: width }: Plain,
  columns: number,
  kept: readonly number[],
): Float32Array {
  const matrix = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++)
    kept.forEach((column, place) => (matrix[row * columns + column] = values[row * width + place] as number));
  return matrix;
}

function zeroOutside(matrix: Float32Array, columns: number, kept: readonly number[]): Float32Array {
  const values = takeColumns(matrix, columns, kept);
  return spreadColumns({ values, rows: matrix.length / columns, columns: kept.length }, columns, kept);
}

/** A matrix as its tensor lies: transposed where inputs come first; and back. */
function asStored({ values, rows, columns }: Plain, { inputAxis }: LinearSpec): Plain {
  if (inputAxis === 1) return { values, rows, columns };
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      turned[column * rows + row] = values[row * columns + column] as number;
  return { values: turned, rows: columns, columns: rows };
}

function rounded(plain: Plain, dtype: "F32" | "F16" | "BF16"): { readonly values: Plain; readonly bytes: Uint8Array } {
  const bytes = new Uint8Array(plain.values.length * (dtype === "F32" ? 4 : 2));
  narrow(plain.values, dtype, bytes);
  const values = new Float32Array(plain.values.length);
  if (dtype === "F32") values.set(plain.values);
  else widen(bytes, dtype, values);
  return { values: { ...plain, values }, bytes };
}

/** The narrowed projection within the whole one: other columns become zero. */
function placeColumns(
  block: BlockSpec,
  linear: LinearSpec,
  weights: ReadonlyMap<string, Float32Array>,
  kept: readonly number[],
  narrowed: Plain,
): void {
  const { shape } = lookUp(block.tensors, linear.role);
  putMatrix(spreadColumns(narrowed, linear.inFeatures, kept), lookUp(weights, linear.role), shape, linear);
}
