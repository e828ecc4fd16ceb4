/**
 * Calibration data from the model itself: sequences that it makes from a drawn token on, streamed like the rest. A start, a
 * few tokens greedily, then sampled ones, as self-generated calibration data are made in Shin et al. 2024,
 * arXiv:2406.15524, appendix C, and in LLM-QAT, Liu et al. 2023, arXiv:2305.17888; languages are not told apart.
 */
import { existsSync } from "../files/checkpoint-files.js";
import { join } from "node:path";
import { concatenateIds, hashIds } from "../calibration/ids.js";
import { loadTokenizer } from "../calibration/tokenizer.js";
import { nameOutput } from "../checkpoint/output-place.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { GenerationConfig, GenerationReport } from "../contract.js";
import { blockBytes, projectionBytes } from "../forward/held-weights.js";
import { sequenceCacheBytes, StepRunner } from "../forward/step-runner.js";
import { requirePositions } from "../model/architecture.js";
import { readGenerationDefaults, type GenerationDefaults } from "../model/generation-config.js";
import { openModel, type Model } from "../model/open-model.js";
import { OutputLock } from "../files/lock.js";
import { checkOutputFile, encodeDocuments, encodeRows, encodeText, writeWhole } from "./output.js";
import type { Sampling } from "./sampling.js";
import { growSequences, type Grown } from "./sequences.js";
import { drawnStart, promptedStart, type Start } from "./starts.js";

/** Where neither an option nor the model says otherwise. */
const DEFAULTS: Sampling = { temperature: 1, topK: 50, topP: 1 };
/** Tokens after the start that are the most probable ones, as the option's default has it. */
const GREEDY_TOKENS = 4;

/** Sample from a checkpoint and write what came out. */
export async function generateCalibration(config: GenerationConfig, context: EngineContext): Promise<GenerationReport> {
  const started = performance.now();
  const { out, nsamples, seqlen, seed, greedyTokens } = config;
  await using _lock = await OutputLock.take((await nameOutput(out)).out);
  checkOutputFile(out, config.force);
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  const { architecture } = model;
  requirePositions(architecture, seqlen);
  const defaults = readGenerationDefaults(config.model, model.config);
  const sampling = chooseSampling(config, defaults, context);
  const isIds = out.toLowerCase().endsWith(".safetensors");
  const needsTokenizer = !isIds || config.prompts !== undefined || existsSync(join(config.model, "tokenizer.json"));
  using tokenizer = needsTokenizer ? await loadTokenizer(config.model) : undefined;
  const { beginToken, endTokens } = defaults;
  const start =
    config.prompts === undefined || tokenizer === undefined
      ? drawnStart(architecture.vocabularySize, tokenizer, { beginToken, endTokens })
      : await promptedStart(config.prompts, tokenizer, seqlen);

  const share = shareMemory(model, config);
  const growth = { nsamples, seqlen, seed, greedyTokens, sampling, endTokens, start, isIds };
  const { grown, passes, blocksInMemory } = await grow(model, share, growth, context);
  const written = isIds ? cutRows(grown, nsamples, seqlen) : grown.sequences;
  const texts =
    isIds || tokenizer === undefined ? [] : await Promise.all(written.map(async (ids) => tokenizer.decode(ids)));
  const bytes = isIds
    ? encodeRows(written)
    : out.toLowerCase().endsWith(".txt")
      ? encodeText(texts)
      : encodeDocuments(texts);
  await writeWhole(out, bytes);
  const ended = grown.sequences.filter((ids) => endTokens.includes(ids.at(-1) as number)).length;
  return {
    schema: "prune.generate-calibration/v1",
    out,
    model: config.model,
    sequences: written.length,
    tokens: sumOf(written.map((ids) => ids.length)),
    seqlen,
    sha256: hashIds(written),
    sampling: { seed, ...sampling, greedyTokens, endTokens },
    ended,
    batchSize: share.rows,
    blocksInMemory,
    blocks: architecture.blocks.length,
    passes,
    generatedTokens: grown.generated,
    seconds: (performance.now() - started) / 1000,
  };
}

/** Room for keys and values of the sequences that a run samples to calibrate on. */
const OWN_CACHE_BYTES = 2 ** 30;

/**
 * Full rows of token ids that the model samples, with the settings that `generateCalibration` takes where nothing is said. How
 * many grow at a time the model decides, not the memory: whoever repeats or resumes a run must draw the same.
 */
