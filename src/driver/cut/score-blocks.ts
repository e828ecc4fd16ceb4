/**
 * Which blocks a model can do without. Greedy criteria switch every block that may go off in turn and let the one go whose loss
 * is felt least, until enough are gone; all candidates of a round pass the model together: a candidate's path leaves the
 * model's own at its block, so the weights are read once in a round. The others look at one pass of the dense model.
 */
import { join } from "node:path";
import type { EngineContext } from "../../context.js";
import { measureDivergence, type ForwardedModel } from "../../evaluation/divergence.js";
import { embedTokens } from "../../forward/embedding.js";
import { applyFinalNorm, nextTokenStatistics } from "../../forward/head.js";
import type { HiddenStates } from "../../forward/hidden-states.js";
import { Stream } from "../../forward/stream.js";
import { valuesOf } from "../../forward/values.js";
import { readBlockWeights } from "../../forward/weights.js";
import type { BlockSpec } from "../../model/architecture.js";
import type { Model } from "../../model/open-model.js";
import type { BlockCriterion } from "../../options/cut-options.js";
import {
  createStates,
  evaluateDense,
  repeatReference,
  type DenseReference,
  type MeasuringPlace,
} from "../dense-reference.js";

export interface BlockScores {
  /** Ascending. */
  readonly dropped: readonly number[];
  /** Of greedy criteria by round, else one: block and score, smaller is less missed; windows by their first block. */
  readonly rounds: readonly (readonly { readonly block: number; readonly score: number }[])[];
}

interface BlockTask {
  readonly place: MeasuringPlace;
  readonly sequences: readonly Int32Array[];
  readonly criterion: BlockCriterion;
  /** How many go. */
  readonly count: number;
  /** Whether the config can say the model without these. */
  readonly canDrop: (blocks: readonly number[]) => boolean;
  readonly context: EngineContext;
}

export async function scoreBlocks(task: BlockTask): Promise<BlockScores> {
  const { criterion, count, place } = task;
  const last = place.model.architecture.blocks.length - 1;
  if (criterion === "tail") return { dropped: Array.from({ length: count }, (_, i) => last - count + i), rounds: [] };
  if (criterion === "kl" || criterion === "perplexity") return dropGreedily(task);
  const { influences, windows } = await onePass(task);
  if (criterion === "angular") {
    const scores = windows.map((score, block) => ({ block, score })).slice(1, last - count + 1);
    const best = scores.reduce((least, one) => (one.score < least.score ? one : least));
    return { dropped: Array.from({ length: count }, (_, i) => best.block + i), rounds: [scores] };
  }
  const scores = influences.map((score, block) => ({ block, score })).slice(1, last);
  const ranked = scores.toSorted((a, b) => a.score - b.score);
  return {
    dropped: ranked
      .slice(0, count)
      .map(({ block }) => block)
      .toSorted((a, b) => a - b),
    rounds: [scores],
  };
}

async function dropGreedily(task: BlockTask): Promise<BlockScores> {
  const { place, sequences, count, canDrop, context } = task;
  const { blocks } = place.model.architecture;
  await using reference = await evaluateDense(place, sequences);
  const dropped: number[] = [];
  const rounds: { block: number; score: number }[][] = [];
  while (dropped.length < count) {
    const open = blocks.slice(1, -1).flatMap(({ index }) => (dropped.includes(index) ? [] : [index]));
    // A pair may be what can be said of a family of which a single block cannot.
    const candidates = firstNonEmpty(
      () => open.map((block) => [block]).filter((more) => canDrop([...dropped, ...more])),
      () => pairs(open, count - dropped.length).filter((more) => canDrop([...dropped, ...more])),
    );
    if (candidates.length === 0) break;
    const scores = await measureWithout(task, reference, dropped, candidates);
    const best = scores.indexOf(Math.min(...scores));
    rounds.push(candidates.map((more, i) => ({ block: more[0] as number, score: scores[i] as number })));
    dropped.push(...(candidates[best] ?? []));
    context.logger.debug("round of blocks", { dropped: candidates[best], score: scores[best] });
  }
  return { dropped: dropped.toSorted((a, b) => a - b), rounds };
}

function firstNonEmpty(...attempts: readonly (() => number[][])[]): number[][] {
  for (const attempt of attempts) {
    const found = attempt();
    if (found.length > 0) return found;
  }
  return [];
}

function pairs(open: readonly number[], most: number): number[][] {
  if (most < 2) return [];
  return open.flatMap((block) => (open.includes(block + 1) ? [[block, block + 1]] : []));
}

