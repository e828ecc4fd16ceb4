/**
 * Text ↔ token ids with the tokenizer that lies beside the model, through @huggingface/tokenizers.
 *
 * Special tokens are the tokenizer's own default: what its post-processor puts around a text (for Llama, one <s> in
 * front of the whole stream). Nothing here knows windows, samples or perplexity.
 */
import { existsSync, readFileSync } from "../files/checkpoint-files.js";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { CalibrationError, CheckpointError } from "../errors.js";
import { concatenateIds } from "./ids.js";

export interface TextTokenizer {
  /** Ids of a whole text, special tokens included. The same as encoding it in one call, whatever its length. */
  encode(text: string): Int32Array;
  /** What a text to be continued begins with: what is put before any text, else the beginning-of-text token, else nothing. */
  readonly opening: Int32Array;
  /** Ids of the beginning of a text: what comes before it included, what comes after it not. */
  encodeOpening(text: string): Int32Array;
  /** The text of ids, special tokens left out. */
  decode(ids: Int32Array): string;
  /** Whether an id is a token of texts: one that the tokenizer knows, and not a special one. */
  isOfText(id: number): boolean;
}

/** Characters encoded per call where splitting is exact: bounds the library's memory (55 bytes a character where measured). */
const PIECE_CHARACTERS = 1 << 18;
/** Longest text a tokenizer without a provable split takes: its linked lists took 230 bytes a character where measured. */
const LONGEST_UNSPLIT = 4_000_000;

/** Classes of transformers that put <s> in front by `add_bos_token` (default true), whatever tokenizer.json says. */
const BOS_BY_CONFIG = /^(Llama|CodeLlama|Gemma)Tokenizer(Fast)?$/;

/**
 * @throws CheckpointError when tokenizer.json is absent or cannot be read
 */
export function loadTokenizer(modelDirectory: string): TextTokenizer {
  const definition = readJson(join(modelDirectory, "tokenizer.json"));
  const configFile = join(modelDirectory, "tokenizer_config.json");
  const config = existsSync(configFile) ? readJson(configFile) : {};
  let tokenizer: Encoder;
  try {
    tokenizer = new Tokenizer(definition, config) as Encoder;
  } catch (cause) {
    throw new CheckpointError(
      "E_TOKENIZER",
      `${join(modelDirectory, "tokenizer.json")}: cannot be used as a tokenizer: ${messageOf(cause)}.`,
      { hint: TOKEN_IDS_HINT, cause },
    );
  }
  const around = specialTokensAround(tokenizer, config);
  const canSplit = splitsBeforeSpaces(definition);
  const opening = around.before.length > 0 ? around.before : beginningOfText(tokenizer, config);
  const added = tokenizer.get_added_tokens_decoder();
  return {
    opening,
    encodeOpening: (text) =>
      concatenateIds([opening, Int32Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids)]),
    decode: (ids) =>
      ids.length === 0
        ? ""
        : tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false }),
    isOfText: (id) => tokenizer.id_to_token(id) !== undefined && added.get(id)?.special !== true,
    encode(text) {
      if (!canSplit && text.length > LONGEST_UNSPLIT) {
        throw new CalibrationError(
          "E_TEXT_TOO_LONG",
          `the text has ${text.length} characters; a tokenizer without a word splitter takes at most ${LONGEST_UNSPLIT}.`,
          { hint: "Pass a part of the text, a .jsonl file of documents, or token ids in a .safetensors file." },
        );
      }
      const pieces = [around.before];
      for (const piece of canSplit ? splitBeforeSpaces(text) : [text]) {
        pieces.push(Int32Array.from(tokenizer.encode(piece, { add_special_tokens: false }).ids));
      }
      pieces.push(around.after);
      return concatenateIds(pieces);
    },
  };
}

const TOKEN_IDS_HINT =
  "Text needs the tokenizer.json of the model; convert an older tokenizer with transformers' save_pretrained, or pass token ids in a .safetensors file.";

/** What is used of the library's class: 0.2.0's declarations have extensionless imports, which NodeNext reads as any. */
interface Encoder {
  encode(text: string, options: { readonly add_special_tokens: boolean }): { readonly ids: number[] };
  decode(
    ids: readonly number[],
    options: { readonly skip_special_tokens: boolean; readonly clean_up_tokenization_spaces: boolean },
  ): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_added_tokens_decoder(): ReadonlyMap<number, { readonly special?: boolean }>;
}

type Json = Readonly<Record<string, unknown>>;

function readJson(file: string): Json {
  if (!existsSync(file)) {
    throw new CheckpointError("E_TOKENIZER_MISSING", `${file}: no such file.`, {
      hint: TOKEN_IDS_HINT,
      details: { file },
    });
  }
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Json;
  } catch (cause) {
    throw new CheckpointError("E_TOKENIZER", `${file}: not valid JSON: ${messageOf(cause)}.`, {
      details: { file },
      cause,
    });
  }
}

/** The ids that the tokenizer puts before and after any text. */
function specialTokensAround(tokenizer: Encoder, config: Json): { before: Int32Array; after: Int32Array } {
  const bare = tokenizer.encode("a", { add_special_tokens: false }).ids;
  const full = tokenizer.encode("a", { add_special_tokens: true }).ids;
  const extra = full.length - bare.length;
  let beforeCount = 0;
  while (beforeCount < extra && bare.some((id, i) => id !== full[beforeCount + i])) beforeCount += 1;
  let before = full.slice(0, beforeCount);
  const after = full.slice(beforeCount + bare.length);

  if (BOS_BY_CONFIG.test(String(config["tokenizer_class"]))) {
    const bos = tokenizer.token_to_id(tokenContent(config["bos_token"]) ?? "<s>");
    const wanted = config["add_bos_token"] !== false;
    if (!wanted) before = before.filter((id) => id !== bos);
    else if (bos !== undefined && !before.includes(bos)) before = [bos, ...before];
  }
  return { before: Int32Array.from(before), after: Int32Array.from(after) };
}

/** The beginning-of-text token, of tokenizers that have one but do not put it there. */
function beginningOfText(tokenizer: Encoder, config: Json): Int32Array {
  const token = tokenContent(config["bos_token"]);
  const id = token === undefined ? undefined : tokenizer.token_to_id(token);
  return Int32Array.from(id === undefined ? [] : [id]);
}

/** Special tokens are written as a string or as an object with `content`. */
function tokenContent(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "object" && value !== null && "content" in value) return String(value.content);
  return undefined;
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
  const normalizer = definition["normalizer"] as Json | null;
  if (normalizer !== null && normalizer["type"] !== "NFC") return false;
  const added = (definition["added_tokens"] ?? []) as readonly Json[];
  if (
    added.some((token) => token["lstrip"] === true || token["rstrip"] === true || /\s/.test(String(token["content"])))
  ) {
    return false;
  }
  const preTokenizer = definition["pre_tokenizer"] as Json | null;
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
  const boundary = /\S(?= )/g;
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

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
