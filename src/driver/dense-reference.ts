/** The dense model on some sequences: what enters its first block and leaves its last, for whoever measures candidates by it. */
import { join } from "node:path";
import { borrowed } from "../array.js";
import type { EvaluatedModel } from "../evaluation/divergence.js";
import type { BlockRunner } from "../forward/block-runner.js";
import { embedTokens } from "../forward/embedding.js";
import { applyFinalNorm, nextTokenStatistics } from "../forward/head.js";
import { HiddenStates } from "../forward/hidden-states.js";
import { Stream } from "../forward/stream.js";
import { valuesOf } from "../forward/values.js";
import { readBlockWeights } from "../forward/weights.js";
import type { Model } from "../model/open-model.js";

/** What measuring works with. */
export interface MeasuringPlace {
  readonly model: Model;
  readonly runner: BlockRunner;
  /** Budget for each set of hidden states; beyond it they go to scratch files in `directory`. */
  readonly memoryBytes: number;
  readonly directory: string;
  /** Called between batches; throws to stop. */
  readonly onBatch: () => void;
}

export function createStates(
  { architecture: { state } }: Model,
  sequences: readonly Int32Array[],
  memoryBytes: number,
  scratchFile: string,
): Promise<HiddenStates> {
  const tokens = sequences[0]?.length ?? 0;
  return HiddenStates.create({ sequences: sequences.length, tokens, width: state.width, memoryBytes, scratchFile });
}

export interface DenseReference extends EvaluatedModel, AsyncDisposable {
  readonly states: HiddenStates;
  readonly embedded: HiddenStates;
}

export async function evaluateDense(place: MeasuringPlace, sequences: readonly Int32Array[]): Promise<DenseReference> {
  const { model, runner, memoryBytes, directory, onBatch } = place;
  const embedded = await createStates(model, sequences, memoryBytes, join(directory, "embedded.bin"));
  const states = await createStates(model, sequences, memoryBytes, join(directory, "reference.bin"));
  await embedTokens(model, sequences, embedded);
  await embedded.copyTo(states);
  const stream = new Stream(runner, states);
  let weights = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    await stream.pass(block, weights, { moves: true, onBatch });
  }
  await applyFinalNorm(model, states);
  const { logPartitions } = await nextTokenStatistics(model, states, sequences);
  return {
    model,
    states,
    embedded,
    logPartitions,
    async [Symbol.asyncDispose]() {
      await states[Symbol.asyncDispose]();
      await embedded[Symbol.asyncDispose]();
    },
  };
}

/** The chosen sequences of a reference, `times` over, without copying them. */
export function repeatReference(reference: DenseReference, chosen: readonly number[], times: number): EvaluatedModel {
  const { model, states, logPartitions } = reference;
  const { tokens, sequenceLength } = states;
  const partitions = new Float64Array(times * chosen.length * tokens);
  for (let i = 0; i < times * chosen.length; i++) {
    const from = chosen[i % chosen.length] * tokens;
    partitions.set(logPartitions.subarray(from, from + tokens), i * tokens);
  }
  return {
    model,
    logPartitions: partitions,
    states: {
      sequences: times * chosen.length,
      tokens,
      async read(first, count) {
        const values = new Float32Array(count * sequenceLength);
        for (let i = 0; i < count; i++) {
          using sequence = await states.read(chosen[(first + i) % chosen.length], 1);
          values.set(valuesOf(sequence), i * sequenceLength);
        }
        return borrowed("repeated states", values, [count * tokens, sequenceLength / tokens]);
      },
    },
  };
}
