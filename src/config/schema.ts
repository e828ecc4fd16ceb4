/**
 * The shape of what the command line hands over: every flag as typed, parsed one by one with zod, all problems
 * reported together. How flags fit each other, the method and the model is in rules.ts and resolve.ts.
 */
import { z } from "zod";
import { PERMUTATIONS, REPRODUCED, STARVED_TREATMENTS } from "../contract.js";
import { combineProblems, PruneError, UsageError } from "../errors.js";
import { nearestName } from "../nearest-name.js";
import { findSolver } from "../solvers/registry.js";
import { ALLOCATION_RULES, allocationSchema, type Allocation } from "../allocation/registry.js";
import { parsePattern } from "../sparsity/pattern.js";
import { parseCount, parsePositive, parseSize, parseSparsity } from "./units.js";

/** A flag whose text is turned into a value by `parse`, which throws a PruneError where it cannot. */
function flag<Value>(parse: (text: string) => Value): z.ZodPipe<z.ZodString, z.ZodTransform<Value, string>> {
  return z.string().transform((text, context): Value => {
    try {
      return parse(text);
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      context.addIssue({ code: "custom", message: error.message, params: { error } });
      return z.NEVER;
    }
  });
}

function choice<const Names extends readonly [string, ...string[]]>(
  name: string,
  choices: Names,
): z.ZodPipe<z.ZodString, z.ZodTransform<Names[number], string>> {
  return flag((text) => {
    if (choices.includes(text)) return text;
    throw new UsageError("E_CHOICE", `${name}: "${text}" is not one of ${choices.join(", ")}.`, {
      details: { value: text, choices },
    });
  });
}

/** The name that stands for a recipe of automatic.ts instead of for a method; it is replaced before flags are parsed. */
export const AUTOMATIC = "auto";

function parseMethod(text: string): string {
  return findSolver(text, [AUTOMATIC]).name;
}

function parseStep(text: string): string {
  return findSolver(text).name;
}

/** key=value, the value as YAML reads it: numbers, true, false, or text. */
export function parseOption(text: string): readonly [string, unknown] {
  const match = /^([A-Za-z]\w*)=(.*)$/.exec(text);
  if (match !== null) return [match[1], parseValue(match[2])];
  throw new UsageError("E_OPTION", `--option: "${text}" is not key=value.`, {
    hint: "For example --option counting=released; docs/methods/ lists the options of each method.",
    details: { value: text },
  });
}

/** A rule's name, or rule:key=value,…; the rule's own schema checks names and values. */
export function parseAllocation(text: string): Allocation {
  const [rule = "", options = ""] = text.split(/:(.*)/s);
  if (!ALLOCATION_RULES.includes(rule)) {
    const nearest = nearestName(rule, ALLOCATION_RULES);
    throw new UsageError(
      "E_ALLOCATION_RULE",
      `--allocation: "${rule}" is not a rule; known rules are ${ALLOCATION_RULES.join(", ")}.`,
      {
        hint: nearest === undefined ? "docs/allocation.md says what each does." : `Did you mean "${nearest}"?`,
        details: { value: rule, known: ALLOCATION_RULES },
      },
    );
  }
  const pairs = options === "" ? [] : options.split(",").map(parseOption);
  const parsed = allocationSchema.safeParse({ rule, ...Object.fromEntries(pairs) });
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")} ${message}`.trim());
  throw new UsageError("E_ALLOCATION_OPTION", `--allocation ${text}: ${problems.join("; ")}.`, {
    hint: "docs/allocation.md lists the options of each rule.",
    details: { value: text, problems },
  });
}

