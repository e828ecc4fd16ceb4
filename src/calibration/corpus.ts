/**
 * Calibration and evaluation sequences by the field's protocols (docs: evaluation and calibration), from text, from
 * documents or from stored token ids. Says which tokens a run sees; what is done with them is others' business.
 */
import { CalibrationError } from "../errors.js";
import type { TokenSource } from "../contract.js";
import { concatenateIds, hashIds } from "./ids.js";
import { MersenneTwister, shuffled } from "./random.js";
import { kindOf } from "./source-kind.js";
import { DocumentFile, readPlainText } from "./text.js";
import { readTokenTensor, type TokenTensor } from "./token-tensor.js";
import { loadTokenizer, type TextTokenizer } from "./tokenizer.js";

export interface TokenSequences {
  /** Token ids, all of the length asked for. */
  readonly sequences: readonly Int32Array[];
  /** Of the ids of all sequences in order, int32, little-endian. */
  readonly sha256: string;
  /** One line for people and reports: source, rule, counts. */
  readonly description: string;
}

export interface CalibrationOptions {
  readonly modelDirectory: string;
  readonly nsamples: number;
  readonly seqlen: number;
  readonly seed: number;
  readonly vocabSize: number;
  /** Ids of texts by file, for a caller that reads the same text twice: what is there is taken, what is not is added. */
  readonly encoded?: Map<string, Int32Array>;
}

export interface EvaluationOptions {
  readonly modelDirectory: string;
  readonly seqlen: number;
  readonly vocabSize: number;
  readonly maxWindows?: number;
}

/** C4's validation text in the papers' code: the first 1100 documents, of which 256 windows are kept. */
const EVALUATION_DOCUMENTS = 1100;
const EVALUATION_DOCUMENT_WINDOWS = 256;

/** Give up after so many documents in a row that were too short; C4 needs about 30 at 2048 tokens. */
const LARGEST_REJECTION_RUN = 20_000;

/**
 * The calibration sequences of a run.
 *
 * - plain text: the whole text tokenised once, `nsamples` windows of `seqlen` at random places (the WikiText-2 variant).
 * - documents: the C4 rule: draw a document until one is longer than `seqlen`, then a random window of it.
 * - token ids: the first `nsamples` rows of an integer tensor [sequences, tokens], each cut to `seqlen`.
 *
 * Random numbers are Python's (`MersenneTwister`), in the order in which the papers' code draws them.
 * @throws CalibrationError when the source is missing, malformed, too short, or holds an id outside the vocabulary
 */
export async function loadCalibration(source: TokenSource, options: CalibrationOptions): Promise<TokenSequences> {
  const { nsamples, seqlen } = options;
  const kind = await kindOf(source.file);
  if (kind === "ids") {
    const tensor = await readTokenTensor(source);
    if (tensor.columns < seqlen) throw rowsTooShort(nameOf(source, tensor), tensor.columns, seqlen);
    const sequences = tensor.rows.slice(0, nsamples).map((row) => row.slice(0, seqlen));
    const fewer = sequences.length < nsamples ? ` (fewer than the ${nsamples} asked for)` : "";
    const size = `first ${sequences.length} rows${fewer}, ${seqlen} of ${tensor.columns} tokens each`;
    return finish(sequences, `${nameOf(source, tensor)}: ${size}`, source.file, options.vocabSize);
  }
  using tokenizer = await loadTokenizer(options.modelDirectory);
  const random = new MersenneTwister(options.seed);
  const sequences =
    kind === "text"
      ? await sampleText(source.file, tokenizer, random, options)
      : await sampleDocuments(source.file, tokenizer, random, options);
  const rule = kind === "text" ? "random windows of the text" : "random windows of random documents";
  return finish(
    sequences,
    `${source.file}: ${nsamples} ${rule}, ${seqlen} tokens each, seed ${options.seed}`,
    source.file,
    options.vocabSize,
  );
}

/**
 * The evaluation windows of the field's perplexity: the text tokenised once with the tokenizer's own special tokens,
 * cut into non-overlapping windows of `seqlen`, the remainder dropped.
 *
 * Documents (.jsonl) follow the C4 rule: the first 1100 joined by one space, the first 256 windows. Stored ids
 * [windows, seqlen] are taken row by row; rows of another length are first joined end to end and cut like a text.
 * @throws CalibrationError as `loadCalibration`
 */
