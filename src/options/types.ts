/** The kinds of values that options have: how each is read, what a recipe may say, how it is written down again. */
import { PruneError, UsageError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { nearestName } from "../nearest-name.js";
import type { Allocation } from "../allocation/registry.js";
import { formatPattern, parsePattern, type Pattern } from "../sparsity/pattern.js";
import type { OptionType } from "./option.js";
import {
  parseCount,
  parseDuration,
  parseNumber,
  parsePositive,
  parseProbability,
  parseSize,
  parseSparsity,
} from "./units.js";
import { AUTOMATIC, type AskedStep, type FurtherStep, type SparsityOverride, type TokenSource } from "./values.js";

type Numeric = number | string;

/** A value of a kind that only JavaScript lets through. */
function wrongKind(flag: string, given: unknown, expected: string): UsageError {
  return new UsageError("E_OPTION_TYPE", `${flag}: ${JSON.stringify(given) ?? String(given)} is not ${expected}.`);
}

function requireText(given: unknown, flag: string): string {
  if (typeof given === "string") return given;
  throw wrongKind(flag, given, "a text");
}

function requireNumeric(given: unknown, flag: string): Numeric {
  if (typeof given === "string" || typeof given === "number") return given;
  throw wrongKind(flag, given, "a number");
}

/** A check that a text can be read as a flag's would be; the problem is told with its place in the recipe. */
function readable(read: (text: string) => unknown) {
  return (text: string, context: { addIssue(issue: { code: "custom"; message: string }): void }): void => {
    try {
      read(text);
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      const hint = error.hint === undefined ? "" : ` ${error.hint}`;
      context.addIssue({ code: "custom", message: `${error.message.replace(/^--\S+: |\.$/g, "")}.${hint}` });
    }
  };
}

function requireTexts(given: unknown, flag: string): string[] {
  if (Array.isArray(given)) return given.map((part) => requireText(part, flag));
  throw wrongKind(flag, given, "a list");
}

export const text: OptionType<string, string> = {
  read: requireText,
  schema: ({ z }) => z.string(),
  write: (field) => field,
};

/** True or absent. */
export const toggle: OptionType<boolean, boolean> = {
  read: (given, flag) => {
    if (typeof given === "boolean") return given;
    throw wrongKind(flag, given, "true or false");
  },
  schema: ({ z }) => z.boolean(),
  write: (field) => (field ? true : undefined),
};

export const texts: OptionType<readonly string[], readonly string[]> = {
  read: requireTexts,
  schema: ({ z }) => z.array(z.string()),
  write: (field) => (field.length === 0 ? undefined : field),
};

/** A list whose parts a flag joins by commas. */
export function list<Part extends Numeric>(): OptionType<
  string | readonly Part[],
  readonly Part[] | readonly string[]
> {
  return {
    read: (given, flag) => {
      const parts = Array.isArray(given) ? (given as readonly Part[]) : requireText(given, flag).split(",");
      return parts
        .map((part) => (typeof part === "string" ? part.trim() : part))
        .filter((part) => part !== "") as Part[];
    },
    schema: ({ z }) => z.string(),
    write: (field) => field.join(","),
  };
}

export function choice<const Name extends string>(
  names: readonly Name[],
): OptionType<Name | (string & Record<never, never>), Name> {
  return {
    read: (given, flag) => {
      const found = names.find((name) => name === given);
      if (found !== undefined) return found;
      const nearest = nearestName(String(given), names);
      throw new UsageError("E_CHOICE", `${flag}: "${given}" is not one of ${names.join(", ")}.`, {
        ...(nearest === undefined ? {} : { hint: `Did you mean "${nearest}"?` }),
        details: { value: given, choices: names },
      });
    },
    schema: ({ z }) => z.enum(names),
    write: (field) => field,
    values: names,
  };
}

export function count(least: number): OptionType<Numeric, number> {
  return {
    read: (given, flag) => parseCount(flag, requireNumeric(given, flag), least),
    schema: ({ z }) => z.number().int().min(least),
    write: (field) => field,
  };
}

function readSparsity(given: unknown, flag: string): number {
  return parseSparsity(requireNumeric(given, flag), flag);
}

const sparsitySchema: OptionType<Numeric, number>["schema"] = ({ z }) =>
  z.union([z.number().min(0).lt(1), z.string().superRefine(readable((given) => parseSparsity(given)))]);

export const sparsity: OptionType<Numeric, number> = {
  read: readSparsity,
  schema: sparsitySchema,
  write: (field) => field,
};

/** A number counts bytes. */
export const size: OptionType<Numeric, number> = {
  read: (given, flag) => parseSize(flag, requireNumeric(given, flag)),
  schema: ({ z }) => z.string(),
  write: (field) => `${field}B`,
};

/** In seconds. */
export const duration: OptionType<Numeric, number> = {
  read: (given, flag) => parseDuration(flag, requireNumeric(given, flag)),
  schema: ({ z }) => z.string(),
  write: (field) => `${field}s`,
};

/** Within which bounds is the method's to say. */
export const number: OptionType<Numeric, number> = {
  read: (given, flag) => parseNumber(flag, requireNumeric(given, flag)),
  schema: ({ z }) => z.number(),
  write: (field) => field,
};

export const positive: OptionType<Numeric, number> = {
  read: (given, flag) => parsePositive(flag, requireNumeric(given, flag)),
  schema: ({ z }) => z.number().positive(),
  write: (field) => field,
};

export const probability: OptionType<Numeric, number> = {
  read: (given, flag) => parseProbability(flag, requireNumeric(given, flag)),
  schema: ({ z }) => z.number().positive().max(1),
  write: (field) => field,
};

/** Several are a ladder: the first is tried first. */
export const positives: OptionType<Numeric | readonly number[], readonly number[]> = {
  read: (given, flag) => {
    const parts: readonly Numeric[] = typeof given === "string" ? given.split(",") : [given].flat();
    return parts.map((part) => parsePositive(flag, requireNumeric(part, flag)));
  },
  schema: ({ z }) => z.array(z.number()),
  write: (field) => field,
};

export const pattern: OptionType<string, Pattern> = {
  read: (given, flag) => parsePattern(requireText(given, flag)),
  schema: ({ z }) => z.string(),
  write: formatPattern,
  text: formatPattern,
};

export const method: OptionType<string, string> = {
  read: (given, flag, library) => library.findMethod(requireText(given, flag), [AUTOMATIC]),
  schema: ({ z }) => z.string(),
  write: (field) => field,
};

/** Options of a method; the method's own schema knows them. */
export const record: OptionType<Readonly<Record<string, unknown>>, Readonly<Record<string, unknown>>> = {
  read: (given, flag) => {
    if (isRecord(given)) return given;
    throw wrongKind(flag, given, "an object");
  },
  schema: ({ z }) => z.record(z.string(), z.unknown()),
  write: (field) => field,
};

/** Steps by name, or with options and the linears that take part. Whether there are such methods is the rules' business. */
export const steps: OptionType<readonly (string | AskedStep)[], readonly AskedStep[], readonly FurtherStep[]> = {
  read: (given, flag) => {
    if (!Array.isArray(given)) throw wrongKind(flag, given, "a list of steps");
    return (given as readonly unknown[]).map((step): AskedStep => {
      if (typeof step === "string") return parseNamed(step);
      if (isRecord(step) && typeof step["name"] === "string") return step as unknown as AskedStep;
      throw wrongKind(flag, step, "a method's name, or its name and options");
    });
  },
  schema: ({ z }) => {
    const match = z.string().optional().describe("glob or re: pattern of the module paths that take part");
    const options = z.record(z.string(), z.unknown()).optional();
    return z.array(z.union([z.string(), z.strictObject({ name: z.string(), options, match })]));
  },
  write: (field) => {
    if (field.length === 0) return undefined;
    return field.map(({ method: name, methodOptions: options, match }) => ({
      name,
      options,
      ...(match === undefined ? {} : { match }),
    }));
  },
};

/** A name, or a name and options: name:key=value,key=value. */
export function parseNamed(text: string): AskedStep {
  const [name = "", options = ""] = text.split(/:(.*)/s);
  if (options === "") return { name };
  return { name, options: Object.fromEntries(options.split(",").map((pair) => parseAssignment(pair))) };
}

/** key=value, the value as YAML reads it: numbers, true, false, or text. */
export function parseAssignment(given: string, flag = "--option"): readonly [string, unknown] {
  const match = /^([A-Za-z]\w*)=(.*)$/.exec(given);
  if (match !== null) return [match[1], parseValue(match[2])];
  throw new UsageError("E_OPTION", `${flag}: "${given}" is not key=value.`, {
    hint: "For example --option counting=released; docs/methods/ lists the options of each method.",
    details: { value: given },
  });
}

function parseValue(given: string): unknown {
  if (given === "true" || given === "false") return given === "true";
  return given.trim() !== "" && Number.isFinite(Number(given)) ? Number(given) : given;
}

export const assignments: OptionType<readonly string[], Readonly<Record<string, unknown>>> = {
  read: (given, flag) => Object.fromEntries(requireTexts(given, flag).map((part) => parseAssignment(part, flag))),
  schema: ({ z }) => z.array(z.string()),
  write: (field) => (Object.keys(field).length === 0 ? undefined : field),
};

/** A rule's name, rule:key=value,…, or the rule and its options. */
export type GivenAllocation = string | { readonly rule: string; readonly [option: string]: unknown };

export const allocation: OptionType<GivenAllocation, Allocation> = {
  read: (given, _flag, library) => library.parseAllocation(given),
  schema: ({ z, allocationSchema, parseAllocation }) =>
    z.union([z.string().superRefine(readable(parseAllocation)), allocationSchema]),
  write: (field) => field,
};

type GivenOverride = { readonly match: string; readonly sparsity: Numeric };

export const overrides: OptionType<readonly GivenOverride[], readonly SparsityOverride[]> = {
  read: (given, flag) => {
    if (!Array.isArray(given)) throw wrongKind(flag, given, "a list of patterns and their sparsities");
    return (given as readonly GivenOverride[]).map((part) => {
      if (!isRecord(part)) throw wrongKind(flag, part, "a pattern and its sparsity");
      return { match: requireText(part.match, flag), sparsity: readSparsity(part.sparsity, flag) };
    });
  },
  schema: (library) => {
    const { z } = library;
    const match = z.string().describe("glob or re: pattern of module paths");
    return z.array(z.strictObject({ match, sparsity: sparsitySchema(library) }));
  },
  write: (field) => (field.length === 0 ? undefined : field),
};

/** FILE, FILE#TENSOR, NAME or NAME:PLACE. What it stands for depends on what files there are (config/resolve.ts). */
export const tokens: OptionType<string, string, TokenSource | undefined> = {
  read: requireText,
  schema: ({ z }) => z.string(),
  write: (field) => {
    if (field === undefined) return undefined;
    const { file, tensor, set, name = file } = field;
    if (set !== undefined) return file === "" ? set : `${set}:${name}`;
    return `${name}${tensor === undefined ? "" : `#${tensor}`}`;
  },
};
