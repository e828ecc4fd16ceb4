/**
 * How far a model's next-token distributions are from a reference's on the same windows: Kullback-Leibler divergence
 * and agreement of the most likely token, tile by tile over the vocabulary.
 *
 * KL(p ‖ q) = Σ_v p_v (log p_v - log q_v) with p the reference. With the logits l and log partition functions Z of
 * both, a tile contributes Σ_v exp(l_p - Z_p) ((l_p - Z_p) - (l_q - Z_q)). Since Σ p = 1, Z_q may also be added at the end:
 * then one pass over the logits gives it, too.
 */
import { borrowed, type NdArray } from "../array.js";
import type { Estimate } from "../contract.js";
import { ConfigError } from "../errors.js";
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture } from "../model/architecture.js";
import {
  addLogSumExp,
  addTileLogits,
  createLogSum,
  tileFeeds,
  vocabularyTiles,
  type TileOptions,
} from "../forward/head.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { batchesOf } from "../forward/stream.js";
import { valuesOf } from "../forward/values.js";
import type { Model } from "../model/open-model.js";
import { OnnxExecutor } from "../onnx/executor.js";

/** A model's normed hidden states on some sequences. */
export interface ForwardedModel {
  readonly model: Model;
  readonly states: Pick<HiddenStates, "sequences" | "tokens" | "read">;
}

/** And its log partition functions [sequences * tokens]. */
export interface EvaluatedModel extends ForwardedModel {
  readonly logPartitions: Float64Array;
}

export interface Divergence {
  /** Mean KL divergence of each window, nats. */
  readonly klDivergences: Float64Array;
  /** Share of positions of each window with the same most likely token. */
  readonly agreements: Float64Array;
}

/** @param hasPartition whether the candidate's partition functions are known and fed, or an output instead */
export function buildDivergenceGraph(reference: Architecture, candidate: Architecture, hasPartition: boolean): Graph {
  const graph = new GraphBuilder("divergence");
  const side = (architecture: Architecture, prefix: string): { logits: Value; logProbabilities: Value } => {
    const logits = addTileLogits(graph, architecture, prefix);
    const partition = graph.input(`${prefix}logPartition`, ["tokens", 1]);
    const logProbabilities = graph.apply("subtract", [logits, partition]);
    graph.output(`${prefix}top`, graph.apply("reduceMax", [logits], { axes: [1] }));
    const index = graph.apply("argMax", [logits], { axis: 1 });
    graph.output(`${prefix}topIndex`, graph.apply("cast", [index], { to: "f32" }));
    return { logits, logProbabilities };
  };
  const p = side(reference, "p.");
  const q = side(candidate, "q.");
  if (!hasPartition) graph.output("q.logSumExp", addLogSumExp(graph, q.logits));
  const difference = graph.apply("subtract", [p.logProbabilities, q.logProbabilities]);
  const weighted = graph.apply("multiply", [graph.apply("exp", [p.logProbabilities]), difference]);
  graph.output("divergence", graph.apply("reduceSum", [weighted], { axes: [1] }));
  return graph.build();
}

/**
 * @param candidate its partition functions are computed on the way where they are not known
 * @throws ConfigError E_VOCABULARY when the two models do not share a vocabulary size
 */
