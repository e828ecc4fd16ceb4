/**
 * Calibration and evaluation sequences by the field's protocols (docs: evaluation and calibration), from text, from
 * documents or from stored token ids. Says which tokens a run sees; what is done with them is others' business.
 */
import { CalibrationError } from "../errors.js";
import type { TextCounts, TokenSource } from "../contract.js";
import type { Document, Documents } from "./documents.js";
import { concatenateIds, hashIds } from "./ids.js";
import { MersenneTwister, shuffled } from "./random.js";
import { openTextSource, type TextSource } from "./text-source.js";
import { readTokenTensor, type TokenTensor } from "./token-tensor.js";
import { loadTokenizer, type TextTokenizer } from "./tokenizer.js";

export interface TokenSequences {
  /** Token ids, all of the length asked for. */
  readonly sequences: readonly Int32Array[];
  /** Of the ids of all sequences in order, int32, little-endian. */
  readonly sha256: string;
  /** One line for people and reports: source, rule, counts. */
  readonly description: string;
  /** Absent for stored ids. */
  readonly counts?: TextCounts;
}

export interface CalibrationOptions {
  readonly modelDirectory: string;
  /** The field of records that holds the text or the messages. */
  readonly textField?: string | undefined;
  readonly nsamples: number;
  readonly seqlen: number;
  readonly seed: number;
  readonly vocabSize: number;
  /** Ids of texts by file, for a caller that reads the same text twice: what is there is taken, what is not is added. */
  readonly encoded?: Map<string, Int32Array>;
}

