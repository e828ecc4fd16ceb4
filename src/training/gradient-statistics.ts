/**
 * Statistics of the gradients that each calibration sequence has by itself, for every weight that is pruned, in the dense
 * model: forward through the blocks keeping what enters each, the loss of every sequence at the head, then back from the
 * last block to the first, all sequences through one block before the next. So the sums of one block are in memory at a
 * time, although every sequence goes back through the whole model.
 */
import { elementsOf, type NdArray } from "../array.js";
import { NumericalError } from "../errors.js";
import type { BlockRunner } from "../forward/block-runner.js";
import { embedTokens } from "../forward/embedding.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { batchesOf } from "../forward/stream.js";
import { valuesOf } from "../forward/values.js";
import { readArrays, readBlockWeights } from "../forward/weights.js";
import type { Arrays } from "../graph/executor.js";
import { gradientName } from "../graph/gradient.js";
import { lookUp } from "../look-up.js";
import type { BlockSpec } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import type { GradientStatistic, ModelGradient } from "../solvers/solver.js";
import { HeadGradient, nextTokens, readHead } from "./head-gradient.js";
import { BlockGradients } from "./model-gradients.js";

/** Name of a block graph's input that is not one of its tensors. */
const HIDDEN = "hidden";

/** By role of the block's tensors, each in the layout of its tensor. */
export type TensorSums = ReadonlyMap<string, Float32Array>;

/** By statistic. */
export type GradientSums<Statistic = GradientStatistic> = ReadonlyMap<Statistic, TensorSums>;

/** z += what a statistic makes of a sequence's gradient, entry by entry. */
const ADD: Readonly<Record<ModelGradient, (gradient: Float32Array, z: Float32Array) => void>> = {
  "gradient-magnitudes": (gradient, z) => {
    for (let i = 0; i < z.length; i++) z[i] += Math.abs(gradient[i]);
  },
  "gradient-squares": (gradient, z) => {
    for (let i = 0; i < z.length; i++) z[i] += gradient[i] * gradient[i];
  },
  "gradient-sums": (gradient, z) => {
    for (let i = 0; i < z.length; i++) z[i] += gradient[i];
  },
};

/** Sums of one block while they grow, in f32. */
export class GrowingSums {
  readonly sums: GradientSums<ModelGradient>;
  readonly #block: BlockSpec;

  /** @param roles of the tensors that hold pruned weights */
  constructor(block: BlockSpec, statistics: readonly ModelGradient[], roles: ReadonlySet<string>) {
    const zeros = (): Map<string, Float32Array> =>
      new Map(
        [...block.tensors].flatMap(([role, { shape }]) =>
          roles.has(role) ? [[role, new Float32Array(elementsOf(shape))] as const] : [],
        ),
      );
    this.#block = block;
    this.sums = new Map(statistics.map((statistic) => [statistic, zeros()]));
  }

  /** @param gradients of one sequence, by `gradientName` of the roles */
  add(gradients: Arrays): void {
    for (const [statistic, tensors] of this.sums)
      for (const [role, sum] of tensors) ADD[statistic](valuesOf(lookUp(gradients, gradientName(role))), sum);
  }

