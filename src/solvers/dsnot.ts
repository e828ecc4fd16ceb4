/**
 * DSnoT, dynamic sparse no training (Zhang et al. 2023, arXiv:2310.08915): swap pruned and kept weights of a given mask so
 * that each output's expected error shrinks. No weight changes its value.
 *
 * Legend, per output row: c_j = w_j·m_j with m_j the sum of input j over a sequence (mean over sequences) is what weight j
 * contributes; ε = Σ of c_j over pruned j is the expected error; v_j is the variance of input j.
 *
 * Unstructured, at most `cycles` times while |ε| > `threshold`: where ε > 0 regrow the pruned weight of largest c/v^power
 * and prune the kept weight of negative c and smallest Wanda score; where ε < 0 the other way round. N:M: the weight to
 * prune is the least one of the regrown one's group, and a swap may not change the sign of ε.
 *
 * As zyxxmu/DSnoT 4c029df, but for its defects: a row stops where its lists are exhausted, and inputs of variance 0 are
 * not regrown (there it divides by 0). In that code a row's pointers go on through its lists, and out of them, for as long
 * as any row of the matrix is still at work, so that weights are regrown that were kept, kept ones are pruned in rows that
 * have stopped, and the number of zeros changes: `lists: "released"` does the same. That code leaves MLP layers alone
 * unless told otherwise; here that is the caller's choice.
 *
 * The walk runs on the host: per row it looks at a handful of extreme entries. The swapped weights take their dense
 * values, so whatever an earlier step changed is undone: follow with obs-update, admm-update or cg-update.
 */
import { z } from "zod";
import { maskWordsPerRow } from "../device/device.js";
import { formatPattern } from "../sparsity/pattern.js";
import { costOf, elementsOf, maskBytes, matrixBytes } from "./cost.js";
import { copyMatrix, disposeOnFailure } from "./matrices.js";
import { expectFit, requireMask, requireStatistic } from "./problem.js";
import type { LayerProblem, LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** Largest number of swaps per row. */
  cycles: z.number().int().min(1).default(50),
  /** A row whose |ε| is not above this stays: an output's error summed over a sequence. */
  threshold: z.number().min(0).finite().default(0.1),
  /** Exponent of the variance in the order of regrowth. */
  power: z.number().min(0).finite().default(1),
  /** Refuse swaps that change the sign of ε also where unstructured; the code's default is not to. */
  sameSign: z.boolean().default(false),
  /** "released" walks beyond the ends of the lists as that code does, changing the number of zeros; unstructured only. */
  lists: z.enum(["bounded", "released"]).default("bounded"),
});
export type DsnotOptions = z.infer<typeof schema>;

export const dsnot: LayerSolver<DsnotOptions> = {
  name: "dsnot",
  summary: "swap weights of an earlier step's mask to shrink the expected output error; no weight update",
  needs: ["column-norms", "input-moments"],
  startsFromMask: true,
  schema,
  misfit: ({ lists }, pattern) =>
    lists === "released" && pattern.kind === "n-of-m"
      ? `lists "released" would break ${formatPattern(pattern)}, because it changes the number of zeros`
      : undefined,
  cost(size, { lists }) {
    const elements = elementsOf(size);
    const perEntry = lists === "released" ? ENTRIES_OF_WALK + 2 * Math.log2(size.inFeatures) : ENTRIES_OF_WALK;
    const bytes = matrixBytes(size.outFeatures, size.inFeatures) + maskBytes(size);
    return costOf({ hostEntries: perEntry * elements, entries: 3 * elements, bytes });
  },
  solve(problem, options, { device }) {
    return disposeOnFailure(problem.weight, async (owned) => {
      const { name, inFeatures, outFeatures, pattern } = problem;
      expectFit(dsnot, options, pattern);
      const dense = problem.dense ?? problem.weight;
      const inputs = inputsOf(problem, options.power);
      const words = await device.downloadMask(requireMask(problem));
      const weights = await device.download({ matrix: dense });
      const group = pattern.kind === "n-of-m" ? pattern.group : undefined;
      const store = ({ keep }: Row, r: number): void => storeRow(keep, words, r);
      if (options.lists === "released") {
        const rows = Array.from({ length: outFeatures }, (_, r) => rowOf(weights, words, r, inputs));
        swapAsReleased(rows, options);
        rows.forEach(store);
      } else {
        for (let r = 0; r < outFeatures; r++) {
          const row = rowOf(weights, words, r, inputs);
          if (group === undefined) swapAnywhere(row, options);
          else swapInGroups(row, options, group);
          store(row, r);
        }
      }
      const weight = owned(copyMatrix(device, dense, `${name}: weight`));
      const keepMask = owned(device.uploadMask(words, outFeatures, inFeatures, `${name}: keep mask`));
      device.applyMask(weight, keepMask);
      await device.synchronize();
      problem.weight[Symbol.dispose]();
      return { weight, keepMask, loss: undefined };
    });
  },
};

