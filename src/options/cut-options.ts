/** Options of `prune cut` and of the commands that decide what to cut; as in run-options.ts. */
import { EVALUATION_OPTIONS } from "./evaluation-options.js";
import { option, type AskedOf, type RequestOf, type Table } from "./option.js";
import * as types from "./types.js";

/** Where the part goes. */
export const PART_OPTIONS = {
  model: EVALUATION_OPTIONS.model,
  family: EVALUATION_OPTIONS.family,
  out: option(types.text, {
    help: "directory of the new checkpoint; needed unless --dry-run",
    flag: { argument: "<directory>", group: "Model" },
  }),
  dryRun: option(types.toggle, {
    help: "say what would be written, and of which size it would be, without writing it",
    default: false,
    flag: { group: "Running" },
  }),
  force: option(types.toggle, {
    help: "replace --out where it exists, and start anew where an interrupted cut is",
    default: false,
    flag: { group: "Running" },
  }),
  resume: option(types.toggle, {
    help: "go on with an interrupted cut",
    default: false,
    flag: { group: "Running" },
  }),
} as const satisfies Table;

export const CUT_OPTIONS = {
  ...PART_OPTIONS,
  plan: option(types.text, {
    help: "what to keep: a plan.json, as the other commands leave it in their output",
    flag: { argument: "<file>", group: "What to prune" },
  }),
} as const satisfies Table;

export type CutRequest = RequestOf<typeof CUT_OPTIONS>;
export type AskedPart = AskedOf<typeof PART_OPTIONS>;