export async function loadEvaluation(
  source: TokenSource,
  options: EvaluationOptions,
): Promise<TokenSequences & { readonly textSha256: string }> {
  const { seqlen, vocabSize } = options;
  const stream = await readEvaluationStream(source, options);
  const available = Math.min(Math.floor(stream.ids.length / seqlen), stream.mostWindows);
  if (available === 0) throw tooShort(source.file, stream.ids.length, seqlen, seqlen);
  const windows = Math.min(available, options.maxWindows ?? available);
  const sequences = Array.from({ length: windows }, (_, w) => stream.ids.slice(w * seqlen, (w + 1) * seqlen));
  const of = windows < available ? `first ${windows} of ${available}` : `${windows}`;
  const description = `${stream.description}: ${of} windows of ${seqlen} tokens`;
  return { ...finish(sequences, description, source.file, vocabSize), textSha256: stream.sha256 };
}

/** Token ids to train on, which are cut into windows anew for every pass (training-windows.ts). */
export interface TrainingTokens {
  readonly ids: Int32Array;
  /** Whether windows may begin anywhere; else they are the rows that were stored. */
  readonly isContinuous: boolean;
  /** Of the ids, int32, little-endian. */
  readonly sha256: string;
  readonly description: string;
}

/**
 * What a model is trained on: a text as a whole; documents in an order drawn from the seed, one after the other, until there
 * are `tokens` of them; or all rows of stored ids, each cut to `seqlen`.
 * @throws CalibrationError as `loadCalibration`
 */
export async function loadTrainingTokens(
  source: TokenSource,
  {
    modelDirectory,
    seqlen,
    seed,
    vocabSize,
    tokens,
    encoded,
  }: Omit<CalibrationOptions, "nsamples"> & { readonly tokens: number },
): Promise<TrainingTokens> {
  const finished = (ids: Int32Array, description: string, isContinuous: boolean): TrainingTokens => {
    if (ids.length < seqlen) throw tooShort(source.file, ids.length, seqlen, seqlen);
    const { sha256 } = finish([ids], description, source.file, vocabSize);
    return { ids, isContinuous, sha256, description };
  };
  const kind = await kindOf(source.file);
  if (kind === "ids") {
    const tensor = await readTokenTensor(source);
    if (tensor.columns < seqlen) throw rowsTooShort(nameOf(source, tensor), tensor.columns, seqlen);
    const ids = concatenateIds(tensor.rows.map((row) => row.slice(0, seqlen)));
    return finished(ids, `${nameOf(source, tensor)}: all ${tensor.rows.length} rows`, false);
  }
  using tokenizer = await loadTokenizer(modelDirectory);
  if (kind === "text") return finished(await encodeText(source.file, tokenizer, encoded), source.file, true);
  const documents = await DocumentFile.open(source.file);
  try {
    const order = shuffled([...Array(documents.count).keys()], new MersenneTwister(seed));
    const taken: Int32Array[] = [];
    for (let total = 0; total < tokens && taken.length < order.length; total += taken.at(-1)?.length ?? 0)
      taken.push(await tokenizer.encode(await documents.read(order[taken.length] as number)));
    return finished(concatenateIds(taken), `${source.file}: ${taken.length} documents`, true);
  } finally {
    await documents.close();
  }
}

interface EvaluationStream {
  readonly ids: Int32Array;
  readonly sha256: string;
  readonly description: string;
  readonly mostWindows: number;
}

async function readEvaluationStream(source: TokenSource, options: EvaluationOptions): Promise<EvaluationStream> {
  const kind = await kindOf(source.file);
  if (kind === "ids") {
    const tensor = await readTokenTensor(source);
    const ids = concatenateIds(tensor.rows);
    const asStored = tensor.columns === options.seqlen ? "as stored" : `rows of ${tensor.columns} joined`;
    return {
      ids,
      sha256: hashIds([ids]),
      description: `${nameOf(source, tensor)} (${asStored})`,
      mostWindows: Infinity,
    };
  }
  using tokenizer = await loadTokenizer(options.modelDirectory);
  if (kind === "text") {
    const { text, sha256 } = readPlainText(source.file);
    return { ids: await tokenizer.encode(text), sha256, description: source.file, mostWindows: Infinity };
  }
  const documents = await DocumentFile.open(source.file);
  try {
    const texts: string[] = [];
    for (let i = 0; i < Math.min(documents.count, EVALUATION_DOCUMENTS); i++) texts.push(await documents.read(i));
    const description = `${source.file} (first ${texts.length} documents joined by a space)`;
    const ids = await tokenizer.encode(texts.join(" "));
    return { ids, sha256: documents.sha256, description, mostWindows: EVALUATION_DOCUMENT_WINDOWS };
  } finally {
    await documents.close();
  }
}

