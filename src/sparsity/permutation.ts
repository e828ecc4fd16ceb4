/**
 * Channel permutation for N:M (Pool and Yu 2021; Zhang et al. 2024, "Plug-and-Play"): input channels change places so
 * that the important ones do not have to share a group with each other. Which channels share a group is all that counts.
 *
 *     largest   Σ_rows Σ_groups (sum of the `keep` largest scores of the group),   score = |w_rc| · ‖x_c‖ (Wanda's)
 *
 * 1. Channel reallocation: channels sorted by their total score are dealt out to the groups, forwards and backwards in
 *    turn, so that every group gets one of each class of importance.
 * 2. Refinement, for every position in a group: take the channel at that position out of every group and hand these
 *    channels out anew, by linear sum assignment. With t_g the `keep`-th largest of what is left in group g, a channel c
 *    adds Σ_r max(0, s_rc - t_rg), which is ½ |s_c - t_g|₁ plus terms of c alone and of g alone: these are the same for
 *    every assignment, so that distances are all that has to be computed.
 *
 * The published code assigns over all groups at once, or in a fast mode over 4 to 16 parts of them. Here parts are cut,
 * and in very large layers every k-th row is looked at, so that the work stays within a bound; see `planSearch`.
 */
import { assignLargest } from "./assignment.js";

export interface ChannelPermutation {
  /** The channel that comes to each place, [columns]. */
  readonly order: Int32Array;
  /** Share of the total score that N:M retains after the permutation, and without it; 1 where the total is 0. */
  readonly retained: number;
  readonly before: number;
}

interface Groups {
  readonly keep: number;
  readonly group: number;
}

/** Steps of the innermost loops, a few nanoseconds each. */
const LARGEST_WORK = 4e9;
/** Groups among which channels are handed out at once: larger parts gain little for their time. */
const LARGEST_PART = 256;
/** Below this, looking at fewer rows costs less than cutting further. */
const SMALLEST_PART = 64;

/**
 * A permutation of input channels for an N:M pattern; deterministic, and never retains less than the order as it is,
 * which is returned where nothing better was found.
 *
 * @param weights matrices [rows, columns], row-major, that read the same input; they need not have equally many rows
 * @param norms   ‖x‖ per channel, [columns]
 * @param largestWork bound on the steps of the search
 */
export function permuteChannels(
  weights: readonly Float32Array[],
  norms: Float32Array,
  pattern: Groups,
  largestWork = LARGEST_WORK,
): ChannelPermutation {
  const columns = norms.length;
  const identity = Int32Array.from({ length: columns }, (_, channel) => channel);
  const share = (order: Int32Array, keep: number): number =>
    weights.reduce((sum, weight) => sum + retainedScore(weight, norms, order, { ...pattern, keep }), 0);
  const total = share(identity, pattern.group);
  if (total === 0) return { order: identity, retained: 1, before: 1 };
  const before = share(identity, pattern.keep) / total;
  const found = searchOrder(weights, norms, pattern, largestWork);
  const retained = share(found, pattern.keep) / total;
  return retained > before ? { order: found, retained, before } : { order: identity, retained: before, before };
}

/** Sum of the `keep` largest scores of every group of every row, columns taken in the given order. */
export function retainedScore(
  weight: Float32Array,
  norms: Float32Array,
  order: Int32Array,
  { keep, group }: Groups,
): number {
  const columns = order.length;
  const largest = new Float64Array(keep);
  let sum = 0;
  for (let row = 0; row < weight.length; row += columns) {
    for (let first = 0; first < columns; first += group) {
      largest.fill(0);
      for (let place = first; place < first + group; place++) {
        const channel = order[place];
        insert(largest, Math.abs(weight[row + channel]) * norms[channel]);
      }
      for (let i = 0; i < keep; i++) sum += largest[i];
    }
  }
  return sum;
}

/** Into a descending list of fixed length, whose last value drops out. */
function insert(largest: Float64Array, value: number): void {
  let carried = value;
  for (let i = 0; i < largest.length; i++) {
    if (carried <= largest[i]) continue;
    const dropped = largest[i];
    largest[i] = carried;
    carried = dropped;
  }
}

interface SearchPlan {
  /** Rows that are looked at. */
  readonly rows: number;
  readonly parts: number;
}

/**
 * Steps per row and channel: one for every group of a part (distances), and those of choosing the thresholds. One pass
 * over the positions, as published: four retain 0.2 % more and leave perplexity as it is.
 */
function planSearch(rows: number, columns: number, { keep, group }: Groups, largestWork: number): SearchPlan {
  const groups = columns / group;
  const thresholds = keep * group;
  const affordable = Math.floor(largestWork / (columns * rows)) - thresholds;
  const part = Math.min(groups, LARGEST_PART, Math.max(SMALLEST_PART, affordable));
  const affordableRows = Math.floor(largestWork / (columns * (part + thresholds)));
  return { rows: Math.min(rows, Math.max(1, affordableRows)), parts: Math.ceil(groups / part) };
}

