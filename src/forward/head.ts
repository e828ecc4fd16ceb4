/**
 * From the last block's hidden states to next-token losses, over tiles of the vocabulary so that neither the
 * projection nor the logits are ever held whole.
 */
import { borrowed, type NdArray } from "../array.js";
import { cap } from "../graph/attention.js";
import type { Arrays, Program } from "../graph/executor.js";
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import { OnnxExecutor } from "../onnx/executor.js";
import type { Architecture } from "../model/architecture.js";
import { lookUp } from "../look-up.js";
import type { HiddenStates } from "./hidden-states.js";
import { batchesOf } from "./stream.js";
import type { Model } from "../model/open-model.js";
import { valuesOf } from "./values.js";
import { readArrays } from "./weights.js";

/** Rows of the projection per tile: 2048 tokens of logits then take 64 MiB. */
export const TILE_ROWS = 8192;

/** How the vocabulary is walked through. */
export interface TileOptions {
  /** Rows of the projection per tile. */
  readonly tileRows?: number;
  /** Sequences at a time; default `sequencesPerRun`. */
  readonly batch?: number | undefined;
}

/** The final norm and what else precedes the projection. */
export function buildNormGraph({ state, head }: Architecture): Graph {
  const graph = new GraphBuilder("head-norm");
  const whole = graph.input("hidden", ["tokens", state.width]);
  const hidden = front(graph, whole, state.hidden);
  const tensors = new Map([...head.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const normed = head.build(graph, hidden, (role) => lookUp(tensors, role));
  // States keep their slot size, so a narrower result is filled up with zeros.
  const after = state.width - head.width;
  graph.output("normed", after === 0 ? normed : graph.apply("pad", [normed], { axis: 1, after }));
  return graph.build();
}

/** The first columns of a row. */
function front(graph: GraphBuilder, value: Value, end: number): Value {
  return value.shape[1] === end ? value : graph.apply("slice", [value], { axis: 1, start: 0, end });
}

/** Rows [first, first + rows) of the vocabulary. */
export interface VocabularyTile {
  readonly first: number;
  readonly rows: number;
}

/** The vocabulary in pieces that are computed one after another. */
export function vocabularyTiles(vocabularySize: number, { tileRows = TILE_ROWS }: TileOptions = {}): VocabularyTile[] {
  return Array.from({ length: Math.ceil(vocabularySize / tileRows) }, (_, tile) => {
    const first = tile * tileRows;
    return { first, rows: Math.min(tileRows, vocabularySize - first) };
  });
}

/**
 * Logits [tokens, rows] of one tile from normed states; adds the inputs `<prefix>hidden`, `<prefix>tile` and
 * `<prefix>bias` to the graph, which `tileFeeds` and the caller's hidden states feed.
 */
export function addTileLogits(graph: GraphBuilder, { state, head }: Architecture, prefix = ""): Value {
  const hidden = graph.input(`${prefix}hidden`, ["tokens", state.width]);
  const tile = graph.input(`${prefix}tile`, ["rows", head.width]);
  const bias = graph.input(`${prefix}bias`, ["rows"]);
  const states = front(graph, hidden, head.width);
  const operands = head.bias === undefined ? [states, tile] : [states, tile, bias];
  let logits = graph.apply("gemm", operands, { transposeB: true });
  if (head.logitScale !== undefined) logits = graph.apply("multiply", [logits, graph.scalar(head.logitScale)]);
  return head.softcap === undefined ? logits : cap(graph, logits, head.softcap);
}

/** Log-sum-exp of a tile's logits, [tokens]. */
export function addLogSumExp(graph: GraphBuilder, logits: Value): Value {
  return graph.apply("logSumExp", [logits], { axes: [1] });
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
): Promise<Map<string, NdArray>> {
  const { head } = model.architecture;
  const tile = await model.checkpoint.readRows(head.projection, first, rows);
  const biases = head.bias === undefined ? undefined : await model.checkpoint.readTensor(head.bias);
  const bias = biases?.subarray(first, first + rows) ?? new Float32Array(rows);
  return new Map([
    [`${prefix}tile`, borrowed("tile", tile, [rows, head.width])],
    [`${prefix}bias`, borrowed("bias", bias, [rows])],
  ]);
}

/** Log-sum-exp of a tile's logits and the logit of each target (row 0's where the target lies elsewhere). */
export function buildTileGraph(architecture: Architecture, output: "losses" | "logits"): Graph {
  const graph = new GraphBuilder("head-tile");
  const logits = addTileLogits(graph, architecture);
  if (output === "logits") graph.output("logits", logits);
  else {
    const targets = graph.input("targets", ["tokens", 1], "i64");
    graph.output("logSumExp", addLogSumExp(graph, logits));
    graph.output("targetLogits", graph.apply("gatherAlong", [logits, targets], { axis: 1 }));
  }
  return graph.build();
}

/** The final norm, applied to all sequences in place. */
export async function applyFinalNorm(model: Model, states: HiddenStates, batch?: number): Promise<void> {
  const { architecture, checkpoint } = model;
  await using executor = new OnnxExecutor();
  const program = await executor.compile(buildNormGraph(architecture));
  const weights = await readArrays(checkpoint, architecture.head.tensors);
  for (const { first, count } of batchesOf(states, { size: batch })) {
    using hidden = await states.read(first, count);
    using normed = lookUp(await program.run(new Map([...weights, ["hidden", hidden]])), "normed");
    await states.write(first, normed);
  }
}

interface TilePass {
  readonly model: Model;
  readonly states: HiddenStates;
  readonly batch?: number | undefined;
  readonly program: Program;
  readonly tiles: readonly VocabularyTile[];
  /** The row of a tile that is asked for at a position. */
  targetOf(sequence: number, token: number, firstRow: number, rows: number): bigint;
  /** @param results disposed of when this returns */
  visit(
    results: ReadonlyMap<string, Float32Array>,
    firstSequence: number,
    count: number,
    firstRow: number,
    rows: number,
  ): void;
}

async function forEachTile({ model, states, batch, program, tiles, targetOf, visit }: TilePass): Promise<void> {
  for (const tile of tiles) {
    const weights = await tileFeeds(model, tile);
    for (const { first, count } of batchesOf(states, { size: batch })) {
      const tokens = count * states.tokens;
      const targets = BigInt64Array.from({ length: tokens }, (_, i) =>
        targetOf(first + Math.floor(i / states.tokens), i % states.tokens, tile.first, tile.rows),
      );
      using hidden = await states.read(first, count);
      const feeds = new Map<string, NdArray>([
        ...weights,
        ["hidden", hidden],
        ["targets", borrowed("targets", targets, [tokens, 1])],
      ]);
      const results = await program.run(feeds);
      visit(valuesByName(results), first, count, tile.first, tile.rows);
      results.forEach((array) => array[Symbol.dispose]());
    }
  }
}

function valuesByName(arrays: Arrays): Map<string, Float32Array> {
  return new Map([...arrays].map(([name, array]) => [name, valuesOf(array)]));
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
  options: TileOptions = {},
): Promise<{ readonly losses: Float64Array[]; readonly logPartitions: Float64Array }> {
  await using executor = new OnnxExecutor();
  const program = await executor.compile(buildTileGraph(model.architecture, "losses"), { keepsMemory: true });
  const tiles = vocabularyTiles(model.architecture.vocabularySize, options);
  const { tokens } = states;
  const partitions = createLogSum(sequences.length * tokens);
  const targetLogits = new Float64Array(sequences.length * tokens);
  const targetOf = (sequence: number, token: number): number => sequences[sequence]?.[token + 1] ?? -1;
  await forEachTile({
    model,
    states,
    batch: options.batch,
    program,
    tiles,
    targetOf(sequence, token, firstRow, rows) {
      const target = targetOf(sequence, token) - firstRow;
      return BigInt(target >= 0 && target < rows ? target : 0);
    },
    visit(results, first, count, firstRow, rows) {
      const [logSumExp, gathered] = [lookUp(results, "logSumExp"), lookUp(results, "targetLogits")];
      partitions.add(logSumExp, first * tokens);
      for (let i = 0; i < count * tokens; i++) {
        const at = first * tokens + i;
        const target = targetOf(first + Math.floor(i / tokens), i % tokens) - firstRow;
        if (target >= 0 && target < rows) targetLogits[at] = gathered[i];
      }
    },
  });
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
  options: TileOptions = {},
): Promise<Float64Array[]> {
  return (await nextTokenStatistics(model, states, sequences, options)).losses;
}

/** All logits [sequences, tokens, vocabulary] from normed states: for small models and tests. */
export async function computeLogits(
  model: Model,
  states: HiddenStates,
  options: TileOptions = {},
): Promise<Float32Array> {
  await using executor = new OnnxExecutor();
  const program = await executor.compile(buildTileGraph(model.architecture, "logits"), { keepsMemory: true });
  const { vocabularySize } = model.architecture;
  const logits = new Float32Array(states.sequences * states.tokens * vocabularySize);
  await forEachTile({
    model,
    states,
    batch: options.batch,
    program,
    tiles: vocabularyTiles(vocabularySize, options),
    targetOf: () => 0n,
    visit(results, first, count, firstRow, rows) {
      const tile = lookUp(results, "logits");
      for (let i = 0; i < count * states.tokens; i++) {
        logits.set(tile.subarray(i * rows, (i + 1) * rows), (first * states.tokens + i) * vocabularySize + firstRow);
      }
    },
  });
  return logits;
}
