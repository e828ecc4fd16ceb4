/** Options of `prune apply-mask`; as in run-options.ts. */
import { EVALUATION_OPTIONS } from "./evaluation-options.js";
import { option, type RequestOf, type Table } from "./option.js";
import * as types from "./types.js";

export const MASK_OPTIONS = {
  model: EVALUATION_OPTIONS.model,
  mask: option(types.text, {
    help: "masks that a run saved with --save-mask",
    flag: { argument: "<file>", group: "Model" },
  }),
  out: option(types.text, {
    help: "output directory",
    flag: { argument: "<dir>", group: "Model" },
  }),
  force: option(types.toggle, {
    help: "replace an output directory that exists",
    default: false,
    flag: { group: "Model" },
  }),
  resume: option(types.toggle, {
    help: "go on with what was interrupted",
    default: false,
    flag: { group: "Running" },
  }),
} as const satisfies Table;

/** Of `prune verify`: what zeros are checked against. */
export const VERIFICATION_OPTIONS = {
  model: EVALUATION_OPTIONS.model,
  family: EVALUATION_OPTIONS.family,
  mask: option(types.text, {
    help: "zeros of a mask that a run saved with --save-mask",
    flag: { argument: "<file>", group: "Model" },
  }),
  pattern: option(types.pattern, {
    help: "at least the zeros of an N:M pattern in every linear that is pruned: 2:4",
    flag: { argument: "<shape>", group: "Model" },
  }),
  against: option(types.text, {
    help: "zeros of another checkpoint of the same tensors",
    flag: { argument: "<model>", group: "Model" },
  }),
} as const satisfies Table;

export type VerificationRequest = RequestOf<typeof VERIFICATION_OPTIONS>;
export type MaskRequest = RequestOf<typeof MASK_OPTIONS>;