function searchOrder(
  weights: readonly Float32Array[],
  norms: Float32Array,
  pattern: Groups,
  largestWork: number,
): Int32Array {
  const columns = norms.length;
  const rows = weights.reduce((sum, weight) => sum + weight.length / columns, 0);
  const plan = planSearch(rows, columns, pattern, largestWork);
  const scores = gatherScores(weights, norms, rows, plan.rows);
  const sums = Float64Array.from(norms, (_, channel) => sumOf(scores, channel * plan.rows, plan.rows));
  const order = dealOut(sums, pattern.group);
  for (let position = 0; position < pattern.group; position++) reassign(scores, order, position, plan, pattern);
  return inNaturalOrder(order, pattern.group);
}

/** [columns, taken]: the scores of `taken` evenly spaced rows, channel by channel. */
function gatherScores(
  weights: readonly Float32Array[],
  norms: Float32Array,
  rows: number,
  taken: number,
): Float32Array {
  const columns = norms.length;
  const scores = new Float32Array(columns * taken);
  let firstRow = 0;
  let row = 0;
  for (const weight of weights) {
    const end = firstRow + weight.length / columns;
    for (; row < taken; row++) {
      const source = Math.floor((row * rows) / taken);
      if (source >= end) break;
      const offset = (source - firstRow) * columns;
      for (let c = 0; c < columns; c++) scores[c * taken + row] = Math.abs(weight[offset + c]) * norms[c];
    }
    firstRow = end;
  }
  return scores;
}

function sumOf(values: Float32Array, first: number, count: number): number {
  let sum = 0;
  for (let i = first; i < first + count; i++) sum += values[i];
  return sum;
}

/** Channel reallocation; the k-th channel of every group is of the k-th class of importance. */
function dealOut(sums: Float64Array, group: number): Int32Array {
  const groups = sums.length / group;
  const byImportance = Array.from(sums, (_, channel) => channel).sort((a, b) => sums[b] - sums[a] || a - b);
  const order = new Int32Array(sums.length);
  byImportance.forEach((channel, rank) => {
    const round = Math.floor(rank / groups);
    const turn = rank % groups;
    order[(round % 2 === 0 ? turn : groups - 1 - turn) * group + round] = channel;
  });
  return order;
}

/**
 * Hand out anew the channels at one position of all groups, part by part: every k-th group is a part, or a run of groups,
 * in turn, so that channels come around.
 */
function reassign(
  scores: Float32Array,
  order: Int32Array,
  position: number,
  { rows, parts }: SearchPlan,
  pattern: Groups,
): void {
  const { group } = pattern;
  const groups = order.length / group;
  for (let part = 0; part < parts; part++) {
    const members: number[] = [];
    for (let g = 0; g < groups; g++)
      if ((position % 2 === 0 ? g % parts : Math.floor((g * parts) / groups)) === part) members.push(g * group);
    const size = members.length;
    const channels = members.map((first) => order[first + position]);
    const distances = new Float64Array(size * size);
    const threshold = new Float32Array(rows);
    members.forEach((first, i) => {
      fillThreshold(threshold, scores, order.subarray(first, first + group), position, pattern.keep);
      channels.forEach((channel, j) => (distances[i * size + j] = distance(scores, channel * rows, threshold)));
    });
    assignLargest(distances, size).forEach((j, i) => (order[members[i] + position] = channels[j]));
  }
}

/** The `keep`-th largest score of each row among a group's channels but the one at `position`. */
function fillThreshold(
  threshold: Float32Array,
  scores: Float32Array,
  channels: Int32Array,
  position: number,
  keep: number,
): void {
  const rows = threshold.length;
  const largest = new Float64Array(keep);
  for (let row = 0; row < rows; row++) {
    largest.fill(0);
    for (let k = 0; k < channels.length; k++) if (k !== position) insert(largest, scores[channels[k] * rows + row]);
    threshold[row] = largest[keep - 1];
  }
}

/** |a - b|₁ with a the scores from `first` on. Four sums, because one would wait for itself. */
function distance(scores: Float32Array, first: number, b: Float32Array): number {
  const rows = b.length;
  let [sum0, sum1, sum2, sum3] = [0, 0, 0, 0];
  let row = 0;
  for (; row + 3 < rows; row += 4) {
    sum0 += Math.abs(scores[first + row] - b[row]);
    sum1 += Math.abs(scores[first + row + 1] - b[row + 1]);
    sum2 += Math.abs(scores[first + row + 2] - b[row + 2]);
    sum3 += Math.abs(scores[first + row + 3] - b[row + 3]);
  }
  for (; row < rows; row++) sum0 += Math.abs(scores[first + row] - b[row]);
  return sum0 + sum1 + (sum2 + sum3);
}

/** Groups by their first channel, channels of a group ascending: what does not matter is left as it was. */
function inNaturalOrder(order: Int32Array, group: number): Int32Array {
  const groups = Array.from({ length: order.length / group }, (_, g) => order.slice(g * group, (g + 1) * group).sort());
  groups.sort((a, b) => a[0] - b[0]);
  const natural = new Int32Array(order.length);
  groups.forEach((channels, g) => natural.set(channels, g * group));
  return natural;
}