/** The score of the model without each candidate's blocks and those that are gone already. */
async function measureWithout(
  { place, sequences, criterion, count, context }: BlockTask,
  reference: DenseReference,
  dropped: readonly number[],
  candidates: readonly (readonly number[])[],
): Promise<number[]> {
  const { model, runner, memoryBytes, directory, onBatch } = place;
  const n = sequences.length;
  const slots = Array<readonly Int32Array[]>(candidates.length + 1)
    .fill(sequences)
    .flat();
  await using states = await createStates(model, slots, memoryBytes, join(directory, "candidates.bin"));
  await reference.embedded.copyTo(states);
  const stream = new Stream(runner, states);
  let weights = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    if (dropped.includes(block.index)) continue;
    // Paths part here: candidates are in the order of their first block.
    for (const [at, [first]] of candidates.entries())
      if (first === block.index)
        await states.copyTo(
          states,
          Array.from({ length: n }, (_, i) => i),
          (at + 1) * n,
        );
    const running = [
      ...(candidates.some(([first]) => (first as number) > block.index) ? [0] : []),
      ...candidates.flatMap((blocks, at) =>
        (blocks[0] as number) <= block.index && !blocks.includes(block.index) ? [at + 1] : [],
      ),
    ];
    if (running.length === 0) continue;
    weights = await readBlockWeights(model.checkpoint, block, weights);
    for (const slot of running)
      await stream.pass(block, weights, { moves: true, range: { first: slot * n, end: (slot + 1) * n }, onBatch });
    tellBlock(context, block, model, (share) => (dropped.length + share) / count);
  }
  await applyFinalNorm(model, states);
  if (criterion === "perplexity") {
    const { losses } = await nextTokenStatistics(model, states, slots);
    return candidates.map((_, at) => meanOf(losses.slice((at + 1) * n, (at + 2) * n).flatMap((window) => [...window])));
  }
  const all = Array.from({ length: n }, (_, i) => i);
  const { klDivergences } = await measureDivergence(repeatReference(reference, all, candidates.length), {
    model,
    states: behind(states, n),
  });
  return candidates.map((_, at) => meanOf([...klDivergences.subarray(at * n, (at + 1) * n)]));
}

/** @param fractionOf of all that is done, where the pass is one of several */
function tellBlock(
  context: EngineContext,
  { index }: BlockSpec,
  { architecture }: Model,
  fractionOf = (share: number): number => share,
): void {
  const [done, total] = [index + 1, architecture.blocks.length];
  context.emit({ type: "windows", done, total, fraction: fractionOf(done / total) });
}

/** All states but the first ones. */
function behind(states: HiddenStates, first: number): ForwardedModel["states"] {
  return {
    sequences: states.sequences - first,
    tokens: states.tokens,
    read: (from, count) => states.read(first + from, count),
  };
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * Block Influence of every block, 1 - mean cosine of what enters and leaves it over all tokens (arXiv:2403.03853), and of every
 * window of `count` blocks the angle between what enters and leaves it, over π, at sequences' last tokens (arXiv:2403.17887).
 */
async function onePass({
  place,
  sequences,
  count,
  context,
}: BlockTask): Promise<{ influences: number[]; windows: number[] }> {
  const { model, runner, memoryBytes, directory, onBatch } = place;
  const { blocks, hiddenSize } = model.architecture;
  await using states = await createStates(model, sequences, memoryBytes, join(directory, "states.bin"));
  await embedTokens(model, sequences, states);
  const stream = new Stream(runner, states);
  const influences: number[] = [];
  const lasts: Float32Array[] = [await lastTokens(states, hiddenSize)];
  let weights = new Map<string, Float32Array>();
  for (const block of blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    const before = await createStates(model, sequences, memoryBytes, join(directory, "before.bin"));
    try {
      await states.copyTo(before);
      await stream.pass(block, weights, { moves: true, onBatch });
      const cosines: number[] = [];
      for (let i = 0; i < sequences.length; i++) {
        using then = await before.read(i, 1);
        using now = await states.read(i, 1);
        cosines.push(...rowCosines(valuesOf(then), valuesOf(now), hiddenSize));
      }
      influences.push(1 - meanOf(cosines));
      tellBlock(context, block, model);
    } finally {
      await before[Symbol.asyncDispose]();
    }
    lasts.push(await lastTokens(states, hiddenSize));
  }
  const windows = Array.from({ length: Math.max(0, blocks.length - count) }, (_, first) =>
    meanOf(rowAngles(lasts[first] as Float32Array, lasts[first + count] as Float32Array, hiddenSize)),
  );
  return { influences, windows };
}

async function lastTokens(states: HiddenStates, width: number): Promise<Float32Array> {
  const rows = new Float32Array(states.sequences * width);
  for (let i = 0; i < states.sequences; i++) {
    using values = await states.read(i, 1);
    rows.set(valuesOf(values).subarray((states.tokens - 1) * width, states.tokens * width), i * width);
  }
  return rows;
}

/** Of rows of width `width`; of a row of zeros 0. */
export function rowCosines(a: Float32Array, b: Float32Array, width: number): number[] {
  return Array.from({ length: a.length / width }, (_, row) => {
    let [dot, squareA, squareB] = [0, 0, 0];
    for (let i = row * width; i < (row + 1) * width; i++) {
      const [x, y] = [a[i] as number, b[i] as number];
      dot += x * y;
      squareA += x * x;
      squareB += y * y;
    }
    return squareA === 0 || squareB === 0 ? 0 : dot / Math.sqrt(squareA * squareB);
  });
}

/** Angles over π, by the chord between unit vectors: exact where they are all but the same. */
export function rowAngles(a: Float32Array, b: Float32Array, width: number): number[] {
  return Array.from({ length: a.length / width }, (_, row) => {
    const [from, end] = [row * width, (row + 1) * width];
    const length = (values: Float32Array): number =>
      Math.sqrt(values.subarray(from, end).reduce((sum, value) => sum + value * value, 0)) || 1;
    const [lengthA, lengthB] = [length(a), length(b)];
    let chord = 0;
    for (let i = from; i < end; i++) chord += ((a[i] as number) / lengthA - (b[i] as number) / lengthB) ** 2;
    return (2 * Math.asin(Math.min(1, Math.sqrt(chord) / 2))) / Math.PI;
  });
}
