/**
 * From the last block's hidden states to next-token losses, over tiles of the vocabulary so that neither the
 * projection nor the logits are ever held whole.
 */
import { GraphBuilder, type BuiltGraph, type Value } from "../onnx/graph.js";
import { createSession, type Feed, type Session } from "../onnx/session.js";
import type { Architecture } from "../model/architecture.js";
import { lookUp } from "../look-up.js";
import type { HiddenStates } from "./hidden-states.js";
import type { Model } from "../model/open-model.js";

/** Rows of the projection per tile: 2048 tokens of logits then take 64 MiB. */
const TILE_ROWS = 8192;

function buildNormGraph(architecture: Architecture): BuiltGraph {
  const graph = new GraphBuilder("head-norm");
  const hidden = graph.input("hidden", ["tokens", architecture.hiddenSize]);
  const tensors = new Map([...architecture.head.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const { hiddenSize, head } = architecture;
  const normed = head.build(graph, hidden, (role) => lookUp(tensors, role));
  // Hidden states keep their slot size, so a narrower result is filled up with zeros.
  const padding = graph.integers([0, 0, 0, hiddenSize - head.width]);
  graph.output(head.width === hiddenSize ? normed : graph.node("Pad", [normed, padding]), "normed", [
    "tokens",
    hiddenSize,
  ]);
  return graph.build();
}

/** Rows [first, first + rows) of the vocabulary. */
export interface VocabularyTile {
  readonly first: number;
  readonly rows: number;
}

/** The vocabulary in pieces that are computed one after another. */
export function vocabularyTiles(vocabularySize: number): VocabularyTile[] {
  return Array.from({ length: Math.ceil(vocabularySize / TILE_ROWS) }, (_, tile) => {
    const first = tile * TILE_ROWS;
    return { first, rows: Math.min(TILE_ROWS, vocabularySize - first) };
  });
}

/**
 * Logits [tokens, rows] of one tile from normed states; adds the inputs `<prefix>hidden`, `<prefix>tile` and
 * `<prefix>bias` to the graph, which `tileFeeds` and the caller's hidden states feed.
 */
export function addTileLogits(graph: GraphBuilder, { hiddenSize, head }: Architecture, prefix = ""): Value {
  const hidden = graph.input(`${prefix}hidden`, ["tokens", hiddenSize]);
  const tile = graph.input(`${prefix}tile`, ["rows", head.width]);
  const bias = graph.input(`${prefix}bias`, ["rows"]);
  const width = [graph.integers([0]), graph.integers([head.width]), graph.integers([1])];
  const states = head.width === hiddenSize ? hidden : graph.node("Slice", [hidden, ...width]);
  let logits = graph.node("Gemm", head.bias === undefined ? [states, tile] : [states, tile, bias], { transB: 1 });
  if (head.logitScale !== undefined) logits = graph.node("Mul", [logits, graph.floats([head.logitScale], [])]);
  if (head.softcap !== undefined) {
    const cap = graph.floats([head.softcap], []);
    logits = graph.node("Mul", [graph.node("Tanh", [graph.node("Div", [logits, cap])]), cap]);
  }
  return logits;
}

/** Log-sum-exp of a tile's logits, [tokens]. */
export function addLogSumExp(graph: GraphBuilder, logits: Value): Value {
  return graph.node("ReduceLogSumExp", [logits, graph.integers([1])], { keepdims: 0 });
}

interface LogSum {
  add(values: Float32Array, from: number): void;
  /** log Σ exp of what was added, per position. */
  value(): Float64Array;
}

/** Log-sum-exp over tiles, without overflow. */
export function createLogSum(positions: number): LogSum {
  const largest = new Float64Array(positions).fill(-Infinity);
  const sums = new Float64Array(positions); // Σ exp(value - largest)
  return {
    add(values, from) {
      for (let i = 0; i < values.length; i++) {
        const at = from + i;
        const top = Math.max(largest[at], values[i]);
        sums[at] = sums[at] * Math.exp(largest[at] - top) + Math.exp(values[i] - top);
        largest[at] = top;
      }
    },
    value: () => largest.map((top, at) => top + Math.log(sums[at])),
  };
}

/** What feeds the projection's part of `addTileLogits`. */
export async function tileFeeds(
  model: Model,
  { first, rows }: VocabularyTile,
  prefix = "",
): Promise<Record<string, Feed>> {
  const { head } = model.architecture;
  const tile = await model.checkpoint.readRows(head.projection, first, rows);
  const biases = head.bias === undefined ? undefined : await model.checkpoint.readTensor(head.bias);
  return {
    [`${prefix}tile`]: { values: tile, shape: [rows, head.width] },
    [`${prefix}bias`]: { values: biases?.subarray(first, first + rows) ?? new Float32Array(rows), shape: [rows] },
  };
}

/** Log-sum-exp of a tile's logits and the logit of each target (row 0's where the target lies elsewhere). */
function buildTileGraph(architecture: Architecture, output: "losses" | "logits"): BuiltGraph {
  const graph = new GraphBuilder("head-tile");
  const logits = addTileLogits(graph, architecture);
  if (output === "logits") graph.output(logits, "logits", ["tokens", "rows"]);
  else {
    const targets = graph.input("targets", ["tokens", 1], "int64");
    graph.output(addLogSumExp(graph, logits), "logSumExp", ["tokens"]);
    graph.output(graph.node("GatherElements", [logits, targets], { axis: 1 }), "targetLogits", ["tokens", 1]);
  }
  return graph.build();
}

/** The final norm, applied to all sequences in place. */
export async function applyFinalNorm(model: Model, states: HiddenStates, batch: number): Promise<void> {
  const { architecture, checkpoint } = model;
  await using session = await createSession(buildNormGraph(architecture));
  const weights: Record<string, Feed> = {};
  for (const [role, { tensor, shape }] of architecture.head.tensors)
    weights[role] = { values: await checkpoint.readTensor(tensor), shape };
  for (let first = 0; first < states.sequences; first += batch) {
    const count = Math.min(batch, states.sequences - first);
    const hidden = { values: await states.read(first, count), shape: [count * states.tokens, architecture.hiddenSize] };
    const { normed } = await session.run({ ...weights, hidden });
    await states.write(first, normed as Float32Array);
  }
}

async function forEachTile(
  model: Model,
  states: HiddenStates,
  batch: number,
  session: Session,
  feedsOf: (sequence: number, token: number, firstRow: number, rows: number) => bigint,
  visit: (
    results: Record<string, Float32Array>,
    firstSequence: number,
    count: number,
    firstRow: number,
    rows: number,
  ) => void,
): Promise<void> {
  const { vocabularySize, hiddenSize } = model.architecture;
  for (const tile of vocabularyTiles(vocabularySize)) {
    const weights = await tileFeeds(model, tile);
    for (let first = 0; first < states.sequences; first += batch) {
      const count = Math.min(batch, states.sequences - first);
      const tokens = count * states.tokens;
      const targets = BigInt64Array.from({ length: tokens }, (_, i) =>
        feedsOf(first + Math.floor(i / states.tokens), i % states.tokens, tile.first, tile.rows),
      );
      const hidden = { values: await states.read(first, count), shape: [tokens, hiddenSize] };
      const results = await session.run({ ...weights, hidden, targets: { values: targets, shape: [tokens, 1] } });
      visit(results, first, count, tile.first, tile.rows);
    }
  }
}

/**
 * Negative log likelihood of every next token, from normed states.
 * @returns `losses` per sequence [tokens - 1] in nats: entry t is -log p(ids[t + 1] | ids[0..t]); and the logarithm of
 *   each position's partition function, [sequences * tokens]
 */
export async function nextTokenStatistics(
  model: Model,
  states: HiddenStates,
  sequences: readonly Int32Array[],
  batch: number,
): Promise<{ readonly losses: Float64Array[]; readonly logPartitions: Float64Array }> {
  await using session = await createSession(buildTileGraph(model.architecture, "losses"));
  const { tokens } = states;
  const partitions = createLogSum(sequences.length * tokens);
  const targetLogits = new Float64Array(sequences.length * tokens);
  const targetOf = (sequence: number, token: number): number => sequences[sequence]?.[token + 1] ?? -1;
  await forEachTile(
    model,
    states,
    batch,
    session,
    (sequence, token, firstRow, rows) => {
      const target = targetOf(sequence, token) - firstRow;
      return BigInt(target >= 0 && target < rows ? target : 0);
    },
    (results, first, count, firstRow, rows) => {
      const { logSumExp, targetLogits: gathered } = results as { logSumExp: Float32Array; targetLogits: Float32Array };
      partitions.add(logSumExp, first * tokens);
      for (let i = 0; i < count * tokens; i++) {
        const at = first * tokens + i;
        const target = targetOf(first + Math.floor(i / tokens), i % tokens) - firstRow;
        if (target >= 0 && target < rows) targetLogits[at] = gathered[i];
      }
    },
  );
  const logPartitions = partitions.value();
  const losses = sequences.map((_, sequence) =>
    Float64Array.from({ length: tokens - 1 }, (_, token) => {
      const at = sequence * tokens + token;
      return logPartitions[at] - targetLogits[at];
    }),
  );
  return { losses, logPartitions };
}

/** Only the losses of `nextTokenStatistics`. */
export async function nextTokenLosses(
  model: Model,
  states: HiddenStates,
  sequences: readonly Int32Array[],
  batch: number,
): Promise<Float64Array[]> {
  return (await nextTokenStatistics(model, states, sequences, batch)).losses;
}

/** All logits [sequences, tokens, vocabulary] from normed states: for small models and tests. */
export async function computeLogits(model: Model, states: HiddenStates, batch: number): Promise<Float32Array> {
  await using session = await createSession(buildTileGraph(model.architecture, "logits"));
  const { vocabularySize } = model.architecture;
  const logits = new Float32Array(states.sequences * states.tokens * vocabularySize);
  await forEachTile(
    model,
    states,
    batch,
    session,
    () => 0n,
    (results, first, count, firstRow, rows) => {
      const tile = results["logits"] as Float32Array;
      for (let i = 0; i < count * states.tokens; i++) {
        logits.set(tile.subarray(i * rows, (i + 1) * rows), (first * states.tokens + i) * vocabularySize + firstRow);
      }
    },
  );
  return logits;
}
