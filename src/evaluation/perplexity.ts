/**
 * Perplexity by the field's protocol: the text tokenised once, cut into non-overlapping windows of `seqlen`, the mean
 * negative log likelihood of every token but a window's first, exponentiated. Streams block by block like the rest.
 */
import { inTemporaryDirectory, makeTemporaryDirectory, requireTemporaryRoom, rm } from "../files/temporary-files.js";
import { freemem } from "node:os";
import { join } from "node:path";
import { loadEvaluation } from "../calibration/corpus.js";
import { contextOfPart, throwIfStopped, type EngineContext } from "../context.js";
import type { EvaluationConfig, EvaluationReport, ReferenceComparison } from "../contract.js";
import { CheckpointError } from "../errors.js";
import { requirePositions } from "../model/architecture.js";
import { readBlockWeights } from "../forward/weights.js";
import { embedTokens } from "../forward/embedding.js";
import { BlockRunner } from "../forward/block-runner.js";
import { applyFinalNorm, nextTokenStatistics } from "../forward/head.js";
import { HiddenStates, spilledBytes, type HiddenStatesOptions } from "../forward/hidden-states.js";
import { Stream } from "../forward/stream.js";
import { checkLimits } from "./limits.js";
import { openModel, type Model } from "../model/open-model.js";
import { estimateMean, exponential, measureDivergence, type EvaluatedModel } from "./divergence.js";

/** Share of the free memory that hidden states may take before they go to a scratch file. */
const MEMORY_SHARE = 0.5;
const SCRATCH_PURPOSE = "what of the hidden states does not fit in memory";

/** Hidden states of all windows after the last block. */
export async function forwardModel(
  model: Model,
  sequences: readonly Int32Array[],
  states: HiddenStates,
  context: EngineContext,
): Promise<void> {
  const { blocks } = model.architecture;
  await using runner = new BlockRunner(model.architecture);
  const stream = new Stream(runner, states);
  await embedTokens(model, sequences, states);
  let weights = new Map<string, Float32Array>();
  for (const block of blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    await stream.pass(block, weights, { moves: true, onBatch: () => throwIfStopped(context, false) });
    const fraction = (block.index + 1) / (blocks.length + 1);
    const total = sequences.length;
    context.emit({ type: "windows", done: Math.round(fraction * total), total, fraction });
  }
}

/** A model run over all windows: normed hidden states, partition functions and the mean loss of each window. */
export interface EvaluatedWindows extends EvaluatedModel, AsyncDisposable {
  readonly windowLosses: Float64Array;
}

/** Where hidden states are: as much as fits in memory, the rest in the file. */
export type StatesPlace = Pick<HiddenStatesOptions, "memoryBytes" | "scratchFile">;

/** Budgets of so many sets of hidden states, each half of what those before it leave free. */
export function memoryForStates(sets: number): number[] {
  const free = freemem();
  return Array.from({ length: sets }, (_, set) => free * MEMORY_SHARE ** (set + 1));
}

/** What of the hidden states of windows will go to a file. */
export function spilledByWindows(
  { architecture: { state } }: Model,
  sequences: readonly Int32Array[],
  memoryBytes: number,
): number {
  return spilledBytes({
    sequences: sequences.length,
    tokens: sequences[0]?.length ?? 0,
    width: state.width,
    memoryBytes,
  });
}

export async function evaluateWindows(
  model: Model,
  sequences: readonly Int32Array[],
  place: StatesPlace,
  context: EngineContext,
): Promise<EvaluatedWindows> {
  const tokens = sequences[0]?.length ?? 0;
  const { width } = model.architecture.state;
  const states = await HiddenStates.create({ sequences: sequences.length, tokens, width, ...place });
  try {
    await forwardModel(model, sequences, states, context);
    await applyFinalNorm(model, states);
    const { losses, logPartitions } = await nextTokenStatistics(model, states, sequences);
    const windowLosses = Float64Array.from(
      losses,
      (window) => window.reduce((sum, loss) => sum + loss, 0) / (tokens - 1),
    );
    if (windowLosses.some(Number.isNaN)) throw nonFinite(model.directory);
    return { model, states, logPartitions, windowLosses, [Symbol.asyncDispose]: () => states[Symbol.asyncDispose]() };
  } catch (error) {
    await states[Symbol.asyncDispose]();
    throw error;
  }
}

