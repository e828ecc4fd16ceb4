/** The dense model as a teacher: what it makes of the sequences of a step, computed when the step begins. */
import type { NdArray } from "../array.js";
import type { BlockRunner } from "../forward/block-runner.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { batchesOf, Stream } from "../forward/stream.js";
import { readBlockWeights } from "../forward/weights.js";
import type { BlockSpec } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import type { EmbeddingGradient } from "./embedding-gradient.js";
import type { EndTensors, Teacher } from "./text-ends.js";

export interface DenseTeacherOptions {
  readonly model: Pick<Model, "checkpoint" | "architecture">;
  readonly runner: BlockRunner;
  /** Of the dense model. */
  readonly ends: EndTensors;
  readonly embedding: EmbeddingGradient;
  /** A slot for each sequence of a step; overwritten. */
  readonly states: HiddenStates;
  /** Whether all blocks stay in memory; else each step reads them again. */
  readonly isResident: boolean;
  /** Called after every block; throws to stop. */
  readonly onBlock?: () => void;
}

type Weights = Map<string, Float32Array>;

export class DenseTeacher implements Teacher {
  readonly #options: DenseTeacherOptions;
  readonly #resident = new Map<number, Weights>();
  /** Arrays of the block before, which the next one overwrites. */
  #last: Weights = new Map();

  constructor(options: DenseTeacherOptions) {
    this.#options = options;
  }

  get head(): Teacher["head"] {
    return this.#options.ends.head;
  }

  /** @param sequences of the step that begins: token ids, one for each slot */
  async listen(sequences: readonly Int32Array[]): Promise<void> {
    const { model, runner, ends, embedding, states, onBlock } = this.#options;
    for (const { first, count } of batchesOf({ sequences: sequences.length, tokens: states.tokens })) {
      using entering = await embedding.embed(ends.embedding, sequences.slice(first, first + count));
      await states.write(first, entering);
    }
    const stream = new Stream(runner, states);
    for (const block of model.architecture.blocks) {
      await stream.pass(block, await this.#weightsOf(block), { moves: true });
      onBlock?.();
    }
  }

  hidden(first: number, count: number): Promise<NdArray> {
    return this.#options.states.read(first, count);
  }

  async #weightsOf(block: BlockSpec): Promise<Weights> {
    const { model, isResident } = this.#options;
    const known = this.#resident.get(block.index);
    if (known !== undefined) return known;
    const weights = await readBlockWeights(model.checkpoint, block, this.#last);
    if (isResident) this.#resident.set(block.index, weights);
    else this.#last = weights;
    return weights;
  }
}
