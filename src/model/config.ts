/**
 * config.json, read with care: every value a family asks for is checked when it is asked for, and the message names
 * the key and what was found. Which keys mean what is the families' business.
 */
import { isRecord } from "../is-record.js";
import { readFile, stat } from "../files/checkpoint-files.js";
import { join } from "node:path";
import { refusalOfForeign } from "../checkpoint/foreign-file.js";
import { CheckpointError } from "../errors.js";
import { parseJson } from "../json.js";

type Json = Readonly<Record<string, unknown>>;

/** No size of a model is larger. */
const LARGEST_COUNT = 2 ** 31 - 1;
/** Of layers, experts, heads and the widths of heads, which are described one by one: no model has a tenth of so many; sizes may be larger. */
export const MOST_PARTS = 10_000;
const PARTS = /layer|expert|head|rotary/;

/** One JSON object of config.json (the file itself, or a nested one such as rope_scaling). */
export class ConfigObject {
  readonly #values: Json;
  readonly #path: string;

  readonly #asked: Set<string>;

  constructor(values: Json, path: string, asked = new Set<string>()) {
    this.#values = values;
    this.#path = path;
    this.#asked = asked;
  }

  /** The same values, as if nobody had asked for any. */
  copy(): ConfigObject {
    return new ConfigObject(this.#values, this.#path);
  }

  /** Keys with a value that nobody asked for. */
  unasked(): string[] {
    const isSaid = (value: unknown): boolean => value !== null && value !== undefined;
    return Object.keys(this.#values).filter((key) => isSaid(this.#values[key]) && !this.#asked.has(key));
  }

  /** Keys that a family knows and has no use for. */
  ignore(...keys: readonly string[]): void {
    for (const key of keys) this.#asked.add(key);
  }

  #read(key: string): unknown {
    this.#asked.add(key);
    return this.#values[key];
  }

  /** With these values of these keys; what is asked of it counts as asked of this one. */
  with(values: Json): ConfigObject {
    return new ConfigObject({ ...this.#values, ...values }, this.#path, this.#asked);
  }

  /** The value as it stands, without asking for it. */
  peek(key: string): unknown {
    return this.#values[key];
  }

  /** Its keys, as written. */
  keys(): string[] {
    return Object.keys(this.#values);
  }

  has(key: string): boolean {
    return this.#read(key) !== undefined && this.#read(key) !== null;
  }

  /** A positive whole number, as large as a model may have one. */
  count(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#read(key);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1)
      throw this.#problem(key, "a positive whole number");
    const most = PARTS.test(key) && !key.includes("size") ? MOST_PARTS : LARGEST_COUNT;
    if (value > most) throw this.#problem(key, `a positive whole number of at most ${most}`);
    return value;
  }

  number(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#read(key);
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.#problem(key, "a number");
    return value;
  }

  /** A number that may be null: undefined then. `fallback` is for a file that lacks the key. */
  numberOrNull(key: string, fallback?: number): number | undefined {
    if (this.#read(key) === undefined) return fallback;
    return this.has(key) ? this.number(key) : undefined;
  }

  boolean(key: string, fallback?: boolean): boolean {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#read(key);
    if (typeof value !== "boolean") throw this.#problem(key, "true or false");
    return value;
  }

  string(key: string, fallback?: string): string {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#read(key);
    if (typeof value !== "string") throw this.#problem(key, "a string");
    return value;
  }

  /** A list of numbers, or undefined where the key is missing. */
  numbers(key: string): readonly number[] | undefined {
    const value = this.#read(key);
    if (!this.has(key)) return undefined;
    if (!Array.isArray(value) || !value.every((entry) => typeof entry === "number" && Number.isFinite(entry)))
      throw this.#problem(key, "a list of numbers");
    return value as number[];
  }

  /** A list of strings, or undefined where the key is missing. */
  strings(key: string): readonly string[] | undefined {
    const value = this.#read(key);
    if (!this.has(key)) return undefined;
    if (!Array.isArray(value) || !value.every((entry) => typeof entry === "string"))
      throw this.#problem(key, "a list of strings");
    return value as string[];
  }

  /** The value as it stands: for those that have several forms. */
  raw(key: string): unknown {
    return this.#read(key);
  }

  /** The first of several names of one value that the file has; the first of all where it has none. */
  keyAmong(first: string, ...others: readonly string[]): string {
    return [first, ...others].find((key) => this.has(key)) ?? first;
  }

  /** The count under the first of the keys that has one. */
  countAmong(first: string, ...others: readonly string[]): number {
    return this.count(this.keyAmong(first, ...others));
  }

  /** The error for a value that is well formed but not what the model's family can be. */
  refuse(key: string, expected: string): CheckpointError {
    return this.#problem(key, expected);
  }

  object(key: string): ConfigObject | undefined {
    if (!this.has(key)) return undefined;
    const value = this.#read(key);
    if (typeof value !== "object" || Array.isArray(value)) throw this.#problem(key, "an object");
    return new ConfigObject(value as Json, `${this.#path}: ${key}`);
  }

  #problem(key: string, expected: string): CheckpointError {
    const found = JSON.stringify(this.#read(key)) ?? "nothing";
    return new CheckpointError("E_CONFIG", `${this.#path}: "${key}" is ${found}; expected ${expected}.`, {
      hint: "The checkpoint's config.json does not describe this kind of model; re-export it or fix the value.",
      details: { file: "config.json", key, found: this.#read(key) ?? null },
    });
  }
}

export interface ModelConfig {
  /** The keys of the language model: the file's own, or those of `text_config` in a multimodal checkpoint. */
  readonly values: ConfigObject;
  /** Of the language model. */
  readonly modelType: string;
  /** The file's own model_type where it describes more than a language model. */
  readonly wrapper?: string;
  /** What the file says of a quantisation of the weights. */
  readonly quantisation?: Readonly<Record<string, unknown>>;
  /** The file as it stands, for the run's fingerprint. */
  readonly text: string;
}

/** The `model_type` of a multimodal model's text_config, where that does not say it. */
const LANGUAGE_MODELS_OF: Readonly<Record<string, string>> = {
  gemma3: "gemma3_text",
  gemma3n: "gemma3n_text",
  llava: "llama",
  llava_next: "llama",
  mistral3: "mistral",
  paligemma: "gemma",
  qwen2_vl: "qwen2_vl_text",
  qwen2_5_vl: "qwen2_5_vl_text",
  qwen3_vl: "qwen3_vl_text",
};

function languageModelOf(modelType: string): string | undefined {
  return Object.hasOwn(LANGUAGE_MODELS_OF, modelType) ? LANGUAGE_MODELS_OF[modelType] : undefined;
}

/** Read DIRECTORY/config.json. */
export async function readModelConfig(directory: string): Promise<ModelConfig> {
  const file = join(directory, "config.json");
  let text: string;
  try {
    if (!(await stat(file)).isFile()) throw new Error("it is not a regular file");
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new CheckpointError("E_CONFIG_MISSING", `${file}: cannot be read.`, {
      hint: "--model takes a Hugging Face checkpoint directory: config.json beside *.safetensors.",
      details: { file },
      cause,
    });
  }
  return parseModelConfig(text, file);
}

/**
 * What the text of a config.json says.
 * @param file its name in errors
 */
export function parseModelConfig(text: string, file: string): ModelConfig {
  let parsed: unknown;
  try {
    parsed = parseJson(text);
  } catch (cause) {
    throw (
      refusalOfForeign(file, Buffer.from(text)) ??
      new CheckpointError("E_CONFIG", `${file}: is not valid JSON (${(cause as Error).message}).`, {
        details: { file },
        cause,
      })
    );
  }
  if (!isRecord(parsed)) {
    throw new CheckpointError("E_CONFIG", `${file}: must hold a JSON object.`, { details: { file } });
  }
  const outer = new ConfigObject(parsed as Json, "config.json");
  const modelType = outer.string("model_type");
  const inner = outer.object("text_config");
  const isMultimodal = inner !== undefined || outer.has("vision_config") || outer.has("audio_config");
  const values = inner ?? outer;
  const quantisation = [outer, values]
    .flatMap((object) => [object.raw("quantization_config"), object.raw("compression_config")])
    .find(isRecord);
  return {
    ...{ values, text, modelType: values.string("model_type", inner && languageModelOf(modelType)) },
    ...(isMultimodal ? { wrapper: modelType } : {}),
    ...(quantisation === undefined ? {} : { quantisation }),
  };
}
