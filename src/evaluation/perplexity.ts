/**
 * Perplexity by the field's protocol: the text tokenised once, cut into non-overlapping windows of `seqlen`, the mean
 * negative log likelihood of every token but a window's first, exponentiated. Streams block by block like the rest.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { freemem } from "node:os";
import { join } from "node:path";
import { loadEvaluation, type TokenSequences } from "../calibration/corpus.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { EvaluationConfig, EvaluationReport } from "../contract.js";
import { CheckpointError } from "../errors.js";
import { readBlockWeights, sequencesPerRun } from "../model/block-weights.js";
import { embedTokens } from "../model/embedding.js";
import { BlockRunner } from "../model/forward.js";
import { applyFinalNorm, nextTokenLosses } from "../model/head.js";
import { HiddenStates } from "../model/hidden-states.js";
import { openModel, type Model } from "../model/open-model.js";

/** Share of the free memory that hidden states may take before they go to a scratch file. */
const MEMORY_SHARE = 0.5;

/** Hidden states of all windows after the last block. */
export async function forwardModel(
  model: Model,
  sequences: readonly Int32Array[],
  states: HiddenStates,
  context: EngineContext,
): Promise<void> {
  const { blocks } = model.architecture;
  const batch = sequencesPerRun(states.tokens);
  await using runner = new BlockRunner(model.architecture);
  await embedTokens(model, sequences, states);
  let weights = new Map<string, Float32Array>();
  for (const block of blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    for (let first = 0; first < states.sequences; first += batch) {
      const count = Math.min(batch, states.sequences - first);
      const { hidden } = await runner.run(block, weights, await states.read(first, count), count, states.tokens, {
        hidden: true,
        taps: undefined,
      });
      if (hidden !== undefined) await states.write(first, hidden);
      throwIfStopped(context, false);
    }
    context.emit({
      type: "windows",
      done: Math.round(((block.index + 1) / (blocks.length + 1)) * sequences.length),
      total: sequences.length,
    });
  }
}

/** Evaluate a checkpoint directory on a text or on token ids. */
export async function evaluatePerplexity(config: EvaluationConfig, context: EngineContext): Promise<EvaluationReport> {
  const started = performance.now();
  await using model = await openModel(config.model);
  const corpus: TokenSequences & { readonly textSha256: string } = await loadEvaluation(config.text, {
    modelDirectory: config.model,
    seqlen: config.seqlen,
    vocabSize: model.architecture.vocabularySize,
    ...(config.maxWindows === undefined ? {} : { maxWindows: config.maxWindows }),
  });
  const { sequences } = corpus;
  const scratch = await mkdtemp(join(tmpdir(), "prune-eval-"));
  try {
    await using states = await HiddenStates.create({
      sequences: sequences.length,
      tokens: config.seqlen,
      hiddenSize: model.architecture.hiddenSize,
      memoryBytes: freemem() * MEMORY_SHARE,
      scratchFile: join(scratch, "hidden-states.bin"),
    });
    await forwardModel(model, sequences, states, context);
    const batch = sequencesPerRun(config.seqlen);
    await applyFinalNorm(model, states, batch);
    const losses = await nextTokenLosses(model, states, sequences, batch);
    context.emit({ type: "windows", done: sequences.length, total: sequences.length });
    const tokens = sequences.length * (config.seqlen - 1);
    const nll = losses.reduce((sum, window) => sum + window.reduce((inner, loss) => inner + loss, 0), 0) / tokens;
    if (Number.isNaN(nll)) {
      throw new CheckpointError(
        "E_NON_FINITE_LOGITS",
        `${config.model}: the forward gives NaN; the checkpoint holds non-finite weights or overflows.`,
        {
          hint: "Check the dense model the same way; if that is finite, the pruned checkpoint is damaged.",
          details: { model: config.model },
        },
      );
    }
    return {
      schema: "prune.eval/v1",
      model: config.model,
      perplexity: Math.exp(nll),
      nll,
      tokens,
      windows: sequences.length,
      seqlen: config.seqlen,
      textSha256: corpus.textSha256,
      text: corpus.description,
      seconds: (performance.now() - started) / 1000,
    };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
