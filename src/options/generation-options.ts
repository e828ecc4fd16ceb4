/** Options of `prune generate-calibration`; as in run-options.ts. */
import { EVALUATION_OPTIONS } from "./evaluation-options.js";
import { HUB_OPTIONS } from "./hub-options.js";
import { option, type AskedOf, type RequestOf, type Table } from "./option.js";
import { RUN_OPTIONS } from "./run-options.js";
import * as types from "./types.js";

const TEXT = "Text";

export const GENERATION_OPTIONS = {
  model: EVALUATION_OPTIONS.model,
  ...HUB_OPTIONS,
  family: EVALUATION_OPTIONS.family,
  out: option(types.text, {
    help: "file to write: .safetensors of token ids, which is what was sampled, or .jsonl or .txt of its text",
    flag: { argument: "<file>", group: "Model" },
  }),
  force: option(types.toggle, {
    help: "replace a file that exists",
    default: false,
    flag: { group: "Model" },
  }),
  nsamples: option(types.count(1), {
    help: "sequences; of .safetensors: full rows",
    default: RUN_OPTIONS.nsamples.default,
    flag: { argument: "<count>", group: TEXT },
  }),
  seqlen: option(types.count(2), {
    help: "tokens of the longest sequence; of .safetensors: of a row",
    otherwise: "2048, or the model's context where shorter",
    flag: { argument: "<tokens>", group: TEXT },
  }),
  seed: option(types.count(0), {
    help: "seed of what is drawn",
    default: 0,
    flag: { argument: "<number>", group: TEXT },
  }),
  temperature: option(types.positive, {
    help: "logits are divided by it",
    otherwise: "the model's own, else 1",
    flag: { argument: "<number>", group: TEXT },
  }),
  topK: option(types.count(0), {
    help: "draw from so many of the most probable tokens; 0 for all",
    otherwise: "the model's own, else 50",
    flag: { argument: "<count>", group: TEXT },
  }),
  topP: option(types.probability, {
    help: "and of those from the most probable ones that together have this probability",
    otherwise: "the model's own, else 1",
    flag: { argument: "<number>", group: TEXT },
  }),
  greedyTokens: option(types.count(0), {
    help: "tokens after the start that are the most probable ones instead of drawn",
    default: 4,
    flag: { argument: "<count>", group: TEXT },
  }),
  prompts: option(types.text, {
    help: "continue these texts, one per line, in turn, instead of drawn tokens",
    flag: { argument: "<file>", group: TEXT },
  }),
  batchSize: option(types.count(1), {
    help: "sequences that grow at a time: each pass over the model adds a token to all of them",
    otherwise: "as many as --memory has room for",
    flag: { argument: "<count>", group: "Running" },
  }),
  memory: option(types.size, {
    help: "RAM for weights and what sequences remember, such as 4GB or 512MiB",
    otherwise: "half of the free memory",
    flag: { argument: "<size>", group: "Running" },
  }),
} as const satisfies Table;

export type GenerationRequest = RequestOf<typeof GENERATION_OPTIONS>;
export type AskedGeneration = AskedOf<typeof GENERATION_OPTIONS>;