export async function measureDivergence(
  reference: EvaluatedModel,
  candidate: ForwardedModel & Partial<EvaluatedModel>,
  options: TileOptions = {},
): Promise<Divergence> {
  const [p, q] = [reference.model.architecture, candidate.model.architecture];
  if (p.vocabularySize !== q.vocabularySize) {
    throw new ConfigError(
      "E_VOCABULARY",
      `--reference: its vocabulary has ${p.vocabularySize} tokens, the model's ${q.vocabularySize}.`,
      {
        hint: "Compare a model with the dense one it was made from.",
        details: { reference: p.vocabularySize, model: q.vocabularySize },
      },
    );
  }
  const { sequences, tokens } = reference.states;
  const divergence = new Float64Array(sequences * tokens);
  // What stands for Z_q until it is known: the reference's, because the closer it is, the less the rounding of Σ p counts.
  const offsets = candidate.logPartitions ?? reference.logPartitions;
  const partitions = candidate.logPartitions === undefined ? createLogSum(sequences * tokens) : undefined;
  const best = { p: createBest(sequences * tokens), q: createBest(sequences * tokens) };
  await using executor = new OnnxExecutor();
  const program = await executor.compile(buildDivergenceGraph(p, q, partitions === undefined), { keepsMemory: true });
  for (const tile of vocabularyTiles(p.vocabularySize, options)) {
    const weights = [
      ...(await tileFeeds(reference.model, tile, "p.")),
      ...(await tileFeeds(candidate.model, tile, "q.")),
    ];
    for (const { first, count } of batchesOf(reference.states, { size: options.batch })) {
      const [from, to] = [first * tokens, (first + count) * tokens];
      const feedsOf = async (
        { states }: ForwardedModel,
        offsets: Float64Array,
        prefix: string,
      ): Promise<[string, NdArray][]> => {
        const partition = Float32Array.from(offsets.subarray(from, to));
        return [
          [`${prefix}hidden`, await states.read(first, count)],
          [`${prefix}logPartition`, borrowed("partition", partition, [to - from, 1])],
        ];
      };
      const feeds = new Map([
        ...weights,
        ...(await feedsOf(reference, reference.logPartitions, "p.")),
        ...(await feedsOf(candidate, offsets, "q.")),
      ]);
      const results = await program.run(feeds);
      const read = (name: string): Float32Array => valuesOf(lookUp(results, name));
      read("divergence").forEach((value, i) => (divergence[from + i] += value));
      partitions?.add(read("q.logSumExp"), from);
      best.p.update(read("p.top"), read("p.topIndex"), from, tile.first);
      best.q.update(read("q.top"), read("q.topIndex"), from, tile.first);
      for (const arrays of [results, feeds]) arrays.forEach((array) => array[Symbol.dispose]());
    }
  }
  partitions?.value().forEach((partition, at) => (divergence[at] += partition - offsets[at]));
  // The last position of a window predicts nothing that is counted.
  const perWindow = (valueAt: (at: number) => number): Float64Array =>
    Float64Array.from({ length: sequences }, (_, window) => {
      let sum = 0;
      for (let token = 0; token < tokens - 1; token++) sum += valueAt(window * tokens + token);
      return sum / (tokens - 1);
    });
  return {
    klDivergences: perWindow((at) => divergence[at]),
    agreements: perWindow((at) => Number(best.p.index[at] === best.q.index[at])),
  };
}

interface Best {
  readonly index: Int32Array;
  update(tops: Float32Array, indices: Float32Array, from: number, firstRow: number): void;
}

/** The most likely token of every position, over the tiles seen so far. */
function createBest(positions: number): Best {
  const value = new Float32Array(positions).fill(-Infinity);
  const index = new Int32Array(positions);
  return {
    index,
    update(tops, indices, from, firstRow) {
      for (let i = 0; i < tops.length; i++) {
        if (tops[i] <= value[from + i]) continue;
        value[from + i] = tops[i];
        index[from + i] = firstRow + indices[i];
      }
    },
  };
}

const NORMAL_QUANTILE = 1.959964; // 97.5 %

/** Mean of per-window values with its normal 95 % confidence interval. */
export function estimateMean(values: Float64Array): Estimate {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = n < 2 ? 0 : values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const margin = NORMAL_QUANTILE * Math.sqrt(variance / n);
  return { value: mean, low: mean - margin, high: mean + margin };
}

/** The exponential of a mean, and of the ends of its interval. */
export function exponential({ value, low, high }: Estimate): Estimate {
  return { value: Math.exp(value), low: Math.exp(low), high: Math.exp(high) };
}
