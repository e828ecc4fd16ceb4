/** Token ids to the hidden states that enter the first block, reading the embedding table once, piece by piece. */
import type { Model } from "./open-model.js";
import type { HiddenStates } from "./hidden-states.js";

const PIECE_BYTES = 64 * 2 ** 20;

/** Fill every slot of `states` with the embeddings of its sequence. Ids must be below the vocabulary size. */
export async function embedTokens(model: Model, sequences: readonly Int32Array[], states: HiddenStates): Promise<void> {
  const { embedding, hiddenSize, vocabularySize } = model.architecture;
  const positionsOf = new Map<number, number[]>(); // id → rows over all sequences
  sequences.forEach((ids, sequence) => {
    ids.forEach((id, token) => {
      const rows = positionsOf.get(id);
      const row = sequence * states.tokens + token;
      if (rows === undefined) positionsOf.set(id, [row]);
      else rows.push(row);
    });
  });
  const rowsPerPiece = Math.max(1, Math.floor(PIECE_BYTES / (hiddenSize * 4)));
  for (let first = 0; first < vocabularySize; first += rowsPerPiece) {
    const end = Math.min(vocabularySize, first + rowsPerPiece);
    const ids = [...positionsOf.keys()].filter((id) => id >= first && id < end);
    if (ids.length === 0) continue;
    const table = await model.checkpoint.readRows(embedding, first, end - first);
    for (const id of ids) {
      const vector = table.subarray((id - first) * hiddenSize, (id - first + 1) * hiddenSize);
      for (const row of positionsOf.get(id) ?? []) await states.writeRow(row, vector);
    }
  }
}
