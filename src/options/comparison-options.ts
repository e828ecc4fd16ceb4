/** Options of `prune compare`: its axes, what it measures on, and what its cells share of a run's options. */
import { option, type AskedOf, type RequestOf, type Table } from "./option.js";
import { EVALUATION_OPTIONS } from "./evaluation-options.js";
import { RUN_OPTION_LIST, RUN_OPTIONS, type RunOptionKey } from "./run-options.js";
import * as types from "./types.js";

/** Options that a run has not, or has as one value where this has several. */
export const AXIS_OPTIONS = {
  methods: option(types.list<string>(), {
    help: "methods, steps joined by +, or auto",
    default: ["magnitude", "wanda", "sparsegpt"],
    flag: { argument: "<list>", group: "What to compare" },
  }),
  sparsities: option(types.list<number | string>(), {
    help: "targets of unstructured cells",
    default: [0.5, 0.6, 0.7],
    flag: { argument: "<list>", group: "What to compare" },
  }),
  patterns: option(types.list<string>(), {
    help: "unstructured and N:M",
    default: ["unstructured", "2:4"],
    flag: { argument: "<list>", group: "What to compare" },
  }),
  /** Repeatable, because a rule's own options hold commas. */
  allocation: option(types.texts, {
    help: "how unstructured cells spread the sparsity, each rule as in `prune run`: a further axis",
    otherwise: "uniform",
    default: ["uniform"],
    flag: { argument: "<rule...>", group: "What to compare" },
  }),
  text: option(types.text, {
    help: "what perplexity is measured on, in windows of --seqlen: as in `prune eval`",
    otherwise: "the model's evaluation.txt",
    flag: { argument: "<source>", group: "Text" },
  }),
  maxWindows: EVALUATION_OPTIONS.maxWindows,
  work: option(types.text, {
    help: "where finished cells are noted",
    otherwise: "<model>-compare",
    flag: { argument: "<dir>", group: "Running" },
  }),
  resume: option(types.toggle, {
    help: "go on with an interrupted comparison",
    default: false,
    flag: { group: "Running" },
  }),
} as const satisfies Table;

type SharedKey = {
  [Key in RunOptionKey]: (typeof RUN_OPTIONS)[Key]["compare"] extends "shared" ? Key : never;
}[RunOptionKey];

/** What all cells share: whatever a run takes that is no axis of the sweep and not for a single run only. */
export const SHARED_OPTIONS = Object.fromEntries(
  RUN_OPTION_LIST.filter(([, { compare }]) => compare === "shared"),
) as unknown as Pick<typeof RUN_OPTIONS, SharedKey>;

/** In the order of the help. */
export const COMPARISON_OPTIONS: Table = { ...SHARED_OPTIONS, ...AXIS_OPTIONS };

export type SharedRequest = RequestOf<typeof SHARED_OPTIONS>;
export type ComparisonRequest = RequestOf<typeof AXIS_OPTIONS> & SharedRequest;
export type AskedAxes = AskedOf<typeof AXIS_OPTIONS>;
