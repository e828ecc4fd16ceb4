/**
 * Sequences on their way through a model: hidden states, and the one place where they go through a block. Whoever collects
 * statistics, moves states on or measures something asks for a pass and listens.
 */
import type { BlockSpec } from "../model/architecture.js";
import type { BlockRequest } from "./block-graph.js";
import type { BlockResult, BlockRunner, BlockWeights, Tap } from "./block-runner.js";
import type { HiddenStates } from "./hidden-states.js";
import { sequencesPerRun } from "./weights.js";

/** Consecutive sequences that go through a graph together. */
export interface Batch {
  readonly first: number;
  readonly count: number;
}

/** What of hidden states says how they are cut into batches. */
export interface SequenceCounts {
  readonly sequences: number;
  readonly tokens: number;
}

/**
 * Sequences [first, end) in batches, in order. How they are cut is part of a run's numbers: sums are taken batch by batch.
 * @param size sequences of a batch
 */
export function* batchesOf(
  { sequences, tokens }: SequenceCounts,
  {
    first = 0,
    end = sequences,
    size = sequencesPerRun(tokens),
  }: { first?: number; end?: number; size?: number | undefined } = {},
): Generator<Batch> {
  for (let start = first; start < end; start += size) yield { first: start, count: Math.min(size, end - start) };
}

/** What a pass hands out of each batch. */
export interface HeardBatch extends Batch {
  /** By group; borrowed until the listener is done: their memory is used again. */
  readonly taps: ReadonlyMap<string, Tap>;
}

export interface PassRequest {
  /** Whether the block's outputs take the place of its inputs. */
  readonly moves: boolean;
  /** Inputs of linears, or statistics of them, to be handed out. */
  readonly taps?: BlockRequest["taps"];
  /** Called for every batch, before its states move. */
  readonly hear?: (batch: HeardBatch) => void | Promise<void>;
  /** Only sequences [first, end); default all. */
  readonly range?: { readonly first: number; readonly end: number };
  /** Called after every batch with how many of the sequences are done; throws to stop. */
  readonly onBatch?: (done: number, total: number) => void;
}

export class Stream {
  readonly states: HiddenStates;
  readonly runner: BlockRunner;
  readonly #batchSize: number;

  /** @param batchSize sequences that go through a block together */
  constructor(runner: BlockRunner, states: HiddenStates, batchSize = sequencesPerRun(states.tokens)) {
    this.runner = runner;
    this.states = states;
    this.#batchSize = batchSize;
  }

  /** Take all sequences, or a range of them, through a block, batch by batch. Nothing is run where nothing is asked for. */
  async pass(block: BlockSpec, weights: BlockWeights, request: PassRequest): Promise<void> {
    const { moves, taps, hear, onBatch } = request;
    if (!moves && taps === undefined) return; // an empty graph is no graph
    const { first: start, end } = request.range ?? { first: 0, end: this.states.sequences };
    for (const { first, count } of batchesOf(this.states, { first: start, end, size: this.#batchSize })) {
      using result = await this.run(block, weights, { first, count }, { hidden: moves, taps });
      await hear?.({ first, count, taps: result.taps });
      if (result.hidden !== undefined) await this.states.write(first, result.hidden);
      onBatch?.(first + count - start, end - start);
    }
    if (taps?.kind === "gram") this.runner.trim(); // as large as what is solved next
  }

  /**
   * One batch through a block; its states stay as they are. For what goes along with another stream's pass.
   * @returns the caller's to dispose of
   */
  async run(
    block: BlockSpec,
    weights: BlockWeights,
    { first, count }: Batch,
    request: BlockRequest,
  ): Promise<BlockResult> {
    const { states, runner } = this;
    using hidden = await states.read(first, count);
    return await runner.run(block, weights, hidden, { batch: count, tokens: states.tokens }, request);
  }
}
