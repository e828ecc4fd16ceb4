/** Token ids to the hidden states that enter the first block, reading the embedding table once, piece by piece. */
import { GraphBuilder, type BuiltGraph } from "../onnx/graph.js";
import { createSession, type Feed } from "../onnx/session.js";
import type { Architecture, PrologueSpec } from "../model/architecture.js";
import { sequencesPerRun } from "./weights.js";
import { lookUp } from "../look-up.js";
import type { HiddenStates } from "./hidden-states.js";
import type { Model } from "../model/open-model.js";

const PIECE_BYTES = 64 * 2 ** 20;

/** Fill every slot of `states` with what enters block 0. Ids must be below the vocabulary size. */
export async function embedTokens(model: Model, sequences: readonly Int32Array[], states: HiddenStates): Promise<void> {
  await lookUpTokens(model, sequences, states);
  if (model.architecture.prologue !== undefined) await runPrologue(model, model.architecture.prologue, states);
}

/** The embeddings themselves; narrower ones fill the front of their slot. */
async function lookUpTokens(model: Model, sequences: readonly Int32Array[], states: HiddenStates): Promise<void> {
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
  const rowsPerPiece = Math.max(1, Math.floor(PIECE_BYTES / (embeddingWidth * 4)));
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

function buildPrologueGraph({ hiddenSize, embeddingWidth }: Architecture, prologue: PrologueSpec): BuiltGraph {
  const graph = new GraphBuilder("prologue");
  const slots = graph.input("slots", ["batch", "tokens", hiddenSize]);
  const positions = graph.input("positions", ["batch", "tokens"], "int64");
  const tensors = new Map([...prologue.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const range = [graph.integers([0]), graph.integers([embeddingWidth]), graph.integers([2])];
  const embedded = embeddingWidth === hiddenSize ? slots : graph.node("Slice", [slots, ...range]);
  const hidden = prologue.build(graph, embedded, positions, (role) => lookUp(tensors, role));
  graph.output(hidden, "hidden", ["batch", "tokens", hiddenSize]);
  return graph.build();
}

async function runPrologue(model: Model, prologue: PrologueSpec, states: HiddenStates): Promise<void> {
  const { architecture, checkpoint } = model;
  await using session = await createSession(buildPrologueGraph(architecture, prologue));
  const tensors: Record<string, Feed> = {};
  for (const [role, { tensor, shape }] of prologue.tensors)
    tensors[role] = { values: await checkpoint.readTensor(tensor), shape };
  const { tokens } = states;
  const batch = sequencesPerRun(tokens);
  for (let first = 0; first < states.sequences; first += batch) {
    const count = Math.min(batch, states.sequences - first);
    const values = BigInt64Array.from({ length: count * tokens }, (_, i) => BigInt(i % tokens));
    const slots = { values: await states.read(first, count), shape: [count, tokens, architecture.hiddenSize] };
    const { hidden } = await session.run({ ...tensors, slots, positions: { values, shape: [count, tokens] } });
    await states.write(first, hidden);
  }
}
