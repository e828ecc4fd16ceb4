/**
 * The gradient of a loss of the whole model with respect to all that is trained, one block in a program at a time: forward
 * through the blocks keeping what enters each, the loss and its gradient at the head, then back from the last block to
 * the first, each computed again from what entered it.
 */
import { borrowed, type NdArray } from "../array.js";
import { gradientName, gradientOf } from "../graph/gradient.js";
import type { Arrays, Program } from "../graph/executor.js";
import { buildBlockGraph } from "../forward/block-graph.js";
import type { BlockRunner } from "../forward/block-runner.js";
import { HiddenStates, type HiddenStatesOptions } from "../forward/hidden-states.js";
import { batchesOf, type Batch } from "../forward/stream.js";
import { valuesOf } from "../forward/values.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import type { StepGradient } from "./descent.js";
import type { ParameterField, Parameters } from "./parameters.js";
import type { ParameterStore } from "./parameter-store.js";
import { keepWhere } from "./projection.js";

const HIDDEN = "hidden";
const OUTPUT = "output";

/** Backward through blocks: programs by kind of block. */
export class BlockGradients implements AsyncDisposable {
  readonly #runner: Pick<BlockRunner, "executor" | "positions">;
  readonly #architecture: Architecture;
  readonly #programs = new Map<string, Program>();

  constructor(runner: Pick<BlockRunner, "executor" | "positions">, architecture: Architecture) {
    this.#runner = runner;
    this.#architecture = architecture;
  }

  /**
   * @param hidden what entered the block, and the gradient of the loss at its output, [batch * tokens, state.width]
   * @param into where to write gradients of tensors
   * @returns gradients of `hidden` and of all tensors, by `gradientName`; the caller's but for those of `into`
   */
  async run(
    block: BlockSpec,
    tensors: Arrays,
    { hidden, gradient }: { readonly hidden: NdArray; readonly gradient: NdArray },
    { batch, tokens }: { readonly batch: number; readonly tokens: number },
    into: Arrays = new Map(),
  ): Promise<Arrays> {
    const program = await this.#program(block);
    const feeds = new Map<string, NdArray>([
      ...this.#runner.positions.of(batch, tokens),
      ...tensors,
      [HIDDEN, hidden],
      [gradientName(OUTPUT), gradient],
    ]);
    return program.run(feeds, into);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.#programs.values()) await program[Symbol.asyncDispose]();
    this.#programs.clear();
  }

  async #program(block: BlockSpec): Promise<Program> {
    const known = this.#programs.get(block.shapeKey);
    if (known !== undefined) return known;
    const graph = buildBlockGraph(this.#architecture, block, { hidden: true, taps: undefined });
    const program = await this.#runner.executor.compile(
      gradientOf(graph, { of: [HIDDEN, ...block.tensors.keys()], through: [OUTPUT] }),
    );
    this.#programs.set(block.shapeKey, program);
    return program;
  }
}

/**
 * The loss of final hidden states, summed over the batch as the whole step weighs it; gradients with respect to what the
 * head trains are added up where they belong.
 * @returns the gradient with respect to `hidden`, the caller's
 */
export type HeadLoss = (
  batch: Batch,
  hidden: NdArray,
) => Promise<{ readonly loss: number; readonly gradient: NdArray }>;

/** What is at both ends of the blocks: how sequences enter the first, and what the loss says of what leaves the last. */
export interface ModelEnds {
  /** Fill the first slots with what enters the first block, one for each sequence of the step. */
  embed(states: HiddenStates): Promise<void>;
  /** @param isTraining whether gradients of what the head trains are wanted, which start at 0 */
  atHead<Result>(isTraining: boolean, work: (loss: HeadLoss) => Promise<Result>): Promise<Result>;
  /**
   * Take gradients with respect to what entered the first block.
   * @returns Σ g² over all that the ends train
   */
  atEmbedding(work: (take: (batch: Batch, gradient: NdArray) => Promise<void>) => Promise<void>): Promise<number>;
}

/** A term of the loss for what leaves each block. */
export interface BlockTerm {
  /**
   * @param hidden what leaves the block, [batch * tokens, state.width]
   * @param gradient of the loss there; the term's own is added to it
   * @returns the batch's share of the term
   */
  add(block: BlockSpec, batch: Batch, hidden: NdArray, gradient?: NdArray): Promise<number>;
}

/** The name of a block's group of parameters. */
export function groupOfBlock({ index }: Pick<BlockSpec, "index">): string {
  return `block-${index}`;
}

export interface StepOptions {
  readonly architecture: Architecture;
  readonly runner: BlockRunner;
  readonly gradients: BlockGradients;
  /** With a group for every block. */
  readonly store: ParameterStore;
  readonly ends: ModelEnds;
  /** Of the loss, beside what the head says. */
  readonly term?: BlockTerm | undefined;
  /** Sequences of the step. */
  readonly sequences: number;
  /** Slots for every sequence in front of every block and behind the last, see `stepStates`; overwritten. */
  readonly states: HiddenStates;
  /** Sequences that go through a block together; default `sequencesPerRun`. */
  readonly sequencesPerRun?: number | undefined;
  /** Called after every block on the way forward and back; throws to stop. */
  readonly onBlock?: () => void;
}

/** Hidden states for steps of so many sequences. */
export function stepStates(
  { blocks, state }: Architecture,
  { sequences, ...place }: Omit<HiddenStatesOptions, "width">,
): Promise<HiddenStates> {
  return HiddenStates.create({ ...place, width: state.width, sequences: sequences * (blocks.length + 1) });
}