async function encodeText(
  file: string,
  tokenizer: TextTokenizer,
  encoded: CalibrationOptions["encoded"],
): Promise<Int32Array> {
  const ids = encoded?.get(file) ?? (await tokenizer.encode(readPlainText(file).text));
  encoded?.set(file, ids);
  return ids;
}

async function sampleText(
  file: string,
  tokenizer: TextTokenizer,
  random: MersenneTwister,
  { nsamples, seqlen, encoded }: CalibrationOptions,
): Promise<Int32Array[]> {
  const ids = await encodeText(file, tokenizer, encoded);
  // randint(0, n - seqlen - 1) is empty for a text of exactly one window: the papers' code needs one token more.
  if (ids.length <= seqlen) throw tooShort(file, ids.length, seqlen, seqlen + 1);
  return Array.from({ length: nsamples }, () => randomWindow(ids, seqlen, random));
}

async function sampleDocuments(
  file: string,
  tokenizer: TextTokenizer,
  random: MersenneTwister,
  { nsamples, seqlen }: CalibrationOptions,
): Promise<Int32Array[]> {
  const documents = await DocumentFile.open(file);
  try {
    const tooShortLengths = new Map<number, number>();
    const sequences: Int32Array[] = [];
    let rejections = 0;
    while (sequences.length < nsamples) {
      const drawn = random.randomInteger(0, documents.count - 1);
      const ids = tooShortLengths.has(drawn) ? undefined : await tokenizer.encode(await documents.read(drawn));
      if (ids !== undefined && ids.length > seqlen) {
        sequences.push(randomWindow(ids, seqlen, random));
        rejections = 0;
        continue;
      }
      if (ids !== undefined) tooShortLengths.set(drawn, ids.length);
      rejections += 1;
      if (tooShortLengths.size === documents.count || rejections === LARGEST_REJECTION_RUN) {
        const longest = [...tooShortLengths.values()].reduce((a, b) => Math.max(a, b), 0);
        throw tooShort(`${file}: longest of ${tooShortLengths.size} documents`, longest, seqlen, seqlen + 1);
      }
    }
    return sequences;
  } finally {
    await documents.close();
  }
}

function randomWindow(ids: Int32Array, seqlen: number, random: MersenneTwister): Int32Array {
  const start = random.randomInteger(0, ids.length - seqlen - 1);
  return ids.slice(start, start + seqlen);
}

function finish(
  sequences: readonly Int32Array[],
  description: string,
  file: string,
  vocabSize: number,
): TokenSequences {
  sequences.forEach((sequence, row) => {
    const position = sequence.findIndex((id) => id < 0 || id >= vocabSize);
    if (position === -1) return;
    const value = sequence[position];
    throw new CalibrationError(
      "E_TOKEN_ID",
      `${file}: token id ${value} at sequence ${row}, position ${position} is outside the model's vocabulary of ${vocabSize}.`,
      {
        hint: "Use the ids or the tokenizer of this model.",
        details: { file, value, sequence: row, position, vocabSize },
      },
    );
  });
  return { sequences, description, sha256: hashIds(sequences) };
}

function tooShort(where: string, tokens: number, seqlen: number, needed: number): CalibrationError {
  return new CalibrationError(
    "E_TEXT_TOO_SHORT",
    `${where}: ${tokens} tokens; one window of ${seqlen} needs at least ${needed}.`,
    { hint: "Use a longer text, or a smaller --seqlen.", details: { tokens, seqlen, needed } },
  );
}

function rowsTooShort(where: string, columns: number, seqlen: number): CalibrationError {
  return new CalibrationError("E_TOKEN_ROWS", `${where}: rows of ${columns} tokens; --seqlen asks for ${seqlen}.`, {
    hint: `Pass --seqlen ${columns} or less, or leave it out.`,
    details: { columns, seqlen },
  });
}

function nameOf(source: TokenSource, tensor: TokenTensor): string {
  return `${source.file}#${tensor.name}`;
}
