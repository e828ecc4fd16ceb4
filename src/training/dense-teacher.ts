/** The dense model as a teacher: what it makes of the sequences of a step, computed when the step begins. */
import type { NdArray } from "../array.js";
import type { BlockRunner } from "../forward/block-runner.js";
import { HeldBlocks } from "../forward/held-weights.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { Stream } from "../forward/stream.js";
import type { Model } from "../model/open-model.js";
import type { EmbeddingGradient } from "./embedding-gradient.js";
import type { SquareHead } from "./square-head.js";
import type { EndTensors, Teacher } from "./text-ends.js";

export interface DenseTeacherOptions {
  readonly model: Pick<Model, "checkpoint" | "architecture">;
  readonly runner: BlockRunner;
  /** Of the dense model. */
  readonly ends: EndTensors;
  readonly embedding: EmbeddingGradient;
  /** A slot for each sequence of a step; overwritten. */
  readonly states: HiddenStates;
  /** Blocks beyond what fits into so much memory are read again for every step. */
  readonly memoryBytes: number;
  /** Told what leaves every block, where somebody asks. */
  readonly squareHead?: SquareHead | undefined;
  /** Called after every block; throws to stop. */
  readonly onBlock?: () => void;
}

export class DenseTeacher implements Teacher {
  readonly #options: DenseTeacherOptions;
  readonly #blocks: HeldBlocks;

  constructor(options: DenseTeacherOptions) {
    this.#options = options;
    this.#blocks = new HeldBlocks(options.model, options.memoryBytes);
  }

  get head(): Teacher["head"] {
    return this.#options.ends.head;
  }

  /** @param sequences of the step that begins: token ids, one for each slot */
  async listen(sequences: readonly Int32Array[]): Promise<void> {
    const { model, runner, ends, embedding, states, squareHead, onBlock } = this.#options;
    await embedding.fill(ends.embedding, sequences, states);
    const stream = new Stream(runner, states);
    for (const block of model.architecture.blocks) {
      await stream.pass(block, await this.#blocks.of(block), { moves: true });
      await squareHead?.learn(block, states);
      onBlock?.();
    }
  }

  hidden(first: number, count: number): Promise<NdArray> {
    return this.#options.states.read(first, count);
  }
}