function nonFinite(model: string): CheckpointError {
  return new CheckpointError(
    "E_NON_FINITE_LOGITS",
    `${model}: the forward gives NaN; the checkpoint holds non-finite weights or overflows.`,
    {
      hint: "Check the dense model the same way; if that is finite, the pruned checkpoint is damaged.",
      details: { model },
    },
  );
}

/** Evaluate a checkpoint directory on a text or on token ids, and compare it with a reference where one is named. */
export async function evaluatePerplexity(config: EvaluationConfig, context: EngineContext): Promise<EvaluationReport> {
  const started = performance.now();
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  await using referenceModel =
    config.reference === undefined
      ? undefined
      : await openModel(config.reference, { family: undefined, logger: context.logger });
  requirePositions(model.architecture, config.seqlen);
  const corpus = await loadEvaluation(config.text, {
    modelDirectory: config.model,
    textField: config.textField,
    seqlen: config.seqlen,
    vocabSize: model.architecture.vocabularySize,
    ...(config.maxWindows === undefined ? {} : { maxWindows: config.maxWindows }),
  });
  const { sequences } = corpus;
  const models = [model, ...(referenceModel === undefined ? [] : [referenceModel])];
  const budgets = memoryForStates(models.length);
  const spilled = models.map((each, i) => spilledByWindows(each, sequences, budgets[i] ?? 0));
  await requireRoomFor(spilled.reduce((a, b) => a + b, 0));
  const scratch = await makeTemporaryDirectory("eval", SCRATCH_PURPOSE);
  const placeOf = (set: number, name: string): StatesPlace => ({
    memoryBytes: budgets[set] ?? 0,
    scratchFile: join(scratch, name),
  });
  try {
    const half = config.reference === undefined ? 1 : 0.5;
    const first = contextOfPart(context, { from: 0, to: half });
    await using evaluated = await evaluateWindows(model, sequences, placeOf(0, "hidden-states.bin"), first);
    const second = contextOfPart(context, { from: half, to: 1 });
    const reference =
      referenceModel === undefined
        ? undefined
        : await compareWithReference(referenceModel, evaluated, sequences, placeOf(1, "reference.bin"), second);
    context.emit({ type: "windows", done: sequences.length, total: sequences.length, fraction: 1 });
    const nll = estimateMean(evaluated.windowLosses).value;
    const perplexity = Math.exp(nll);
    return {
      schema: "prune.eval/v1",
      model: config.model,
      perplexity,
      nll,
      tokens: sequences.length * (config.seqlen - 1),
      windows: sequences.length,
      seqlen: config.seqlen,
      textSha256: corpus.textSha256,
      text: corpus.description,
      ...(corpus.counts === undefined ? {} : { counts: corpus.counts }),
      seconds: (performance.now() - started) / 1000,
      ...(reference === undefined ? {} : { reference }),
      ...(config.limits === undefined ? {} : { limits: checkLimits(config.limits, { perplexity, reference }) }),
    };
  } catch (error) {
    throw inTemporaryDirectory(error, scratch, SCRATCH_PURPOSE);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function requireRoomFor(spilledBytes: number): Promise<void> {
  if (spilledBytes > 0) await requireTemporaryRoom(spilledBytes, SCRATCH_PURPOSE);
}

async function compareWithReference(
  model: Model,
  evaluated: EvaluatedWindows,
  sequences: readonly Int32Array[],
  place: StatesPlace,
  context: EngineContext,
): Promise<ReferenceComparison> {
  await using reference = await evaluateWindows(model, sequences, place, context);
  return await compareEvaluated(reference, evaluated); // before the reference's files are closed
}

/** How far evaluated windows are from those of a reference. */
export async function compareEvaluated(
  reference: EvaluatedWindows,
  evaluated: EvaluatedWindows,
): Promise<ReferenceComparison> {
  const { klDivergences, agreements } = await measureDivergence(reference, evaluated);
  const differences = evaluated.windowLosses.map((loss, window) => loss - reference.windowLosses[window]);
  return {
    model: reference.model.directory,
    perplexity: Math.exp(estimateMean(reference.windowLosses).value),
    klDivergence: estimateMean(klDivergences),
    top1Agreement: estimateMean(agreements),
    perplexityRatio: exponential(estimateMean(differences)),
  };
}