export async function sampleRows(
  model: Model,
  { nsamples, seqlen, seed, memoryBytes }: Pick<GenerationConfig, "nsamples" | "seqlen" | "seed" | "memoryBytes">,
  context: EngineContext,
): Promise<{ readonly rows: Int32Array[]; readonly description: string }> {
  const { architecture, directory } = model;
  const defaults = readGenerationDefaults(directory, model.config);
  const asked = { temperature: undefined, topK: undefined, topP: undefined };
  const sampling = chooseSampling(asked, defaults, context);
  const { beginToken, endTokens } = defaults;
  using tokenizer = existsSync(join(directory, "tokenizer.json")) ? await loadTokenizer(directory) : undefined;
  const start = drawnStart(architecture.vocabularySize, tokenizer, { beginToken, endTokens });
  const most = Math.floor(OWN_CACHE_BYTES / sequenceCacheBytes(model, seqlen));
  const batchSize = Math.max(1, Math.min(nsamples, most));
  const share = shareMemory(model, { nsamples, seqlen, batchSize, memoryBytes });
  const growth = { nsamples, seqlen, seed, greedyTokens: GREEDY_TOKENS, sampling, endTokens, start, isIds: true };
  const { grown } = await grow(model, share, growth, context);
  const { temperature, topK, topP } = sampling;
  const rule = `temperature ${temperature}, top-k ${topK}, top-p ${topP}, seed ${seed}`;
  return {
    rows: cutRows(grown, nsamples, seqlen),
    description: `${nsamples} rows of ${seqlen} tokens that the model sampled (${rule})`,
  };
}

interface Growth extends Pick<GenerationConfig, "nsamples" | "seqlen" | "seed" | "greedyTokens"> {
  readonly sampling: Sampling;
  readonly endTokens: readonly number[];
  readonly start: Start;
  /** Whether full rows are wanted instead of sequences. */
  readonly isIds: boolean;
}

async function grow(
  model: Model,
  share: ReturnType<typeof shareMemory>,
  { nsamples, seqlen, endTokens, isIds, ...growth }: Growth,
  context: EngineContext,
): Promise<{ readonly grown: Grown; readonly passes: number; readonly blocksInMemory: number }> {
  if (share.weightBytes < weightBytes(model))
    context.logger.info("the weights do not fit in --memory: those beyond it are read again for every token", {
      ...share,
    });
  await using runner = await StepRunner.open(model, { ...share, tokens: seqlen });
  let passes = 0;
  const total = nsamples * seqlen;
  const grown = await growSequences(runner, {
    ...growth,
    endTokens: new Set(endTokens),
    seqlen,
    rows: share.rows,
    target: isIds ? { tokens: total } : { sequences: nsamples },
    onBlock: () => throwIfStopped(context, false),
    onPass(lengths) {
      passes++;
      const done = Math.min(total, sumOf(lengths));
      context.emit({ type: "tokens", done, total, fraction: done / total });
    },
  });
  return { grown, passes, blocksInMemory: runner.weights.blocks.count };
}

/** What an option says, else the model, else the default; what the model said is told. */
function chooseSampling(
  config: Pick<GenerationConfig, keyof Sampling>,
  defaults: GenerationDefaults,
  context: EngineContext,
): Sampling {
  const chosen = (key: keyof Sampling): number => config[key] ?? defaults[key] ?? DEFAULTS[key];
  const own = (["temperature", "topK", "topP"] as const).filter(
    (key) => config[key] === undefined && defaults[key] !== undefined && defaults[key] !== DEFAULTS[key],
  );
  for (const key of own)
    context.logger.info(`${key} ${defaults[key]}, not ${DEFAULTS[key]}: the model's generation_config.json`);
  return { temperature: chosen("temperature"), topK: chosen("topK"), topP: chosen("topP") };
}

function weightBytes(model: Model): number {
  return projectionBytes(model) + sumOf(model.architecture.blocks.map(blockBytes));
}

/**
 * How the memory is shared. Sequences that grow together pay for one pass over the weights, so they come first, up to what
 * weights that all fit leave or half of the memory; weights have the rest.
 */
function shareMemory(
  model: Model,
  {
    nsamples,
    seqlen,
    batchSize,
    memoryBytes,
  }: Pick<GenerationConfig, "nsamples" | "seqlen" | "batchSize" | "memoryBytes">,
): { readonly rows: number; readonly weightBytes: number } {
  const perSequence = sequenceCacheBytes(model, seqlen);
  const forSequences = Math.max(memoryBytes / 2, memoryBytes - weightBytes(model));
  const rows = batchSize ?? Math.max(1, Math.min(nsamples, Math.floor(forSequences / perSequence)));
  return { rows, weightBytes: Math.max(0, memoryBytes - rows * perSequence) };
}

/** Sequences joined and cut so that every row is full. */
function cutRows({ sequences }: Grown, nsamples: number, seqlen: number): Int32Array[] {
  const ids = concatenateIds(sequences);
  return Array.from({ length: nsamples }, (_, row) => ids.slice(row * seqlen, (row + 1) * seqlen));
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