  /** @throws NumericalError E_NON_FINITE naming the tensor: nothing can be ranked by NaN or infinity */
  expectFinite(): void {
    for (const [statistic, tensors] of this.sums) {
      for (const [role, sum] of tensors) {
        const place = sum.findIndex((value) => !Number.isFinite(value));
        if (place < 0) continue;
        const { tensor } = lookUp(this.#block.tensors, role);
        throw new NumericalError("E_NON_FINITE", `${tensor}: ${statistic} at place ${place} are ${sum[place]}.`, {
          hint: "The gradients overflowed: check the checkpoint for non-finite weights, or try other calibration text.",
          details: { tensor, statistic, place, value: sum[place] },
        });
      }
    }
  }
}

export interface GradientPass {
  /** Dense. */
  readonly model: Model;
  readonly runner: BlockRunner;
  /** Token ids, all of a length. */
  readonly sequences: readonly Int32Array[];
  /** Slots for every sequence in front of every block and behind the last, see `stepStates`; overwritten. */
  readonly states: HiddenStates;
  readonly statistics: readonly ModelGradient[];
  /** Roles of a block's tensors that hold pruned weights. */
  readonly rolesOf: (block: BlockSpec) => ReadonlySet<string>;
  /** Takes a block's sums, from the last block to the first. */
  readonly take: (block: BlockSpec, sums: GradientSums<ModelGradient>) => Promise<void>;
  /** Sequences that go forward and through the head together; default `sequencesPerRun`. Back they go one by one. */
  readonly sequencesPerRun?: number | undefined;
  /** Called as sequences go through a block; throws to stop. */
  readonly onSequences: (block: BlockSpec, direction: "forward" | "back", done: number) => void;
}

/**
 * @returns the mean of the sequences' losses
 * @throws NumericalError E_NON_FINITE where a statistic is not finite
 */
export async function collectGradients(pass: GradientPass): Promise<number> {
  const { model, runner, sequences, states } = pass;
  const { architecture } = model;
  await embedTokens(model, sequences, states);
  for (const block of architecture.blocks) await goForward(pass, block);
  const loss = await goBackThroughHead(pass);
  await using gradients = new BlockGradients(runner, architecture);
  for (const block of architecture.blocks.toReversed()) {
    const growing = new GrowingSums(block, pass.statistics, pass.rolesOf(block));
    await goBack(pass, gradients, block, growing);
    growing.expectFinite();
    await pass.take(block, growing.sums);
  }
  return loss / sequences.length;
}

/** The slot of the first of some sequences in front of a block; behind the last block where that is one too many. */
function slotOf({ sequences }: GradientPass, block: number, first: number): number {
  return block * sequences.length + first;
}

async function goForward(pass: GradientPass, block: BlockSpec): Promise<void> {
  const { model, runner, states, sequences } = pass;
  const { tokens } = states;
  const weights = await readBlockWeights(model.checkpoint, block);
  for (const { first, count } of batchesOf({ sequences: sequences.length, tokens }, { size: pass.sequencesPerRun })) {
    using entering = await states.read(slotOf(pass, block.index, first), count);
    const request = { hidden: true, taps: undefined };
    using result = await runner.run(block, weights, entering, { batch: count, tokens }, request);
    await states.write(slotOf(pass, block.index + 1, first), result.hidden as NdArray);
    pass.onSequences(block, "forward", first + count);
  }
}

/**
 * The slots behind the last block get the gradients of each sequence's own loss.
 * @returns the sum of the losses
 */
async function goBackThroughHead(pass: GradientPass): Promise<number> {
  const { model, runner, states, sequences } = pass;
  const { architecture } = model;
  const { tokens } = states;
  const head = await readHead(model);
  await using gradient = await HeadGradient.compile(runner.executor, architecture, {
    ...{ isProjectionTrained: false, isDistilled: false },
  });
  let sum = 0;
  for (const { first, count } of batchesOf({ sequences: sequences.length, tokens }, { size: pass.sequencesPerRun })) {
    const targets = nextTokens(sequences.slice(first, first + count));
    const slot = slotOf(pass, architecture.blocks.length, first);
    using hidden = await states.read(slot, count);
    // Rows do not meet in the head, so the gradient of a sum of losses is that of each sequence's own.
    const result = await gradient.run(head, { hidden, targets, weight: 1 / (tokens - 1), distillation: 0 }, {});
    using own = result.gradient;
    sum += result.loss;
    await states.write(slot, own);
  }
  return sum;
}

/** All sequences back through a block, one by one; the slots behind the last block get the gradients in front of this one. */
async function goBack(
  pass: GradientPass,
  gradients: BlockGradients,
  block: BlockSpec,
  growing: GrowingSums,
): Promise<void> {
  const { model, states, sequences } = pass;
  const { tokens } = states;
  const tensors = await readArrays(model.checkpoint, block.tensors);
  for (const sequence of sequences.keys()) {
    const behind = slotOf(pass, model.architecture.blocks.length, sequence);
    using hidden = await states.read(slotOf(pass, block.index, sequence), 1);
    using gradient = await states.read(behind, 1);
    const results = await gradients.run(block, tensors, { hidden, gradient }, { batch: 1, tokens });
    growing.add(results);
    await states.write(behind, lookUp(results, gradientName(HIDDEN)));
    for (const array of results.values()) array[Symbol.dispose]();
    pass.onSequences(block, "back", sequence + 1);
  }
}
