/**
 * Counts zeros and checks N:M patterns in the tensors of a checkpoint, streaming. It knows nothing of model families, the caller says which tensors count as prunable and along which axis their inputs lie.
 */
import { elementsOf } from "../array.js";
import type { Checkpoint, TensorInfo } from "../checkpoint/checkpoint.js";
import { ZeroFinder } from "../checkpoint/zeros.js";
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

const GROUPS = PATTERNS.map(({ group }) => group);

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
  const finder = new ZeroFinder(checkpoint);
  const tensors: TensorInspection[] = [];
  let zeros = 0;
  let elements = 0;
  for (const info of checkpoint.tensors.values()) {
    const target = prunable.get(info.name);
    const found = await inspectTensor(finder, info, target?.inputAxis ?? 1);
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

async function inspectTensor(
  finder: ZeroFinder,
  info: TensorInfo,
  inputAxis: 0 | 1,
): Promise<Pick<TensorInspection, "zeros" | "patterns">> {
  const isMatrix = info.shape.length === 2 || info.shape.length === 3; // experts are stacked [experts, …, …]
  const groups = isMatrix && FLOATS.has(info.dtype) ? groupChecks(info.shape.slice(-2), inputAxis, GROUPS) : [];
  const zeros = await finder.find(info, (isZero) => {
    for (const check of groups) check.add(isZero);
  });
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
export interface GroupCheck {
  readonly group: number;
  readonly fewestZeros: number;
  add(isZero: Uint8Array): void;
}

/** One check per group size that divides the inputs; stacked matrices are checked as one tall one. */
export function groupChecks(shape: readonly number[], inputAxis: 0 | 1, groups: readonly number[]): GroupCheck[] {
  const sizes = [...new Set(groups)].filter((group) => shape[inputAxis] % group === 0);
  return sizes.map((group) => (inputAxis === 1 ? new RowGroupCheck(group) : new ColumnGroupCheck(group, shape[1])));
}

/**
 * Groups along the last axis. The width is a multiple of the group, so groups are also consecutive in the flat order
 * and rows need not be looked at. Pieces are multiples of groups that are powers of two; of others one may go on in the next.
 */
class RowGroupCheck implements GroupCheck {
  readonly group: number;
  fewestZeros: number;
  /** Of a group that a piece cut off. */
  #begun: Uint8Array = new Uint8Array(0);

  constructor(group: number) {
    this.group = group;
    this.fewestZeros = group;
  }

  add(piece: Uint8Array): void {
    const { group } = this;
    const isZero = this.#begun.length === 0 ? piece : Uint8Array.from([...this.#begun, ...piece]);
    const whole = isZero.length - (isZero.length % group);
    let fewest = this.fewestZeros;
    for (let first = 0; first < whole && fewest > 0; first += group) {
      let zeros = 0;
      for (let i = first; i < first + group; i++) zeros += isZero[i];
      if (zeros < fewest) fewest = zeros;
    }
    this.fewestZeros = fewest;
    this.#begun = isZero.slice(whole);
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
