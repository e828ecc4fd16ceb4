/** Limits that `prune run` measures its result by, and `prune compare` each of its rows; as in run-options.ts. */
import { EVALUATION_OPTIONS } from "./evaluation-options.js";
import { option, type AskedOf, type RequestOf, type Table } from "./option.js";
import * as types from "./types.js";

export const LIMIT_OPTIONS = {
  maxPpl: EVALUATION_OPTIONS.maxPpl,
  maxPplRatio: {
    ...EVALUATION_OPTIONS.maxPplRatio,
    help: "exit with 3 where the perplexity divided by the dense model's is larger",
  },
  maxKl: { ...EVALUATION_OPTIONS.maxKl, help: "exit with 3 where the KL divergence from the dense model is larger" },
} as const satisfies Table;

/** Of a run, which evaluates nothing unless there is a limit. */
export const GATE_OPTIONS = {
  text: option(types.text, {
    help: "what limits are measured on, as in `prune eval`",
    otherwise: "the model's evaluation.txt",
    flag: { argument: "<file>", group: "Text" },
  }),
  maxWindows: EVALUATION_OPTIONS.maxWindows,
  ...LIMIT_OPTIONS,
} as const satisfies Table;

export type GateRequest = RequestOf<typeof GATE_OPTIONS>;
export type LimitRequest = RequestOf<typeof LIMIT_OPTIONS>;
export type AskedLimits = AskedOf<typeof LIMIT_OPTIONS>;
