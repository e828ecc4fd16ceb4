/**
 * Recipes: a run written down as YAML (JSON is YAML too). Unknown keys are refused with the nearest valid one, and
 * every problem is named with its place in the file. What the values mean together is rules.ts's business.
 */
import { readFile } from "node:fs/promises";
import { isMap, LineCounter, parseDocument, type Document, type Node } from "yaml";
import { z } from "zod";
import { PERMUTATIONS, REPRODUCED, STARVED_TREATMENTS } from "../contract.js";
import { ConfigError, PruneError, UsageError } from "../errors.js";
import { nearestName } from "../nearest-name.js";
import { allocationSchema } from "../allocation/registry.js";
import { parseAllocation } from "./schema.js";
import { parseSparsity } from "./units.js";

/** A check that a text can be parsed as a flag's would be; the problem is told with its place in the recipe. */
function readable(parse: (text: string) => unknown): (text: string, context: z.RefinementCtx<string>) => void {
  return (text, context) => {
    try {
      parse(text);
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      const hint = error.hint === undefined ? "" : ` ${error.hint}`;
      context.addIssue({ code: "custom", message: `${error.message.replace(/^--\S+: |\.$/g, "")}.${hint}` });
    }
  };
}

const options = z.record(z.string(), z.unknown());
const named = z.strictObject({ name: z.string(), options: options.optional() });
const method = z.union([z.string(), named]);
/** A further step may be for some linears only; the others stay as the steps before made them. */
const match = z.string().optional().describe("glob or re: pattern of the module paths that take part");
const further = z.union([z.string(), named.extend({ match })]);
const sparsity = z.union([z.number().min(0).lt(1), z.string().superRefine(readable(parseSparsity))]);

/** What a recipe file may say; everything is optional, and flags of the command line come before it. */
export const recipeSchema = z
  .strictObject({
    version: z.literal(1).describe("version of this format"),
    description: z.string().optional().describe("for people"),
    model: z.string().optional().describe("checkpoint directory, relative to the working directory"),
    out: z.string().optional().describe("output directory"),
    method: method.optional().describe("a method's name, or its name and options"),
    then: z.array(further).optional().describe("steps that refine or update what the method chose, in order"),
    sparsity: sparsity.optional().describe("fraction of zeros, 0.7 or 70%"),
    pattern: z.string().optional().describe('"unstructured" or N:M (2:4 keeps 2 of every 4)'),
    permutation: z.enum(PERMUTATIONS).optional().describe("with N:M: whether input channels may change places"),
    allocation: z
      .union([z.string().superRefine(readable(parseAllocation)), allocationSchema])
      .optional()
      .describe("how the sparsity is spread over layers: a rule's name, or the rule and its options"),
    overrides: z
      .array(z.strictObject({ match: z.string().describe("glob or re: pattern of module paths"), sparsity }))
      .optional()
      .describe("sparsity of the linears that a pattern matches; the last match wins"),
    ignore: z.array(z.string()).optional().describe("patterns of linears that stay dense"),
    calibration: z
      .strictObject({
        file: z.string().optional(),
        nsamples: z.number().int().min(1).optional(),
        seqlen: z.number().int().min(2).optional(),
        seed: z.number().int().min(0).optional(),
      })
      .optional(),
    propagation: z.enum(["block", "group", "dense"]).optional(),
    reproduce: z
      .enum(REPRODUCED)
      .optional()
      .describe("what layers are to reproduce: their own dense outputs, or the dense model's"),
    starved: z.enum(STARVED_TREATMENTS).optional(),
    device: z.enum(["auto", "cpu", "webgpu"]).optional(),
    memory: z.string().optional().describe("RAM for hidden states, such as 4GB"),
  })
  .describe("A recipe for `prune run --recipe`");

export type Recipe = z.infer<typeof recipeSchema>;

/** The JSON Schema that editors complete and check recipes with. */
export function recipeJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(recipeSchema, { target: "draft-2020-12", io: "input" }), title: "prune recipe" };
}

/** A recipe as far as it can be taken. */
export interface ExaminedRecipe {
  /** What could be read; keys of the first level that hold a mistake are left out. */
  readonly recipe: Recipe;
  /** A ConfigError E_RECIPE for every mistake, which it names as file:line:column. */
  readonly problems: readonly ConfigError[];
  /** Keys of the first level that hold a mistake. */
  readonly unread: ReadonlySet<string>;
}

/**
 * Read a recipe and find every mistake in it.
 * @throws UsageError E_RECIPE_MISSING, ConfigError E_RECIPE for a file that is no YAML
 */
export async function loadRecipe(file: string): Promise<ExaminedRecipe> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new UsageError("E_RECIPE_MISSING", `--recipe: ${file} cannot be read.`, { details: { file }, cause });
  }
  return examineRecipe(text, file);
}

/** @throws ConfigError E_RECIPE listing every problem as file:line:column */
export function parseRecipe(text: string, file: string): Recipe {
  const { recipe, problems } = examineRecipe(text, file);
  if (problems.length === 0) return recipe;
  const messages = problems.map(({ message }) => message);
  throw new ConfigError("E_RECIPE", messages.join("\n"), {
    hint: "docs/recipes.md lists the keys of a recipe.",
    details: { file, problems: messages },
  });
}

