/** Options of `prune cut` and of the commands that decide what to cut; as in run-options.ts. */
import { EVALUATION_OPTIONS } from "./evaluation-options.js";
import { HUB_OPTIONS } from "./hub-options.js";
import { listed, option, type AskedOf, type RequestOf, type Table } from "./option.js";
import { RUN_OPTIONS } from "./run-options.js";
import * as types from "./types.js";

/** Where the part goes. */
export const PART_OPTIONS = {
  model: EVALUATION_OPTIONS.model,
  ...HUB_OPTIONS,
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

/** What the model is looked at with. */
const CALIBRATION_OPTIONS = {
  calibration: { ...RUN_OPTIONS.calibration },
  nsamples: option(types.count(1), {
    help: "calibration sequences",
    default: 32,
    flag: { argument: "<count>", group: "Calibration" },
  }),
  seqlen: option(types.count(2), {
    help: "tokens per calibration sequence",
    otherwise: "2048, or the model's context or the rows of stored ids where shorter",
    flag: { argument: "<tokens>", group: "Calibration" },
  }),
  seed: option(types.count(0), {
    help: "seed of the calibration windows",
    default: 0,
    flag: { argument: "<number>", group: "Calibration" },
  }),
  device: { ...RUN_OPTIONS.device },
  memory: option(types.size, {
    help: "RAM for hidden states, such as 4GB or 512MiB; beyond it they go to a scratch file",
    otherwise: "half of the free memory",
    flag: { argument: "<size>", group: "Running" },
  }),
  ratio: option(types.sparsity, {
    help: "share that goes, such as 0.25 or 25%",
    flag: { argument: "<share>", group: "What to prune" },
  }),
} as const satisfies Table;

export const BLOCK_CRITERIA = ["kl", "perplexity", "influence", "angular", "tail"] as const;
export type BlockCriterion = (typeof BLOCK_CRITERIA)[number];
export const EXPERT_CRITERIA = ["reap", "frequency", "ean", "soft-ean", "weight-norm"] as const;
export type ExpertCriterion = (typeof EXPERT_CRITERIA)[number];
export const WIDTH_CRITERIA = ["obs", "energy", "wanda"] as const;
export type WidthCriterion = (typeof WIDTH_CRITERIA)[number];

export const BLOCK_OPTIONS = {
  ...PART_OPTIONS,
  ...CALIBRATION_OPTIONS,
  criterion: option(types.choice(BLOCK_CRITERIA), {
    help: listed(BLOCK_CRITERIA),
    default: "kl",
    flag: { argument: "<name>", group: "How to prune" },
  }),
  drop: option(types.count(1), {
    help: "how many blocks go",
    flag: { argument: "<count>", group: "What to prune" },
  }),
} as const satisfies Table;

export const EXPERT_OPTIONS = {
  ...PART_OPTIONS,
  ...CALIBRATION_OPTIONS,
  criterion: option(types.choice(EXPERT_CRITERIA), {
    help: listed(EXPERT_CRITERIA),
    default: "reap",
    flag: { argument: "<name>", group: "How to prune" },
  }),
  keep: option(types.count(1), {
    help: "how many experts stay in every mixture",
    flag: { argument: "<count>", group: "What to prune" },
  }),
} as const satisfies Table;

export const WIDTH_OPTIONS = {
  ...PART_OPTIONS,
  ...CALIBRATION_OPTIONS,
  criterion: option(types.choice(WIDTH_CRITERIA), {
    help: listed(WIDTH_CRITERIA),
    default: "obs",
    flag: { argument: "<name>", group: "How to prune" },
  }),
  multiple: option(types.count(1), {
    help: "what the number of channels that stay is a multiple of: 256 suits all quantisations, 64 most kernels",
    default: 256,
    flag: { argument: "<count>", group: "What to prune" },
  }),
  refit: option(types.choice(["least-squares", "none"]), {
    help: "how the kept channels make up for the others: least-squares or none",
    default: "least-squares",
    flag: { argument: "<how>", group: "How to prune" },
  }),
} as const satisfies Table;

export type BlockRequest = RequestOf<typeof BLOCK_OPTIONS>;
export type ExpertRequest = RequestOf<typeof EXPERT_OPTIONS>;
export type WidthRequest = RequestOf<typeof WIDTH_OPTIONS>;
export type AskedScoring = AskedOf<typeof PART_OPTIONS & typeof CALIBRATION_OPTIONS>;
export type CutRequest = RequestOf<typeof CUT_OPTIONS>;
export type AskedPart = AskedOf<typeof PART_OPTIONS>;