function parseValue(text: string): unknown {
  if (text === "true" || text === "false") return text === "true";
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

export const DEFAULT_METHOD = "wanda";
export const DEFAULT_SEQLEN = 2048;

/** Flags of `prune run` as commander collects them: camel-cased names, unparsed texts. */
export const runFlagsSchema = z.strictObject({
  model: z.string().optional(),
  family: z.string().optional(),
  method: flag(parseMethod).prefault(DEFAULT_METHOD),
  sparsity: flag(parseSparsity).optional(),
  pattern: flag(parsePattern).prefault("unstructured"),
  permutation: choice("--permutation", PERMUTATIONS).prefault("none"),
  out: z.string().optional(),
  force: z.boolean().default(false),
  resume: z.boolean().default(false),
  calibration: z.string().optional(),
  nsamples: flag((text) => parseCount("--nsamples", text, 1)).prefault("128"),
  seqlen: flag((text) => parseCount("--seqlen", text, 2)).optional(),
  seed: flag((text) => parseCount("--seed", text, 0)).prefault("0"),
  device: choice("--device", ["auto", "cpu", "webgpu"]).prefault("auto"),
  ignore: z.array(z.string()).default([]),
  propagation: choice("--propagation", ["block", "group", "dense"]).optional(),
  reproduce: choice("--reproduce", REPRODUCED).prefault("layer"),
  starved: choice("--starved", STARVED_TREATMENTS).prefault("all-tokens"),
  recipe: z.string().optional(),
  then: z.array(flag(parseStep)).default([]),
  /** key=value: options of the method that have no flag of their own. */
  option: z.array(flag(parseOption)).default([]),
  allocation: flag(parseAllocation).optional(),
  /** The first is tried first; further ones are the ladder the user allows when a Gram matrix is not definite. */
  damping: flag((text) => text.split(",").map((part) => parsePositive("--damping", part))).optional(),
  blockSize: flag((text) => parseCount("--block-size", text, 1)).optional(),
  memory: flag((text) => parseSize("--memory", text)).optional(),
  measureLoss: z.boolean().default(false),
});

export type RunFlags = z.input<typeof runFlagsSchema>;
export type ParsedRunFlags = z.output<typeof runFlagsSchema>;

/** Flags of `prune eval`, with its model argument. */
export const evaluationFlagsSchema = z.strictObject({
  model: z.string(),
  reference: z.string().optional(),
  family: z.string().optional(),
  text: z.string({ error: "missing; give a text or a file of token ids, for example --text wiki.test.txt" }),
  seqlen: flag((text) => parseCount("--seqlen", text, 2)).optional(),
  maxWindows: flag((text) => parseCount("--max-windows", text, 1)).optional(),
});

export type EvaluationFlags = z.input<typeof evaluationFlagsSchema>;

/** Flags as far as they can be taken. */
export interface ExaminedFlags<Parsed> {
  /** What could be read; the flags that could not are as if they had not been given. */
  readonly parsed: Parsed;
  readonly problems: readonly PruneError[];
  /** Names of the flags that could not be read. */
  readonly unread: ReadonlySet<string>;
}

/**
 * Parse flags, leaving out those that cannot be taken, so that the others can be checked too.
 * @throws UsageError where nothing can be said without the missing ones
 */
export function examineFlags<Schema extends z.ZodType>(
  schema: Schema,
  flags: Readonly<Record<string, unknown>>,
): ExaminedFlags<z.output<Schema>> {
  const first = schema.safeParse(flags);
  if (first.success) return { parsed: first.data, problems: [], unread: new Set() };
  const { issues } = first.error;
  const unread = new Set(
    issues.flatMap((issue) => (issue.code === "unrecognized_keys" ? issue.keys : [String(issue.path[0])])),
  );
  const problems = issues.map(problemOf);
  const rest = schema.safeParse(Object.fromEntries(Object.entries(flags).filter(([name]) => !unread.has(name))));
  if (!rest.success) throw combineProblems(problems);
  return { parsed: rest.data, problems, unread };
}

/**
 * Parse flags, or throw one error that lists every flag that cannot be taken.
 * @throws UsageError
 */
export function parseFlags<Schema extends z.ZodType>(
  schema: Schema,
  flags: Readonly<Record<string, unknown>>,
): z.output<Schema> {
  const { parsed, problems } = examineFlags(schema, flags);
  if (problems.length > 0) throw combineProblems(problems);
  return parsed;
}

function problemOf(issue: z.core.$ZodIssue): PruneError {
  if (issue.code === "custom" && issue.params?.["error"] instanceof PruneError) return issue.params["error"];
  return new UsageError("E_FLAG", `--${issue.path.join(".")}: ${issue.message}.`);
}