/** @throws ConfigError E_RECIPE for a text that is no YAML */
export function examineRecipe(text: string, file: string): ExaminedRecipe {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  if (document.errors.length > 0) {
    const [first] = document.errors;
    const { line, col } = lines.linePos(first.pos[0]);
    throw new ConfigError("E_RECIPE", `${file}:${line}:${col} ${first.message}.`, {
      details: { file, line, column: col },
    });
  }
  const content: unknown = document.toJS();
  const parsed = recipeSchema.safeParse(content);
  if (parsed.success) return { recipe: parsed.data, problems: [], unread: new Set() };
  const issues = parsed.error.issues.flatMap(plainIssues);
  const unread = new Set(
    issues.flatMap(({ path, keys }) => (path.length === 0 && keys !== undefined ? keys : [String(path[0] ?? "")])),
  );
  const kept = Object.entries(isRecord(content) ? content : {}).filter(([key]) => !unread.has(key));
  return {
    recipe: recipeSchema.parse({ ...Object.fromEntries(kept), version: 1 }),
    problems: issues
      .flatMap((issue) => describeIssue(issue, document, lines, file))
      .map((message) => new ConfigError("E_RECIPE", message, { details: { file } })),
    unread,
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

interface PlainIssue {
  readonly path: readonly (string | number)[];
  readonly message: string;
  /** Of unknown keys: these. */
  readonly keys: readonly string[] | undefined;
}

/** An issue of a union is that of the alternative which fits the value's kind, where one does. */
function plainIssues(issue: z.core.$ZodIssue): PlainIssue[] {
  const path = issue.path.map((part) => (typeof part === "symbol" ? String(part) : part));
  const prefixed = (inner: readonly z.core.$ZodIssue[]): PlainIssue[] =>
    inner.flatMap(plainIssues).map((each) => ({ ...each, path: [...path, ...each.path] }));
  if (issue.code === "invalid_union") {
    const fitting = issue.errors.find(
      (inner) => !inner.some((each) => each.code === "invalid_type" && each.path.length === 0),
    );
    if (fitting !== undefined && fitting.length > 0) return prefixed(fitting);
  }
  return [{ path, message: issue.message, keys: issue.code === "unrecognized_keys" ? issue.keys : undefined }];
}

function describeIssue(issue: PlainIssue, document: Document, lines: LineCounter, file: string): string[] {
  const { path } = issue;
  const at = (node: unknown): string => {
    const range = (node as Node | undefined)?.range;
    const { line, col } = lines.linePos(range?.[0] ?? 0);
    return `${file}:${line}:${col}`;
  };
  if (issue.keys === undefined) {
    const message = issue.message.endsWith(".") ? issue.message : `${issue.message}.`;
    return [`${at(document.getIn(path, true))} ${path.join(".") || "recipe"}: ${message}`];
  }
  const parent = path.length === 0 ? document.contents : document.getIn(path, true);
  return issue.keys.map((key) => {
    const pair = isMap(parent) ? parent.items.find((item) => String(item.key) === key) : undefined;
    const nearest = nearestName(key, knownKeys(path, document));
    const suggestion = nearest === undefined ? "" : ` Did you mean "${nearest}"?`;
    return `${at(pair?.key)} ${[...path, key].join(".")}: unknown key.${suggestion}`;
  });
}

/** The keys that an object at this path may have, as far as the schema says so plainly. */
function knownKeys(path: readonly (string | number)[], document: Document): string[] {
  const shape = recipeSchema.shape;
  if (path.length === 0) return Object.keys(shape);
  if (path[0] === "calibration") return Object.keys(shape.calibration.unwrap().shape);
  if (path[0] === "overrides") return ["match", "sparsity"];
  if (path[0] === "method") return ["name", "options"];
  if (path[0] === "then") return ["name", "options", "match"];
  if (path[0] === "allocation") {
    const rule: unknown = document.getIn(["allocation", "rule"]);
    return allocationSchema.options
      .filter((option) => (option.shape.rule.values as ReadonlySet<unknown>).has(rule))
      .flatMap((option) => Object.keys(option.shape));
  }
  return [];
}

/** What a recipe says, as the flags that would say it. */
export function flagsOfRecipe(recipe: Recipe): Record<string, unknown> {
  const { calibration, ignore } = recipe;
  const text = (value: number | string | undefined): string | undefined =>
    value === undefined ? undefined : String(value);
  const flags: Record<string, unknown> = {
    model: recipe.model,
    out: recipe.out,
    method: recipe.method === undefined ? undefined : stepOf(recipe.method).name,
    sparsity: text(recipe.sparsity),
    pattern: recipe.pattern,
    permutation: recipe.permutation,
    calibration: calibration?.file,
    nsamples: text(calibration?.nsamples),
    seqlen: text(calibration?.seqlen),
    seed: text(calibration?.seed),
    ignore: ignore === undefined ? undefined : [...ignore],
    propagation: recipe.propagation,
    reproduce: recipe.reproduce,
    starved: recipe.starved,
    device: recipe.device,
    memory: recipe.memory,
  };
  return Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined));
}

/** A step of a recipe, whichever way it was written. */
export function stepOf(step: z.infer<typeof further>): {
  readonly name: string;
  readonly options: Record<string, unknown>;
  readonly match?: string;
} {
  if (typeof step === "string") return { name: step, options: {} };
  const { name, options = {}, match } = step;
  return { name, options, ...(match === undefined ? {} : { match }) };
}
