/**
 * The gradient of a loss of the whole model with respect to all that is trained, one block in a program at a time: forward
 * through the blocks keeping what enters each, the loss and its gradient at the head, then back from the last block to
 * the first, each computed again from what entered it.
 */
import type { NdArray } from "../array.js";
import { gradientName, gradientOf } from "../graph/gradient.js";
import type { Arrays, Program } from "../graph/executor.js";
import { buildBlockGraph, type BlockRunner } from "../forward/block-runner.js";
import { HiddenStates, type HiddenStatesOptions } from "../forward/hidden-states.js";
import { batchesOf, type Batch } from "../forward/stream.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import type { Parameters } from "./parameters.js";

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
   * @param hidden what entered the block, and the gradient of the loss at its output, [batch * tokens, hidden]
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

/** What is at both ends of the blocks: how sequences enter the first, and what the loss says of what leaves the last. */
export interface ModelEnds {
  /** Fill the first slots with what enters the first block, one for each sequence of the step. */
  embed(states: HiddenStates): Promise<void>;
  /**
   * The loss of final hidden states, summed over the batch as the whole step weighs it; its gradients with respect to what
   * the head trains are added to the ends' own.
   * @returns the gradient with respect to `hidden`, the caller's
   */
  loss(batch: Batch, hidden: NdArray): Promise<{ readonly loss: number; readonly gradient: NdArray }>;
  /** Take the gradient with respect to what entered the first block; absent where nothing there is trained. */
  embedded?(batch: Batch, gradient: NdArray): Promise<void>;
}

export interface StepOptions {
  readonly architecture: Architecture;
  readonly runner: BlockRunner;
  readonly gradients: BlockGradients;
  /** Of each block, in order. */
  readonly parameters: readonly Parameters[];
  readonly ends: ModelEnds;
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
  { blocks, hiddenSize }: Architecture,
  { sequences, ...place }: Omit<HiddenStatesOptions, "hiddenSize">,
): Promise<HiddenStates> {
  return HiddenStates.create({ ...place, hiddenSize, sequences: sequences * (blocks.length + 1) });
}

/**
 * Forward and back. Gradients are in the sinks of the parameters when this resolves.
 * @returns the loss
 */
export async function accumulateGradients(options: StepOptions): Promise<number> {
  const { architecture, runner, gradients, parameters, ends, sequences, states, onBlock } = options;
  const { blocks } = architecture;
  const [count, tokens] = [sequences, states.tokens];
  const slot = (block: number, first: number): number => block * count + first;
  const batches = [...batchesOf({ sequences: count, tokens }, { size: options.sequencesPerRun })];
  await ends.embed(states);
  for (const [index, block] of blocks.entries()) {
    const weights = new Map(
      [...parametersAt(parameters, index).feeds()].map(([name, { values }]) => [name, values as Float32Array]),
    );
    for (const { first, count: some } of batches) {
      using entering = await states.read(slot(index, first), some);
      using result = await runner.run(
        block,
        weights,
        entering,
        { batch: some, tokens },
        { hidden: true, taps: undefined },
      );
      await states.write(slot(index + 1, first), result.hidden as NdArray);
    }
    onBlock?.();
  }
  let total = 0;
  const last = blocks.length;
  for (const batch of batches) {
    using hidden = await states.read(slot(last, batch.first), batch.count);
    const { loss, gradient } = await ends.loss(batch, hidden);
    using own = gradient;
    total += loss;
    await states.write(slot(last, batch.first), own); // from here on the slots of the last hold gradients
  }
  for (const block of blocks.toReversed()) {
    const own = parametersAt(parameters, block.index);
    for (const [index, batch] of batches.entries()) {
      const { first, count: some } = batch;
      using hidden = await states.read(slot(block.index, first), some);
      using gradient = await states.read(slot(last, first), some);
      const into = index === 0 ? own.sinks() : new Map<string, NdArray>();
      const results = await gradients.run(block, own.feeds(), { hidden, gradient }, { batch: some, tokens }, into);
      if (index > 0) own.accumulate(results);
      await states.write(slot(last, first), lookUp(results, gradientName(HIDDEN)));
      for (const [name, array] of results) if (!into.has(name)) array[Symbol.dispose]();
    }
    onBlock?.();
  }
  for (const batch of ends.embedded === undefined ? [] : batches) {
    using gradient = await states.read(slot(last, batch.first), batch.count);
    await ends.embedded?.(batch, gradient);
  }
  return total;
}

function parametersAt(parameters: readonly Parameters[], index: number): Parameters {
  const found = parameters[index];
  if (found === undefined) throw new RangeError(`no parameters of block ${index}`);
  return found;
}
