/**
 * Text ↔ token ids with the tokenizer that lies beside the model, through Hugging Face's own library.
 *
 * Special tokens are the tokenizer's own default: what its post-processor puts around a text (for Llama, one <s> in
 * front of the whole stream). Nothing here knows windows, samples or perplexity.
 */
import { existsSync, readFileSync, statSync } from "../files/checkpoint-files.js";
import { join } from "node:path";
import { FOREIGN_HEAD_BYTES, refusalOfForeign } from "../checkpoint/foreign-file.js";
import { CalibrationError, CheckpointError, PruneError, ResourceError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";
import { concatenateIds } from "./ids.js";
import { TokenizerFailure, TokenizerLibrary } from "./tokenizer-library.js";

export interface TextTokenizer extends Disposable {
  /** Ids of a whole text, special tokens included. The same as encoding it in one call, whatever its length. */
  encode(text: string): Promise<Int32Array>;
  /** Ids of a text that holds its special tokens itself, as chat templates write it. */
  encodeBare(text: string): Promise<Int32Array>;
  /** What a text to be continued begins with: what is put before any text, else the beginning-of-text token, else nothing. */
  readonly opening: Int32Array;
  /** Ids of the beginning of a text: what comes before it included, what comes after it not. */
  encodeOpening(text: string): Promise<Int32Array>;
  /** The text of ids, special tokens left out. */
  decode(ids: Int32Array): Promise<string>;
  /** Whether an id is a token of texts: one that the tokenizer knows, and not a special one. */
  isOfText(id: number): boolean;
}

/** Characters encoded per call where splitting is exact: bounds the library's memory (190 bytes a character where measured). */
const PIECE_CHARACTERS = 1 << 18;
/** Longest text a tokenizer without a provable split takes: three quarters of a gigabyte in the library's process. */
const LONGEST_UNSPLIT = 4_000_000;

/** Classes of transformers that put <s> in front by `add_bos_token` (default true), whatever tokenizer.json says. */
const BOS_BY_CONFIG = /^(Llama|CodeLlama|Gemma)Tokenizer(Fast)?$/;

/** What is used of the library. */
export type Library = Pick<TokenizerLibrary, "encode" | "decode" | "idOf"> & Disposable;

/**
 * @param load loads the library with a definition
 * @throws CheckpointError E_TOKENIZER_MISSING, E_TOKENIZER when tokenizer.json is absent or the library cannot take it;
 *   ResourceError E_TOKENIZER_LIBRARY where there is no build of the library for this system
 */
export async function loadTokenizer(
  modelDirectory: string,
  load: (definition: string) => Promise<Library> = (definition) => TokenizerLibrary.load(definition),
): Promise<TextTokenizer> {
  const file = join(modelDirectory, "tokenizer.json");
  const definition = readJson(file);
  const configFile = join(modelDirectory, "tokenizer_config.json");
  const config = existsSync(configFile) ? readJson(configFile).values : {};
  requireReproducible(definition.values, file);
  const library = await named(file, () => load(withoutCutting(definition)));
  try {
    const around = await named(file, () => specialTokensAround(library, config));
    const opening = around.before.length > 0 ? around.before : await beginningOfText(library, config);
    return new LibraryTokenizer(library, file, definition.values, { ...around, opening });
  } catch (error) {
    library[Symbol.dispose]();
    throw error;
  }
}

interface SpecialTokens {
  /** Ids that are put before and after any text. */
  readonly before: Int32Array;
  readonly after: Int32Array;
  readonly opening: Int32Array;
}

class LibraryTokenizer implements TextTokenizer {
  readonly opening: Int32Array;
  readonly #library: Library;
  readonly #file: string;
  readonly #definition: Json;
  readonly #special: SpecialTokens;
  readonly #canSplit: boolean;
  #idsOfText: ReadonlySet<number> | undefined;

  constructor(library: Library, file: string, definition: Json, special: SpecialTokens) {
    this.#library = library;
    this.#file = file;
    this.#definition = definition;
    this.#special = special;
    this.opening = special.opening;
    this.#canSplit = splitsBeforeSpaces(definition);
  }

  async encode(text: string): Promise<Int32Array> {
    return concatenateIds([this.#special.before, await this.encodeBare(text), this.#special.after]);
  }

  async encodeBare(text: string): Promise<Int32Array> {
    if (!this.#canSplit && text.length > LONGEST_UNSPLIT) {
      throw new CalibrationError(
        "E_TEXT_TOO_LONG",
        `the text has ${text.length} characters; a tokenizer without a word splitter takes at most ${LONGEST_UNSPLIT}.`,
        { hint: "Pass a part of the text, a file of documents, or token ids in a .safetensors file." },
      );
    }
    const pieces: Int32Array[] = [];
    for (const piece of this.#canSplit ? splitBeforeSpaces(text) : [text]) pieces.push(await this.#encodePiece(piece));
    return concatenateIds(pieces);
  }

  async encodeOpening(text: string): Promise<Int32Array> {
    return concatenateIds([this.opening, await this.#encodePiece(text)]);
  }

  async decode(ids: Int32Array): Promise<string> {
    return ids.length === 0 ? "" : named(this.#file, () => this.#library.decode(ids));
  }

  isOfText(id: number): boolean {
    this.#idsOfText ??= findIdsOfText(this.#definition);
    return this.#idsOfText.has(id);
  }

  [Symbol.dispose](): void {
    this.#library[Symbol.dispose]();
  }

  async #encodePiece(piece: string): Promise<Int32Array> {
    return named(this.#file, () => this.#library.encode(piece));
  }
}

const TOKEN_IDS_HINT =
  "Text needs the tokenizer.json of the model; convert an older tokenizer with transformers' save_pretrained, or pass token ids in a .safetensors file.";

/** What `work` gives; what the library has against it in the user's words. */
async function named<Value>(file: string, work: () => Promise<Value>): Promise<Value> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof TokenizerFailure)) throw cause;
    if (cause.isUnavailable) {
      throw new ResourceError(
        "E_TOKENIZER_LIBRARY",
        `the tokenizers library cannot be loaded on ${process.platform}-${process.arch}: ${cause.message}.`,
        { hint: "Tokenise the text elsewhere and pass token ids in a .safetensors file.", cause },
      );
    }
    throw new CheckpointError("E_TOKENIZER", `${file}: cannot be used as a tokenizer: ${cause.message}.`, {
      hint: TOKEN_IDS_HINT,
      details: { file },
      cause,
    });
  }
}

type Json = Readonly<Record<string, unknown>>;

interface JsonFile {
  readonly text: string;
  readonly values: Json;
}

function readJson(file: string): JsonFile {
  if (!existsSync(file)) {
    throw new CheckpointError("E_TOKENIZER_MISSING", `${file}: no such file.`, {
      hint: TOKEN_IDS_HINT,
      details: { file },
    });
  }
  const problem = (what: string, cause?: unknown): PruneError =>
    new CheckpointError("E_TOKENIZER", `${file}: ${what}.`, { hint: TOKEN_IDS_HINT, details: { file }, cause });
  if (!statSync(file).isFile()) throw problem("is not a regular file");
  const text = readFileSync(file, "utf8");
  let values: unknown;
  try {
    values = parseJson(text);
  } catch (cause) {
    throw (
      refusalOfForeign(file, Buffer.from(text.slice(0, FOREIGN_HEAD_BYTES))) ??
      problem(`not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
    );
  }
  if (!isRecord(values)) throw problem("must hold a JSON object");
  return { text, values };
}

/** A model that drops merges at random gives other ids every time, in every library. */
function requireReproducible({ model }: Json, file: string): void {
  const dropout = isRecord(model) ? (model["dropout"] ?? 0) : 0;
  if (dropout === 0) return;
  throw new CheckpointError("E_TOKENIZER", `${file}: "dropout" is ${JSON.stringify(dropout)}; expected null.`, {
    hint: "Such a tokenizer draws its ids at random; set it to null in a copy.",
    details: { file, key: "dropout", found: dropout },
  });
}

/** Texts are cut here: what a definition says of truncation and padding is what transformers leaves aside as well. */
function withoutCutting({ text, values }: JsonFile): string {
  const { truncation = null, padding = null } = values;
  return truncation === null && padding === null
    ? text
    : JSON.stringify({ ...values, truncation: null, padding: null });
}

/** Ids of the vocabulary and of added tokens that are not special. */
function findIdsOfText({ model, added_tokens }: Json): ReadonlySet<number> {
  const vocabulary = isRecord(model) ? model["vocab"] : undefined;
  const ids = new Set(
    Array.isArray(vocabulary) ? vocabulary.keys() : isRecord(vocabulary) ? Object.values(vocabulary).map(Number) : [],
  );
  for (const token of Array.isArray(added_tokens) ? added_tokens.filter(isRecord) : []) {
    const id = Number(token["id"]);
    if (token["special"] === true) ids.delete(id);
    else ids.add(id);
  }
  return ids;
}

/** Short texts of which one has a token in every vocabulary: what is around it must not be mistaken for it. */
const PROBES = ["a", "A", "0", ".", " ", "的"];

/** The ids that the tokenizer puts before and after any text. */
async function specialTokensAround(library: Library, config: Json): Promise<Pick<SpecialTokens, "before" | "after">> {
  let bare: Int32Array = new Int32Array(0);
  let full: Int32Array = bare;
  for (const probe of PROBES) {
    bare = await library.encode(probe);
    full = await library.encode(probe, true);
    if (bare.length > 0) break;
  }
  const extra = full.length - bare.length;
  let beforeCount = 0;
  while (beforeCount < extra && bare.some((id, i) => id !== full[beforeCount + i])) beforeCount += 1;
  let before = [...full.subarray(0, beforeCount)];
  const after = full.slice(beforeCount + bare.length);

  const { tokenizer_class: tokenizerClass } = config;
  if (typeof tokenizerClass === "string" && BOS_BY_CONFIG.test(tokenizerClass)) {
    const bos = await library.idOf(tokenContent(config["bos_token"]) ?? "<s>");
    const wanted = config["add_bos_token"] !== false;
    if (!wanted) before = before.filter((id) => id !== bos);
    else if (bos !== undefined && !before.includes(bos)) before = [bos, ...before];
  }
  return { before: Int32Array.from(before), after };
}

/** The beginning-of-text token, of tokenizers that have one but do not put it there. */
async function beginningOfText(library: Library, config: Json): Promise<Int32Array> {
  const token = tokenContent(config["bos_token"]);
  const id = token === undefined ? undefined : await library.idOf(token);
  return Int32Array.from(id === undefined ? [] : [id]);
}

/** Special tokens are written as a string or as an object with `content`. */
function tokenContent(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return isRecord(value) && typeof value["content"] === "string" ? value["content"] : undefined;
}

/**
 * Whether cutting a text between a non-space character and a space gives the same ids as not cutting.
 *
 * It does when words are cut out by one of the regular expressions below: none of their alternatives continues over a
 * space after a non-space, none looks behind, and the only look-ahead, \s+(?!\S), is about a run of white space, which
 * such a cut never divides. Added tokens must neither hold nor trim white space, and the normaliser must act on
 * single characters only (none; NFC composes nothing with a preceding space).
 */
function splitsBeforeSpaces(definition: Json): boolean {
  const normalizer = (definition["normalizer"] ?? null) as Json | null;
  if (normalizer !== null && normalizer["type"] !== "NFC") return false;
  const added = (definition["added_tokens"] ?? []) as readonly Json[];
  if (
    added.some((token) => token["lstrip"] === true || token["rstrip"] === true || /\s/.test(String(token["content"])))
  ) {
    return false;
  }
  const preTokenizer = (definition["pre_tokenizer"] ?? null) as Json | null;
  if (preTokenizer === null) return false;
  if (preTokenizer["type"] === "ByteLevel") return isByteLevelWords(preTokenizer);
  if (preTokenizer["type"] !== "Sequence") return false;
  const steps = (preTokenizer["pretokenizers"] ?? []) as readonly Json[];
  const [words, bytes] = steps;
  if (steps.length !== 2 || words === undefined || bytes === undefined) return false;
  const regex = (words["pattern"] as Json | undefined)?.["Regex"];
  return (
    words["type"] === "Split" &&
    words["behavior"] === "Isolated" &&
    SPLITTABLE_WORDS.has(String(regex)) &&
    bytes["type"] === "ByteLevel" &&
    bytes["add_prefix_space"] === false &&
    bytes["use_regex"] === false
  );
}

/** GPT-2's words: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
function isByteLevelWords(step: Json): boolean {
  return step["add_prefix_space"] === false && step["use_regex"] !== false;
}

/** The words of Llama 3 and of Qwen 2. */
const SPLITTABLE_WORDS: ReadonlySet<string> = new Set([
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
]);

function* splitBeforeSpaces(text: string): Generator<string> {
  // U+0085 is white space to the library and not to JavaScript.
  const boundary = /[^\s\u0085](?= )/g;
  let start = 0;
  while (text.length - start > PIECE_CHARACTERS) {
    boundary.lastIndex = start + PIECE_CHARACTERS;
    const found = boundary.exec(text);
    if (found === null) break;
    yield text.slice(start, found.index + 1);
    start = found.index + 1;
  }
  yield text.slice(start);
}