/** Entries that the host goes over for each weight: what a row is known by, and the extremes of its lists. */
const ENTRIES_OF_WALK = 12;

/** What is known of the inputs, per channel. */
interface Inputs {
  /** Wanda's norms. */
  readonly norms: Float64Array;
  /** m */
  readonly sums: Float64Array;
  /** v^power; 0 where a channel must not be regrown. */
  readonly spreads: Float64Array;
}

function inputsOf(problem: LayerProblem, power: number): Inputs {
  const { sequenceCount } = problem.statistics;
  const { sums, variances } = requireStatistic(problem, "moments");
  return {
    norms: Float64Array.from(requireStatistic(problem, "squareSums"), (sum) => Math.sqrt(sum / sequenceCount)),
    sums: Float64Array.from(sums, (sum) => sum / sequenceCount),
    spreads: Float64Array.from(variances, (variance) => (variance > 0 ? variance ** power : 0)),
  };
}

interface Row {
  /** 1 = kept; updated. */
  readonly keep: Uint8Array;
  /** Wanda's score. */
  readonly scores: Float32Array;
  /** c */
  readonly contributions: Float32Array;
  /** c / v^power of pruned entries that may be regrown, else 0. */
  readonly growth: Float32Array;
  /** ε of the mask as given. */
  readonly error: number;
}

function rowOf(weights: Float32Array, words: Uint32Array, r: number, inputs: Inputs): Row {
  const columns = inputs.norms.length;
  const wordsPerRow = maskWordsPerRow(columns);
  const w = weights.subarray(r * columns, (r + 1) * columns);
  const keep = Uint8Array.from(w, (_, c) => (words[r * wordsPerRow + (c >> 5)] >>> (c & 31)) & 1);
  const contributions = w.map((value, c) => value * inputs.sums[c]);
  const mayGrow = (c: number): boolean => keep[c] === 0 && inputs.spreads[c] > 0;
  return {
    keep,
    scores: w.map((value, c) => Math.abs(value) * inputs.norms[c]),
    contributions,
    growth: contributions.map((value, c) => (mayGrow(c) ? value / inputs.spreads[c] : 0)),
    error: contributions.reduce((sum, value, c) => (keep[c] === 0 ? sum + value : sum), 0),
  };
}

function storeRow(keep: Uint8Array, words: Uint32Array, r: number): void {
  const wordsPerRow = maskWordsPerRow(keep.length);
  words.fill(0, r * wordsPerRow, (r + 1) * wordsPerRow);
  keep.forEach((bit, c) => (words[r * wordsPerRow + (c >> 5)] |= bit << (c & 31)));
}

/** Swaps over a whole row. Up to `cycles` entries of each list are ever looked at. */
function swapAnywhere({ keep, scores, contributions, growth, error }: Row, options: DsnotOptions): void {
  const { cycles, threshold, sameSign } = options;
  const given = keep.slice();
  // [where ε < 0, where ε > 0]: what is regrown and what is pruned
  const grow = [
    smallest(growth, cycles, (c) => growth[c] < 0),
    smallest(negated(growth), cycles, (c) => growth[c] > 0),
  ];
  const prune = [1, -1].map((sign) => smallest(scores, cycles, (c) => given[c] === 1 && contributions[c] * sign > 0));
  const used = [0, 0];
  let current = error;
  for (let cycle = 0; cycle < cycles; cycle++) {
    const side = current > 0 ? 1 : 0;
    const at = used[side]++;
    if (at >= grow[side].length || at >= prune[side].length) return;
    const [regrown, pruned] = [grow[side][at], prune[side][at]];
    const next = current + contributions[pruned] - contributions[regrown];
    if (!(Math.abs(current) > threshold) || (sameSign && Math.sign(next) !== Math.sign(error))) return;
    keep[pruned] = 0;
    keep[regrown] = 1;
    current = next;
  }
}

