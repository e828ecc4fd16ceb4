/** What a checkpoint says of how text is made with it: generation_config.json, and the tokens that end a text. */
import { existsSync, readFileSync, statSync } from "../files/checkpoint-files.js";
import { join } from "node:path";
import { CheckpointError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";
import type { ModelConfig } from "./config.js";

export interface GenerationDefaults {
  /** Ids of the tokens that end a text. */
  readonly endTokens: readonly number[];
  /** Where a text begins with a token of its own. */
  readonly beginToken?: number;
  readonly temperature?: number;
  /** 0: all tokens. */
  readonly topK?: number;
  readonly topP?: number;
}

const FILE = "generation_config.json";

/** Keys of config.json that stand in where generation_config.json lacks them, as in checkpoints that have none. */
const TOKEN_KEYS = ["eos_token_id", "bos_token_id"] as const;

/**
 * Values that are missing or null are left out. Whether text is to be sampled at all (`do_sample`) is not asked: whoever
 * reads this samples.
 * @throws CheckpointError E_GENERATION_CONFIG naming the key and what was found
 */
export function readGenerationDefaults(directory: string, { values }: Pick<ModelConfig, "values">): GenerationDefaults {
  const file = join(directory, FILE);
  const given = existsSync(file) ? readObject(file) : {};
  const read = (key: string, expected: string, isFit: (value: number) => boolean): number | undefined => {
    const value = given[key] ?? undefined;
    if (value === undefined) return undefined;
    if (typeof value === "number" && isFit(value)) return value;
    throw refuse(file, `"${key}" is ${JSON.stringify(value)}; expected ${expected}`, { key, found: value });
  };
  const [ends, begins] = TOKEN_KEYS.map((key) => {
    const value = given[key] ?? (values.has(key) ? values.raw(key) : []);
    const ids: readonly unknown[] = Array.isArray(value) ? value : [value];
    if (ids.every(isTokenId)) return ids;
    throw refuse(file, `"${key}" is ${JSON.stringify(value)}; expected a token id or a list of them`, { key });
  }) as [readonly number[], readonly number[]];
  const temperature = read("temperature", "a number above 0", (value) => value > 0);
  const topK = read("top_k", "a whole number of at least 0", (value) => Number.isSafeInteger(value) && value >= 0);
  const topP = read("top_p", "a number above 0 and at most 1", (value) => value > 0 && value <= 1);
  return {
    endTokens: ends,
    ...(begins[0] === undefined ? {} : { beginToken: begins[0] }),
    ...(temperature === undefined ? {} : { temperature }),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
  };
}

function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value);
}

function readObject(file: string): Readonly<Record<string, unknown>> {
  let parsed: unknown;
  try {
    if (!statSync(file).isFile()) throw new Error("it is not a regular file");
    parsed = parseJson(readFileSync(file, "utf8"));
  } catch (cause) {
    throw refuse(file, `is not valid JSON (${(cause as Error).message})`, {}, cause);
  }
  if (isRecord(parsed)) return parsed;
  throw refuse(file, "must hold a JSON object");
}

function refuse(
  file: string,
  problem: string,
  details: Readonly<Record<string, unknown>> = {},
  cause?: unknown,
): CheckpointError {
  return new CheckpointError("E_GENERATION_CONFIG", `${file}: ${problem}.`, {
    hint: "Fix the value, or remove the file: the defaults of the options are taken then.",
    details: { file, ...details },
    cause,
  });
}
