/**
 * How much a mixture's experts are missed. One pass over the dense model keeps five sums per expert, of which every criterion
 * and every ratio follows: how many tokens are sent to it, Σ of their weights, of its outputs' norms, of weight · norm (REAP,
 * arXiv:2510.13999, with the ids and weights that the model really passes on), and the largest |output|.
 */
import { join } from "node:path";
import type { NdArray } from "../../array.js";
import { throwIfStopped, type EngineContext } from "../../context.js";
import { embedTokens } from "../../forward/embedding.js";
import { ExpertOutputs } from "../../forward/expert-outputs.js";
import { Stream, type HeardBatch } from "../../forward/stream.js";
import { valuesOf } from "../../forward/values.js";
import { readBlockWeights } from "../../forward/weights.js";
import { lookUp } from "../../look-up.js";
import { ROUTING, type BlockSpec, type RoutedExperts } from "../../model/architecture.js";
import { takeMatrix } from "../../model/logical-matrix.js";
import { outputGroupOf } from "../../model/moe.js";
import type { ExpertCriterion } from "../../options/cut-options.js";
import { createStates, type MeasuringPlace } from "../dense-reference.js";

/** What is known of one expert. */
export interface ExpertSums {
  readonly tokens: number;
  readonly weights: number;
  readonly norms: number;
  readonly weightedNorms: number;
  readonly largest: number;
  /** Frobenius norm of its matrices. */
  readonly weightNorm: number;
}

/** By block, expert by expert. */
export type ExpertTable = ReadonlyMap<number, readonly ExpertSums[]>;

/** Larger is more missed; an expert that no token was sent to is missed by nobody. */
export function scoreOf(criterion: ExpertCriterion, sums: ExpertSums): number {
  const { tokens, norms, weightedNorms, weightNorm } = sums;
  switch (criterion) {
    case "reap":
      return tokens === 0 ? 0 : weightedNorms / tokens;
    case "frequency":
      return tokens;
    case "ean":
      return norms;
    case "soft-ean":
      return weightedNorms;
    case "weight-norm":
      return weightNorm;
    default:
      return criterion satisfies never;
  }
}

export async function collectExperts(
  { model, runner, memoryBytes, directory, onBatch }: MeasuringPlace,
  sequences: readonly Int32Array[],
  context: EngineContext,
): Promise<ExpertTable> {
  const { blocks } = model.architecture;
  const table = new Map<number, readonly ExpertSums[]>();
  await using states = await createStates(model, sequences, memoryBytes, join(directory, "states.bin"));
  await embedTokens(model, sequences, states);
  const stream = new Stream(runner, states);
  let weights = new Map<string, Float32Array>();
  for (const block of blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    const isLast = block.index === blocks.length - 1;
    const { experts } = block;
    if (experts === undefined) {
      await stream.pass(block, weights, { moves: !isLast, onBatch });
    } else {
      await using sums = await Collector.open(runner.executor, block, experts, weights);
      const groups = [ROUTING.experts, ROUTING.weights, ...experts.down.map((_, expert) => outputGroupOf(expert))];
      await stream.pass(block, weights, {
        moves: !isLast,
        taps: { kind: "inputs", groups },
        hear: ({ taps }) => sums.add(taps),
        onBatch,
      });
      table.set(block.index, sums.finish());
    }
    const done = block.index + 1;
    context.emit({ type: "windows", done, total: blocks.length, fraction: done / blocks.length });
    throwIfStopped(context, false);
  }
  return table;
}

interface Mutable {
  tokens: number;
  weights: number;
  norms: number;
  weightedNorms: number;
  largest: number;
}

class Collector implements AsyncDisposable {
  readonly #block: BlockSpec;
  readonly #experts: RoutedExperts;
  readonly #weights: ReadonlyMap<string, Float32Array>;
  readonly #outputs: ExpertOutputs;
  readonly #sums: Mutable[];

  private constructor(
    block: BlockSpec,
    experts: RoutedExperts,
    weights: ReadonlyMap<string, Float32Array>,
    outputs: ExpertOutputs,
  ) {
    this.#block = block;
    this.#experts = experts;
    this.#weights = weights;
    this.#outputs = outputs;
    this.#sums = experts.down.map(() => ({ tokens: 0, weights: 0, norms: 0, weightedNorms: 0, largest: 0 }));
  }