export interface EvaluationOptions {
  readonly modelDirectory: string;
  readonly textField?: string | undefined;
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
 * - a text: the whole of it tokenised once, `nsamples` windows of `seqlen` at random places (the WikiText-2 variant).
 * - documents: the C4 rule: draw a document until one is longer than `seqlen`, then a random window of it.
 * - token ids: the first `nsamples` rows of an integer tensor [sequences, tokens], each cut to `seqlen`.
 *
 * Random numbers are Python's (`MersenneTwister`), in the order in which the papers' code draws them.
 * @throws CalibrationError when the source is missing, malformed, too short, or holds an id outside the vocabulary
 */
export async function loadCalibration(source: TokenSource, options: CalibrationOptions): Promise<TokenSequences> {
  const { nsamples, seqlen } = options;
  const opened = await openTextSource(source, "calibration", options);
  if (opened.kind === "ids") {
    const tensor = await readTokenTensor(source);
    if (tensor.columns < seqlen) throw rowsTooShort(nameOf(source, tensor), tensor.columns, seqlen);
    const sequences = tensor.rows.slice(0, nsamples).map((row) => row.slice(0, seqlen));
    const fewer = sequences.length < nsamples ? ` (fewer than the ${nsamples} asked for)` : "";
    const size = `first ${sequences.length} rows${fewer}, ${seqlen} of ${tensor.columns} tokens each`;
    return finish(sequences, `${nameOf(source, tensor)}: ${size}`, source.file, options.vocabSize);
  }
  using tokenizer = await loadTokenizer(options.modelDirectory);
  const random = new MersenneTwister(options.seed);
  const { sequences, counts } =
    opened.kind === "text"
      ? await sampleText(opened, source, tokenizer, random, options)
      : await sampleDocuments(opened.documents, source, tokenizer, random, options);
  const rule = opened.kind === "text" ? "random windows of the text" : "random windows of random documents";
  const description = `${titleOf(source)}: ${nsamples} ${rule}, ${seqlen} tokens each, seed ${options.seed}`;
  return { ...finish(sequences, description, source.file, options.vocabSize), counts };
}

/**
 * The evaluation windows of the field's perplexity: the text tokenised once with the tokenizer's own special tokens,
 * cut into non-overlapping windows of `seqlen`, the remainder dropped.
 *
 * Documents follow the C4 rule: the first 1100 joined by one space, the first 256 windows. Stored ids
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
  if (available === 0) throw tooShort(titleOf(source), stream.ids.length, seqlen, seqlen);
  const windows = Math.min(available, options.maxWindows ?? available);
  const sequences = Array.from({ length: windows }, (_, w) => stream.ids.slice(w * seqlen, (w + 1) * seqlen));
  const of = windows < available ? `first ${windows} of ${available}` : `${windows}`;
  const description = `${stream.description}: ${of} windows of ${seqlen} tokens`;
  const { counts } = stream;
  return {
    ...finish(sequences, description, source.file, vocabSize),
    textSha256: stream.sha256,
    ...(counts === undefined ? {} : { counts }),
  };
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
  options: Omit<CalibrationOptions, "nsamples"> & { readonly tokens: number },
): Promise<TrainingTokens> {
  const { modelDirectory, seqlen, seed, vocabSize, tokens, encoded } = options;
  const finished = (ids: Int32Array, description: string, isContinuous: boolean): TrainingTokens => {
    if (ids.length < seqlen) throw tooShort(titleOf(source), ids.length, seqlen, seqlen);
    const { sha256 } = finish([ids], description, source.file, vocabSize);
    return { ids, isContinuous, sha256, description };
  };
  const opened = await openTextSource(source, "calibration", options);
  if (opened.kind === "ids") {
    const tensor = await readTokenTensor(source);
    if (tensor.columns < seqlen) throw rowsTooShort(nameOf(source, tensor), tensor.columns, seqlen);
    const ids = concatenateIds(tensor.rows.map((row) => row.slice(0, seqlen)));
    return finished(ids, `${nameOf(source, tensor)}: all ${tensor.rows.length} rows`, false);
  }
  using tokenizer = await loadTokenizer(modelDirectory);
  if (opened.kind === "text")
    return finished(await encodeText(opened, source, tokenizer, encoded), titleOf(source), true);
  await using documents = opened.documents;
  const order = shuffled([...Array(documents.count).keys()], new MersenneTwister(seed));
  const taken: Int32Array[] = [];
  for (let total = 0; total < tokens && taken.length < order.length; total += taken.at(-1)?.length ?? 0)
    taken.push(await encodeDocument(await documents.read(order[taken.length] as number), tokenizer));
  return finished(concatenateIds(taken), `${titleOf(source)}: ${taken.length} documents`, true);
}

interface EvaluationStream {
  readonly ids: Int32Array;
  readonly sha256: string;
  readonly description: string;
  readonly mostWindows: number;
  readonly counts?: TextCounts;
}

async function readEvaluationStream(source: TokenSource, options: EvaluationOptions): Promise<EvaluationStream> {
  const opened = await openTextSource(source, "evaluation", options);
  if (opened.kind === "ids") {
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
  if (opened.kind === "text") {
    const { text, sha256 } = opened;
    const ids = await tokenizer.encode(text);
    return { ids, sha256, description: titleOf(source), mostWindows: Infinity, counts: countsOfText(opened, ids) };
  }
  await using documents = opened.documents;
  const first: Document[] = [];
  for (let i = 0; i < Math.min(documents.count, EVALUATION_DOCUMENTS); i++) first.push(await documents.read(i));
  const text = first.map((document) => document.text).join(" ");
  const ids = await encodeDocument({ text, isChat: first.some(({ isChat }) => isChat) }, tokenizer);
  return {
    ...{ ids, sha256: documents.sha256, mostWindows: EVALUATION_DOCUMENT_WINDOWS },
    description: `${titleOf(source)} (first ${first.length} documents joined by a space)`,
    counts: { ...countsOfDocuments(documents), tokens: ids.length, tooShort: 0 },
  };
}

type OneText = Extract<TextSource, { readonly kind: "text" }>;

async function encodeText(
  { text }: OneText,
  { file }: TokenSource,
  tokenizer: TextTokenizer,
  encoded: CalibrationOptions["encoded"],
): Promise<Int32Array> {
  const ids = encoded?.get(file) ?? (await tokenizer.encode(text));
  encoded?.set(file, ids);
  return ids;
}

/** What a chat template wrote has its special tokens in it. */
async function encodeDocument({ text, isChat }: Document, tokenizer: TextTokenizer): Promise<Int32Array> {
  return isChat ? tokenizer.encodeBare(text) : tokenizer.encode(text);
}

function countsOfText({ text, rows }: OneText, ids: Int32Array): TextCounts {
  const texts = rows?.count ?? 1;
  const empty = rows?.empty ?? (text.trim() === "" ? 1 : 0);
  return { texts, tokens: ids.length, empty, withoutField: 0, tooShort: 0 };
}

function countsOfDocuments({ count, empty, withoutField }: Documents): Omit<TextCounts, "tokens" | "tooShort"> {
  return { texts: count, empty, withoutField };
}

interface Sampled {
  readonly sequences: Int32Array[];
  readonly counts: TextCounts;
}

async function sampleText(
  opened: OneText,
  source: TokenSource,
  tokenizer: TextTokenizer,
  random: MersenneTwister,
  { nsamples, seqlen, encoded }: CalibrationOptions,
): Promise<Sampled> {
  const ids = await encodeText(opened, source, tokenizer, encoded);
  // randint(0, n - seqlen - 1) is empty for a text of exactly one window: the papers' code needs one token more.
  if (ids.length <= seqlen) throw tooShort(titleOf(source), ids.length, seqlen, seqlen + 1);
  const sequences = Array.from({ length: nsamples }, () => randomWindow(ids, seqlen, random));
  return { sequences, counts: countsOfText(opened, ids) };
}

async function sampleDocuments(
  opened: Documents,
  source: TokenSource,
  tokenizer: TextTokenizer,
  random: MersenneTwister,
  { nsamples, seqlen }: CalibrationOptions,
): Promise<Sampled> {
  await using documents = opened;
  const lengths = new Map<number, number>(); // of the documents that were tokenised
  const tooShortOnes = new Set<number>();
  const sequences: Int32Array[] = [];
  let rejections = 0;
  while (sequences.length < nsamples) {
    const drawn = random.randomInteger(0, documents.count - 1);
    if (!tooShortOnes.has(drawn)) {
      const ids = await encodeDocument(await documents.read(drawn), tokenizer);
      lengths.set(drawn, ids.length);
      if (ids.length > seqlen) {
        sequences.push(randomWindow(ids, seqlen, random));
        rejections = 0;
        continue;
      }
      tooShortOnes.add(drawn);
    }
    rejections += 1;
    if (tooShortOnes.size === documents.count || rejections === LARGEST_REJECTION_RUN) {
      const longest = [...tooShortOnes].reduce((most, each) => Math.max(most, lengths.get(each) ?? 0), 0);
      throw tooShort(`${titleOf(source)}: longest of ${tooShortOnes.size} documents`, longest, seqlen, seqlen + 1);
    }
  }
  const tokens = [...lengths.values()].reduce((sum, length) => sum + length, 0);
  return { sequences, counts: { ...countsOfDocuments(documents), tokens, tooShort: tooShortOnes.size } };
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

/** How descriptions name a source. */
function titleOf({ file, set, name = file }: TokenSource): string {
  const title = name === "-" ? "standard input" : name;
  return set === undefined ? title : `${set} (${title})`;
}

function nameOf(source: TokenSource, tensor: TokenTensor): string {
  return `${source.file}#${tensor.name}`;
}
