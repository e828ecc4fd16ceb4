/** Token ids to the hidden states that enter the first block, reading the embedding table once, piece by piece. */
import { borrowed, type NdArray } from "../array.js";
import { GraphBuilder, type Graph } from "../graph/graph.js";
import { OnnxExecutor } from "../onnx/executor.js";
import type { Architecture, PrologueSpec } from "../model/architecture.js";
import { batchesOf } from "./stream.js";
import { lookUp } from "../look-up.js";
import type { HiddenStates } from "./hidden-states.js";
import type { Model } from "../model/open-model.js";
import { readArrays } from "./weights.js";

const PIECE_BYTES = 64 * 2 ** 20;

export interface EmbeddingOptions {
  /** How much of the embedding table is read at once. */
  readonly pieceBytes?: number;
}

/** Fill the first slots of `states`, one for each sequence, with what enters block 0. Ids must be below the vocabulary size. */
export async function embedTokens(
  model: Model,
  sequences: readonly Int32Array[],
  states: HiddenStates,
  { pieceBytes = PIECE_BYTES }: EmbeddingOptions = {},
): Promise<void> {
  await lookUpTokens(model, sequences, states, pieceBytes);
  const { prologue } = model.architecture;
  if (prologue !== undefined) await runPrologue(model, prologue, states, sequences.length);
}

/** The embeddings themselves; narrower ones fill the front of their slot. */
async function lookUpTokens(
  model: Model,
  sequences: readonly Int32Array[],
  states: HiddenStates,
  pieceBytes: number,
): Promise<void> {
  const { embedding, embeddingWidth, hiddenSize, vocabularySize } = model.architecture;
  const positionsOf = new Map<number, number[]>(); // id → rows over all sequences
  sequences.forEach((ids, sequence) => {
    ids.forEach((id, token) => {
      const rows = positionsOf.get(id);
      const row = sequence * states.tokens + token;
      if (rows === undefined) positionsOf.set(id, [row]);
      else rows.push(row);
    });
  });
  const rowsPerPiece = Math.max(1, Math.floor(pieceBytes / (embeddingWidth * 4)));
  for (let first = 0; first < vocabularySize; first += rowsPerPiece) {
    const end = Math.min(vocabularySize, first + rowsPerPiece);
    const ids = [...positionsOf.keys()].filter((id) => id >= first && id < end);
    if (ids.length === 0) continue;
    const table = await model.checkpoint.readRows(embedding, first, end - first);
    for (const id of ids) {
      const vector = new Float32Array(hiddenSize);
      vector.set(table.subarray((id - first) * embeddingWidth, (id - first + 1) * embeddingWidth));
      for (const row of positionsOf.get(id) ?? []) await states.writeRow(row, vector);
    }
  }
}

/** Slots of embeddings to hidden states. */
export function buildPrologueGraph({ hiddenSize, embeddingWidth }: Architecture, prologue: PrologueSpec): Graph {
  const graph = new GraphBuilder("prologue");
  const slots = graph.input("slots", ["rows", hiddenSize]);
  const positions = graph.input("positions", ["rows"], "i64");
  const tensors = new Map([...prologue.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const embedded =
    embeddingWidth === hiddenSize ? slots : graph.apply("slice", [slots], { axis: 1, start: 0, end: embeddingWidth });
  graph.output(
    "hidden",
    prologue.build(graph, embedded, positions, (role) => lookUp(tensors, role)),
  );
  return graph.build();
}

async function runPrologue(
  model: Model,
  prologue: PrologueSpec,
  states: HiddenStates,
  sequences: number,
): Promise<void> {
  const { architecture, checkpoint } = model;
  await using executor = new OnnxExecutor();
  const program = await executor.compile(buildPrologueGraph(architecture, prologue));
  const tensors = await readArrays(checkpoint, prologue.tensors);
  const { tokens } = states;
  for (const { first, count } of batchesOf({ sequences, tokens })) {
    const rows = count * tokens;
    const positions = BigInt64Array.from({ length: rows }, (_, i) => BigInt(i % tokens));
    using slots = await states.read(first, count);
    const feeds = new Map<string, NdArray>([
      ...tensors,
      ["slots", slots],
      ["positions", borrowed("positions", positions, [rows])],
    ]);
    using hidden = lookUp(await program.run(feeds), "hidden");
    await states.write(first, hidden);
  }
}