/** A row whose pointers move on, whether it is still at work or not. */
interface Walk {
  readonly row: Row;
  /** All inputs in the order of regrowth. */
  readonly grow: Uint32Array;
  /** Kept inputs: those of negative c, and from the end those of positive c, each least score first. */
  readonly prune: Uint32Array;
  /** Next places in `grow` and `prune`, from the front and from the end. */
  readonly growAt: [number, number];
  readonly pruneAt: [number, number];
  error: number;
  isActive: boolean;
}

/** What the released code does, rows in step: see `lists`. */
function swapAsReleased(rows: readonly Row[], { cycles, threshold, sameSign }: DsnotOptions): void {
  const walks = rows.map(walkOf);
  for (let cycle = 0; cycle < cycles && walks.some(({ isActive }) => isActive); cycle++) {
    for (const walk of walks) {
      const { row, grow, prune, growAt, pruneAt, error } = walk;
      const growPlace = error > 0 ? growAt[1]-- : growAt[0]++;
      const prunePlace = error < 0 ? pruneAt[1]-- : pruneAt[0]++;
      if (!(growPlace in grow && prunePlace in prune)) continue; // more cycles than the row has weights: that code fails here
      const [regrown, pruned] = [grow[growPlace], prune[prunePlace]];
      const { contributions, keep } = row;
      const next = error + contributions[pruned] - contributions[regrown];
      const keepsSign = !sameSign || Math.sign(next) === Math.sign(row.error);
      walk.isActive &&= Math.abs(error) > threshold && keepsSign;
      keep[pruned] = walk.isActive ? 0 : 1;
      keep[regrown] = walk.isActive ? 1 : 0;
      if (walk.isActive) walk.error = next;
    }
  }
}

function walkOf(row: Row): Walk {
  const { keep, scores, contributions, growth, error } = row;
  const ascending = (keys: Float32Array) => (a: number, b: number) => keys[a] - keys[b] || a - b;
  const kept = Uint32Array.from(keep.keys())
    .filter((c) => keep[c] === 1)
    .sort(ascending(scores));
  const prune = new Uint32Array(kept.length).fill(kept[0]);
  prune.set(kept.filter((c) => contributions[c] < 0));
  const positive = kept.filter((c) => contributions[c] > 0).reverse();
  prune.set(positive, kept.length - positive.length);
  return {
    row,
    grow: Uint32Array.from(growth.keys()).sort(ascending(growth)),
    prune,
    growAt: [0, growth.length - 1],
    pruneAt: [0, kept.length - 1],
    error,
    isActive: true,
  };
}

/** Swaps inside the groups of an N:M pattern. */
function swapInGroups({ keep, scores, contributions, growth, error }: Row, options: DsnotOptions, group: number): void {
  const { cycles, threshold } = options;
  const candidates = keep.slice(); // 1: kept from the start and not yet taken
  const grow = [
    smallest(growth, cycles, (c) => growth[c] < 0),
    smallest(negated(growth), cycles, (c) => growth[c] > 0),
  ];
  const used = [0, 0];
  let current = error;
  for (let cycle = 0; cycle < cycles; cycle++) {
    const side = current > 0 ? 1 : 0;
    const regrown = grow[side].at(used[side]++);
    if (regrown === undefined) return;
    const first = regrown - (regrown % group);
    const [pruned] = smallest(scores, 1, (c) => candidates[c] === 1, first, first + group);
    if (pruned === undefined) continue; // all of this group were taken already
    candidates[pruned] = 0;
    const next = current + contributions[pruned] - contributions[regrown];
    if (!(Math.abs(current) > threshold) || Math.sign(next) !== Math.sign(error)) return;
    keep[pruned] = 0;
    keep[regrown] = 1;
    current = next;
  }
}

const negated = (values: Float32Array): Float32Array => values.map((value) => -value);

/** Indices in [first, end) of the `count` smallest keys among those that `isMember`, ascending; ties: lower index first. */
function smallest(
  keys: Float32Array,
  count: number,
  isMember: (index: number) => boolean,
  first = 0,
  end = keys.length,
): number[] {
  const found: number[] = [];
  for (let i = first; i < end; i++) {
    if ((found.length === count && keys[i] >= keys[found[count - 1]]) || !isMember(i)) continue;
    let at = Math.min(found.length, count - 1);
    for (; at > 0 && keys[found[at - 1]] > keys[i]; at--) found[at] = found[at - 1];
    found[at] = i;
  }
  return found;
}
