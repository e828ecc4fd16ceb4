/**
 * A model that remembers nothing: what may follow a token comes from whole forwards over given sequences, which say it for
 * every beginning of them at once. A sequence that begins like none of them is an error.
 */
import { forwardModel } from "../../src/evaluation/perplexity.js";
import { applyFinalNorm, computeLogits } from "../../src/forward/head.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import type { TokenModel } from "../../src/generation/sequences.js";
import type { Model } from "../../src/model/open-model.js";
import { createTestContext } from "./engine.js";

/** @param tokens of the longest sequence: all are filled up to it, since rotary scalings may go by it */
export async function recomputedModel(
  model: Model,
  sequences: readonly Int32Array[],
  tokens: number,
): Promise<TokenModel> {
  const size = model.architecture.vocabularySize;
  const filled = sequences.map((ids) => Int32Array.from({ length: tokens }, (_, token) => ids[token] ?? 3));
  await using states = await HiddenStates.create({
    sequences: filled.length,
    tokens,
    width: model.architecture.state.width,
    memoryBytes: 2 ** 26,
    scratchFile: "/nowhere",
  });
  await forwardModel(model, filled, states, createTestContext());
  await applyFinalNorm(model, states);
  const all = await computeLogits(model, states);
  const rows: number[][] = [];
  let active = 0;
  return {
    advance(ids, positions) {
      active = ids.length;
      ids.forEach((id, row) => void (rows[row] = [...(rows[row] ?? []).slice(0, positions[row]), id]));
      return Promise.resolve();
    },
    logits() {
      const logits = new Float32Array(active * size);
      rows.slice(0, active).forEach((ids, row) => {
        const alike = sequences.findIndex((sequence) => ids.every((id, token) => sequence[token] === id));
        if (alike === -1) throw new Error(`no given sequence begins with ${ids.join(", ")}`);
        const last = alike * tokens + ids.length - 1;
        logits.set(all.subarray(last * size, (last + 1) * size), row * size);
      });
      return Promise.resolve(logits);
    },
    move(from, to) {
      rows[to] = rows[from] as number[];
    },
  };
}