/** Forward and back; the gradients are in the store when this resolves. */
export async function accumulateGradients(options: StepOptions): Promise<StepGradient> {
  const { architecture, gradients, store, ends, term, states, onBlock } = options;
  const { blocks } = architecture;
  const { tokens } = states;
  const { batches, slot } = await passForward(options, (parameters) => parameters.feeds());
  const last = blocks.length;
  /** The term of what enters a block, or the head, added to the gradient there. */
  const addTerm = async (
    before: number,
    ...at: [batch: Batch, hidden: NdArray, gradient: NdArray]
  ): Promise<number> => {
    const block = blocks[before - 1];
    return term === undefined || block === undefined ? 0 : term.add(block, ...at);
  };
  let loss = await ends.atHead(true, async (lossOf) => {
    let total = 0;
    for (const batch of batches) {
      using hidden = await states.read(slot(last, batch.first), batch.count);
      const { loss: part, gradient } = await lossOf(batch, hidden);
      using own = gradient;
      total += part + (await addTerm(last, batch, hidden, own));
      await states.write(slot(last, batch.first), own); // from here on the slots of the last hold gradients
    }
    return total;
  });
  if (!Number.isFinite(loss)) return { loss, squares: 0, origin: await firstNotFinite(options, slot) };
  let squares = 0;
  for (const block of blocks.toReversed()) {
    squares += await store.use(
      groupOfBlock(block),
      { reads: ["values"], writes: ["gradient"] },
      async (own): Promise<number> => {
        for (const [index, batch] of batches.entries()) {
          const { first, count } = batch;
          using hidden = await states.read(slot(block.index, first), count);
          using gradient = await states.read(slot(last, first), count);
          const into = index === 0 ? own.sinks() : new Map<string, NdArray>();
          const results = await gradients.run(block, own.feeds(), { hidden, gradient }, { batch: count, tokens }, into);
          if (index > 0) own.accumulate(results);
          const entering = lookUp(results, gradientName(HIDDEN));
          loss += await addTerm(block.index, batch, hidden, entering);
          await states.write(slot(last, first), entering);
          for (const [name, array] of results) if (!into.has(name)) array[Symbol.dispose]();
        }
        own.uploadGradients();
        return own.gradientSquares();
      },
    );
    onBlock?.();
  }
  squares += await ends.atEmbedding(async (take) => {
    for (const batch of batches) {
      using gradient = await states.read(slot(last, batch.first), batch.count);
      await take(batch, gradient);
    }
  });
  return { loss, squares };
}

/** In words, what of the forward pass holds the first value that is not finite. */
async function firstNotFinite({ architecture, sequences, states }: StepOptions, slot: Passed["slot"]): Promise<string> {
  for (const { index } of architecture.blocks)
    for (let sequence = 0; sequence < sequences; sequence++) {
      using hidden = await states.read(slot(index, sequence), 1);
      if (valuesOf(hidden).every(Number.isFinite)) continue;
      return index === 0 ? "an embedding" : `what leaves ${architecture.blocks[index - 1]?.name ?? ""}`;
    }
  return `what leaves ${architecture.blocks.at(-1)?.name ?? "the embedding"}, or the head`;
}

/** The loss of the sequences with every pruned tensor as its mask leaves it; nothing is changed. */
export async function lossUnderMasks(options: StepOptions): Promise<number> {
  const { architecture, ends, term, states } = options;
  const { batches, slot } = await passForward(options, maskedFeeds, ["mask"]);
  let ofBlocks = 0;
  for (const block of term === undefined ? [] : architecture.blocks)
    for (const batch of batches) {
      using leaving = await states.read(slot(block.index + 1, batch.first), batch.count);
      ofBlocks += (await term?.add(block, batch, leaving)) ?? 0;
    }
  return ends.atHead(false, async (lossOf) => {
    let total = 0;
    for (const batch of batches) {
      using hidden = await states.read(slot(architecture.blocks.length, batch.first), batch.count);
      const { loss, gradient } = await lossOf(batch, hidden);
      gradient[Symbol.dispose]();
      total += loss;
    }
    return ofBlocks + total;
  });
}

interface Passed {
  readonly batches: readonly Batch[];
  /** Of a sequence in front of a block, or behind the last. */
  readonly slot: (block: number, sequence: number) => number;
}

/** All sequences through all blocks, keeping what enters each. */
async function passForward(
  { architecture, runner, store, ends, sequences: count, states, sequencesPerRun, onBlock }: StepOptions,
  weightsOf: (parameters: Parameters) => Arrays | Promise<Arrays>,
  alsoReads: readonly ParameterField[] = [],
): Promise<Passed> {
  const { tokens } = states;
  const slot = (block: number, first: number): number => block * count + first;
  const batches = [...batchesOf({ sequences: count, tokens }, { size: sequencesPerRun })];
  await ends.embed(states);
  for (const block of architecture.blocks) {
    await store.use(groupOfBlock(block), { reads: ["values", ...alsoReads] }, async (parameters) => {
      const feeds = await weightsOf(parameters);
      const weights = new Map([...feeds].map(([name, array]) => [name, valuesOf(array)]));
      for (const { first, count: some } of batches) {
        using entering = await states.read(slot(block.index, first), some);
        const wanted = { hidden: true, taps: undefined };
        using result = await runner.run(block, weights, entering, { batch: some, tokens }, wanted);
        await states.write(slot(block.index + 1, first), result.hidden as NdArray);
      }
    });
    onBlock?.();
  }
  return { batches, slot };
}

async function maskedFeeds(parameters: Parameters): Promise<Arrays> {
  const feeds = new Map<string, NdArray>(parameters.feeds());
  for (const parameter of parameters) {
    if (!parameter.has("mask")) continue;
    const { name, shape, values } = parameter;
    const kept = keepWhere(values.host, (await parameter.give("mask")) as Uint32Array, values.matrix.columns);
    feeds.set(name, borrowed(name, kept, shape));
  }
  return feeds;
}
