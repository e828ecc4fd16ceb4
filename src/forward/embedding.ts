/** Token ids to the state that enters the first block, reading what is needed of the tables once, piece by piece. */
import { borrowed, type NdArray } from "../array.js";
import { GraphBuilder, type Graph } from "../graph/graph.js";
import { OnnxExecutor } from "../onnx/executor.js";
import type { Architecture, PrologueSpec, SideTable } from "../model/architecture.js";
import { batchesOf } from "./stream.js";
import { lookUp } from "../look-up.js";
import type { HiddenStates } from "./hidden-states.js";
import type { Model } from "../model/open-model.js";
import { readArrays } from "./weights.js";

const PIECE_BYTES = 64 * 2 ** 20;

/** Reading so much that nobody asked for costs more than a further read, in f32. */
const FAR_BYTES = 2 ** 18;

export interface EmbeddingOptions {
  /** How much of a table is read at once. */
  readonly pieceBytes?: number;
  /** How much may lie between wanted rows that are read at once. */
  readonly farBytes?: number;
}

/** Fill the first slots of `states`, one for each sequence, with what enters block 0. Ids must be below the vocabulary size. */
export async function embedTokens(
  model: Model,
  sequences: readonly Int32Array[],
  states: HiddenStates,
  { pieceBytes = PIECE_BYTES, farBytes = FAR_BYTES }: EmbeddingOptions = {},
): Promise<void> {
  await lookUpTokens(model, sequences, states, { pieceBytes, farBytes });
  const { prologue } = model.architecture;
  if (prologue !== undefined) await runPrologue(model, prologue, states, sequences.length);
}

/** The embeddings themselves, in the front of their slots, and behind them what the side tables have. */
async function lookUpTokens(
  model: Model,
  sequences: readonly Int32Array[],
  states: HiddenStates,
  options: Required<EmbeddingOptions>,
): Promise<void> {
  const { embedding, embeddingWidth, sideTables, state } = model.architecture;
  const positionsOf = new Map<number, number[]>(); // id → rows over all sequences
  sequences.forEach((ids, sequence) => {
    ids.forEach((id, token) => {
      const rows = positionsOf.get(id);
      const row = sequence * states.tokens + token;
      if (rows === undefined) positionsOf.set(id, [row]);
      else rows.push(row);
    });
  });
  const main = { tensor: embedding, width: embeddingWidth };
  const ids = [...positionsOf.keys()];
  const asTheyAre = ids.map((id) => ({ id, row: id }));
  await readInPieces(model, main, asTheyAre, options, async (id, vector) => {
    const slot = new Float32Array(state.width); // whole, so that no place of it was never written
    slot.set(vector);
    for (const row of positionsOf.get(id) ?? []) await states.writeRow(row, slot);
  });
  let offset = embeddingWidth;
  for (const table of sideTables) {
    const start = offset;
    const wanted = ids.map((id) => ({ id, row: sideRow(table, id) }));
    await readInPieces(model, table, wanted, options, async (id, vector) => {
      for (const row of positionsOf.get(id) ?? []) await states.writeRow(row, vector, start);
    });
    offset += table.width;
  }
}

/**
 * Visit the rows of some tokens. Rows that lie near each other are read at once, and what is far from all of them is not:
 * a table may be far wider than the model.
 */
async function readInPieces(
  { checkpoint }: Model,
  { tensor, width }: Omit<SideTable, "rows">,
  wanted: readonly { readonly id: number; readonly row: number }[],
  { pieceBytes, farBytes }: Required<EmbeddingOptions>,
  visit: (id: number, vector: Float32Array) => Promise<void>,
): Promise<void> {
  const byRow = wanted.toSorted((a, b) => a.row - b.row);
  const [longest, farthest] = [pieceBytes, farBytes].map((bytes) => Math.max(1, Math.floor(bytes / (width * 4))));
  let piece: (typeof wanted)[number][] = [];
  const readPiece = async (): Promise<void> => {
    const [first, last] = [piece[0]?.row ?? 0, piece.at(-1)?.row ?? 0];
    const values = await checkpoint.readRows(tensor, first, last - first + 1);
    for (const { id, row } of piece) await visit(id, values.subarray((row - first) * width, (row - first + 1) * width));
    piece = [];
  };
  for (const each of byRow) {
    const [first, last] = [piece[0], piece.at(-1)];
    const isNear =
      first === undefined || last === undefined || (each.row - first.row < longest && each.row - last.row <= farthest);
    if (!isNear) await readPiece();
    piece.push(each);
  }
  if (piece.length > 0) await readPiece();
}

/** Tokens beyond the last row have the first one. */
function sideRow({ rows }: SideTable, id: number): number {
  return id < rows ? id : 0;
}

/**
 * What the side tables have of some tokens, row by row, where few are asked for.
 * @param slots [tokens, state.width], of which the embeddings fill the front
 */
export async function fillFromSideTables(
  { architecture, checkpoint }: Pick<Model, "architecture" | "checkpoint">,
  ids: readonly number[],
  slots: Float32Array,
): Promise<void> {
  const { sideTables, embeddingWidth, state } = architecture;
  let offset = embeddingWidth;
  for (const table of sideTables) {
    const known = new Map<number, Float32Array>();
    for (const [token, id] of ids.entries()) {
      const row = sideRow(table, id);
      const vector = known.get(row) ?? (await checkpoint.readRows(table.tensor, row, 1));
      known.set(row, vector);
      slots.set(vector, token * state.width + offset);
    }
    offset += table.width;
  }
}

/** Slots of embeddings to states. */
export function buildPrologueGraph(
  { embeddingWidth, sideTables, state }: Pick<Architecture, "embeddingWidth" | "sideTables" | "state">,
  prologue: PrologueSpec,
): Graph {
  const graph = new GraphBuilder("prologue");
  const slots = graph.input("slots", ["rows", state.width]);
  const positions = graph.input("positions", ["rows"], "i64");
  const tensors = new Map([...prologue.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const end = sideTables.reduce((sum, { width }) => sum + width, embeddingWidth);
  const embedded = end === state.width ? slots : graph.apply("slice", [slots], { axis: 1, start: 0, end });
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
