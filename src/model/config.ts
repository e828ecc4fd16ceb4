/**
 * config.json, read with care: every value a family asks for is checked when it is asked for, and the message names
 * the key and what was found. Which keys mean what is the families' business.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointError } from "../errors.js";

type Json = Readonly<Record<string, unknown>>;

/** One JSON object of config.json (the file itself, or a nested one such as rope_scaling). */
export class ConfigObject {
  readonly #values: Json;
  readonly #path: string;

  constructor(values: Json, path: string) {
    this.#values = values;
    this.#path = path;
  }

  has(key: string): boolean {
    return this.#values[key] !== undefined && this.#values[key] !== null;
  }

  /** A positive whole number. */
  count(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#values[key];
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1)
      throw this.#problem(key, "a positive whole number");
    return value;
  }

  number(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#values[key];
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.#problem(key, "a number");
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    if (!this.has(key)) return fallback;
    const value = this.#values[key];
    if (typeof value !== "boolean") throw this.#problem(key, "true or false");
    return value;
  }

  string(key: string, fallback?: string): string {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#values[key];
    if (typeof value !== "string") throw this.#problem(key, "a string");
    return value;
  }

  object(key: string): ConfigObject | undefined {
    if (!this.has(key)) return undefined;
    const value = this.#values[key];
    if (typeof value !== "object" || Array.isArray(value)) throw this.#problem(key, "an object");
    return new ConfigObject(value as Json, `${this.#path}: ${key}`);
  }

  #problem(key: string, expected: string): CheckpointError {
    const found = JSON.stringify(this.#values[key]) ?? "nothing";
    return new CheckpointError("E_CONFIG", `${this.#path}: "${key}" is ${found}; expected ${expected}.`, {
      hint: "The checkpoint's config.json does not describe this kind of model; re-export it or fix the value.",
      details: { file: "config.json", key, found: this.#values[key] ?? null },
    });
  }
}

export interface ModelConfig {
  readonly values: ConfigObject;
  readonly modelType: string;
  /** The file as it stands, for the run's fingerprint. */
  readonly text: string;
}

/** Read DIRECTORY/config.json. */
export async function readModelConfig(directory: string): Promise<ModelConfig> {
  const file = join(directory, "config.json");
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new CheckpointError("E_CONFIG_MISSING", `${file}: cannot be read.`, {
      hint: "--model takes a Hugging Face checkpoint directory: config.json beside *.safetensors.",
      details: { file },
      cause,
    });
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError("E_CONFIG", `${file}: is not valid JSON (${(cause as Error).message}).`, {
      details: { file },
      cause,
    });
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new CheckpointError("E_CONFIG", `${file}: must hold a JSON object.`, { details: { file } });
  }
  const values = new ConfigObject(parsed as Json, "config.json");
  return { values, modelType: values.string("model_type"), text };
}
