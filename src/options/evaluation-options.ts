/** Options of `prune eval`; as in run-options.ts. */
import { HUB_OPTIONS } from "./hub-options.js";
import { option, type AskedOf, type RequestOf, type Table } from "./option.js";
import { RUN_OPTIONS, TEXT_HELP } from "./run-options.js";
import * as types from "./types.js";

export const EVALUATION_OPTIONS = {
  model: option(types.text, {
    help: RUN_OPTIONS.model.help,
    flag: { argument: "<model>", group: "Model" },
  }),
  ...HUB_OPTIONS,
  family: { ...RUN_OPTIONS.family, flag: { argument: "<name>", group: "Model" } },
  text: option(types.text, {
    help: TEXT_HELP,
    flag: { argument: "<source>", group: "Text" },
  }),
  textField: { ...RUN_OPTIONS.textField, flag: { argument: "<name>", group: "Text" } },
  seqlen: option(types.count(2), {
    help: "tokens per window",
    otherwise: "2048, or the model's context or the rows of stored ids where shorter",
    flag: { argument: "<tokens>", group: "Text" },
  }),
  maxWindows: option(types.count(1), {
    help: "evaluate only the first windows",
    flag: { argument: "<count>", group: "Text" },
  }),
  reference: option(types.text, {
    help: "compare with another checkpoint, usually the dense one: KL divergence, agreement",
    flag: { argument: "<model>", group: "Text" },
  }),
  maxPpl: option(types.positive, {
    help: "exit with 3 where the perplexity is larger",
    flag: { argument: "<perplexity>", group: "Text" },
  }),
  maxPplRatio: option(types.positive, {
    help: "exit with 3 where the perplexity divided by the reference's is larger",
    flag: { argument: "<ratio>", group: "Text" },
  }),
  maxKl: option(types.positive, {
    help: "exit with 3 where the KL divergence from the reference is larger",
    flag: { argument: "<nats>", group: "Text" },
  }),
} as const satisfies Table;

/** Of `prune inspect`. */
export const INSPECTION_OPTIONS = {
  model: EVALUATION_OPTIONS.model,
  ...HUB_OPTIONS,
  family: EVALUATION_OPTIONS.family,
  config: option(types.toggle, {
    help: "show what config.json means instead: its keys, and the defaults of those it leaves out",
    default: false,
    flag: { group: "Model" },
  }),
} as const satisfies Table;

export type InspectionRequest = RequestOf<typeof INSPECTION_OPTIONS>;
export type EvaluationRequest = RequestOf<typeof EVALUATION_OPTIONS>;
export type AskedEvaluation = AskedOf<typeof EVALUATION_OPTIONS>;