  static async open(
    executor: Stream["runner"]["executor"],
    block: BlockSpec,
    experts: RoutedExperts,
    weights: ReadonlyMap<string, Float32Array>,
  ): Promise<Collector> {
    const { inFeatures, outFeatures } = (experts.down[0] as RoutedExperts["down"][number]).linear;
    return new Collector(block, experts, weights, await ExpertOutputs.open(executor, inFeatures, outFeatures));
  }

  async add(taps: HeardBatch["taps"]): Promise<void> {
    const [chosen, weights] = [ROUTING.experts, ROUTING.weights].map((name) =>
      valuesOf(lookUp(taps, name).parts[0] as NdArray),
    ) as [Float32Array, Float32Array];
    for (const expert of this.#experts.down.keys()) {
      const { parts, rows } = lookUp(taps, outputGroupOf(expert));
      const [activated] = parts;
      if (rows === 0 || activated === undefined) continue;
      // Rows of an expert are the tokens that chose it, in order.
      const given = weights.filter((_, slot) => chosen[slot] === expert);
      const { squares, tops } = await this.#outputsOf(expert, activated);
      const sums = this.#sums[expert] as Mutable;
      squares.forEach((square, row) => {
        const norm = Math.sqrt(square);
        const weight = given[row] as number;
        sums.tokens++;
        sums.weights += weight;
        sums.norms += norm;
        // Where the weight is a factor on what the expert reads, it is in the norm already.
        sums.weightedNorms += this.#experts.isInputScaled === true ? norm : weight * norm;
        sums.largest = Math.max(sums.largest, Math.sqrt(tops[row] as number));
      });
    }
  }

  finish(): ExpertSums[] {
    return this.#sums.map((sums, expert) => ({ ...sums, weightNorm: this.#weightNorm(expert) }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#outputs[Symbol.asyncDispose]();
  }

  async #outputsOf(
    expert: number,
    activated: NdArray,
  ): Promise<{ readonly squares: Float32Array; readonly tops: Float32Array }> {
    const { linear, bias } = this.#experts.down[expert] as RoutedExperts["down"][number];
    const { outFeatures } = linear;
    const { shape } = lookUp(this.#block.tensors, linear.role);
    const matrix = takeMatrix(lookUp(this.#weights, linear.role), shape, linear);
    const biases = bias === undefined ? undefined : lookUp(this.#weights, bias);
    return this.#outputs.of(activated, matrix, biases?.subarray(expert * outFeatures, (expert + 1) * outFeatures));
  }

  #weightNorm(expert: number): number {
    const prefix = outputGroupOf(expert).replace(/-output$/, "-");
    let square = 0;
    for (const { name, linears } of this.#block.groups)
      if (name.startsWith(prefix))
        for (const linear of linears) {
          const { shape } = lookUp(this.#block.tensors, linear.role);
          for (const value of takeMatrix(lookUp(this.#weights, linear.role), shape, linear)) square += value * value;
        }
    return Math.sqrt(square);
  }
}

/** Outputs so large that the expert makes a model's massive activations: more than the larger of two bounds. */
export function outlierThreshold(table: ExpertTable): number {
  const all = [...table.values()]
    .flat()
    .map(({ largest }) => largest)
    .toSorted((a, b) => a - b);
  const place = 0.995 * (all.length - 1);
  const [below, above] = [all[Math.floor(place)] ?? 0, all[Math.ceil(place)] ?? 0];
  return Math.max(below + (place - Math.floor(place)) * (above - below), (all.at(-1) ?? 0) / 10);
}

/** Half to even, as Python rounds. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Experts that go of `count` at a ratio: the same number of every group. */
export function droppedAt(ratio: number, count: number, groups: number): number {
  return groups * roundHalfEven(Math.trunc(count * ratio + 1e-9) / groups);
}

/**
 * The experts that stay, ascending: of each group those with the largest scores; of equal ones those with lower numbers.
 * @param isProtected of experts that stay in any case, as far as there is room
 */
export function chooseExperts(
  scores: readonly number[],
  isProtected: readonly boolean[],
  keep: number,
  groups = 1,
): number[] {
  const size = scores.length / groups;
  const rank = (expert: number): number => (isProtected[expert] === true ? Infinity : (scores[expert] as number));
  return Array.from({ length: groups }, (_, group) => {
    const own = Array.from({ length: size }, (_, i) => group * size + i);
    const ranked = own.toSorted((a, b) => (rank(a) === rank(b) ? a - b : rank(b) - rank(a)));
    return ranked.slice(0, keep / groups);
  })
    .flat()
    .toSorted((a, b) => a - b);
}
