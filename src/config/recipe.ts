/**
 * Recipes: a run written down as YAML (JSON is YAML too). Unknown keys are refused with the nearest valid one, and
 * every problem is named with its place in the file. What the values mean together is rules.ts's business.
 */
import { readFile } from "node:fs/promises";
import { isMap, LineCounter, parseDocument, type Document, type Node } from "yaml";
import { z } from "zod";
import { PERMUTATIONS, STARVED_TREATMENTS } from "../contract.js";
import { ConfigError, UsageError } from "../errors.js";
import { nearestName } from "../nearest-name.js";
import { allocationSchema } from "../sparsity/allocation/schema.js";

const options = z.record(z.string(), z.unknown());
const method = z.union([z.string(), z.strictObject({ name: z.string(), options: options.optional() })]);
const sparsity = z.union([z.number().min(0).lt(1), z.string()]);

/** What a recipe file may say; everything is optional, and flags of the command line come before it. */
export const recipeSchema = z
  .strictObject({
    version: z.literal(1).describe("version of this format"),
    description: z.string().optional().describe("for people"),
    model: z.string().optional().describe("checkpoint directory, relative to the working directory"),
    out: z.string().optional().describe("output directory"),
    method: method.optional().describe("a method's name, or its name and options"),
    then: z.array(method).optional().describe("steps that refine or update what the method chose, in order"),
    sparsity: sparsity.optional().describe("fraction of zeros, 0.7 or 70%"),
    pattern: z.string().optional().describe('"unstructured" or N:M (2:4 keeps 2 of every 4)'),
    permutation: z.enum(PERMUTATIONS).optional().describe("with N:M: whether input channels may change places"),
    allocation: z
      .union([z.string(), allocationSchema])
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

/**
 * Read and validate a recipe.
 * @throws UsageError E_RECIPE_MISSING, ConfigError E_RECIPE listing every problem as file:line:column
 */
export async function loadRecipe(file: string): Promise<Recipe> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new UsageError("E_RECIPE_MISSING", `--recipe: ${file} cannot be read.`, { details: { file }, cause });
  }
  return parseRecipe(text, file);
}

export function parseRecipe(text: string, file: string): Recipe {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  if (document.errors.length > 0) {
    const [first] = document.errors;
    const { line, col } = lines.linePos(first.pos[0]);
    throw new ConfigError("E_RECIPE", `${file}:${line}:${col} ${first.message}.`, {
      details: { file, line, column: col },
    });
  }
  const parsed = recipeSchema.safeParse(document.toJS());
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.flatMap((issue) => describeIssue(issue, document, lines, file));
  throw new ConfigError("E_RECIPE", problems.join("\n"), {
    hint: "docs/recipes.md lists the keys of a recipe.",
    details: { file, problems },
  });
}

function describeIssue(issue: z.core.$ZodIssue, document: Document, lines: LineCounter, file: string): string[] {
  const path = issue.path.map((part) => (typeof part === "symbol" ? String(part) : part));
  const at = (node: unknown): string => {
    const range = (node as Node | undefined)?.range;
    const { line, col } = lines.linePos(range?.[0] ?? 0);
    return `${file}:${line}:${col}`;
  };
  if (issue.code !== "unrecognized_keys") {
    return [`${at(document.getIn(path, true))} ${path.join(".") || "recipe"}: ${issue.message}.`];
  }
  const parent = path.length === 0 ? document.contents : document.getIn(path, true);
  return issue.keys.map((key) => {
    const pair = isMap(parent) ? parent.items.find((item) => String(item.key) === key) : undefined;
    const nearest = nearestName(key, knownKeys(path));
    const suggestion = nearest === undefined ? "" : ` Did you mean "${nearest}"?`;
    return `${at(pair?.key)} ${[...path, key].join(".")}: unknown key.${suggestion}`;
  });
}

/** The keys that an object at this path may have, as far as the schema says so plainly. */
function knownKeys(path: readonly (string | number)[]): string[] {
  const shape = recipeSchema.shape;
  if (path.length === 0) return Object.keys(shape);
  if (path[0] === "calibration") return Object.keys(shape.calibration.unwrap().shape);
  if (path[0] === "overrides") return ["match", "sparsity"];
  if (path[0] === "method" || path[0] === "then") return ["name", "options"];
  if (path[0] === "allocation") return allocationSchema.options.flatMap((rule) => Object.keys(rule.shape));
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
    starved: recipe.starved,
    device: recipe.device,
    memory: recipe.memory,
  };
  return Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined));
}

/** A step of a recipe, whichever way it was written. */
export function stepOf(step: z.infer<typeof method>): {
  readonly name: string;
  readonly options: Record<string, unknown>;
} {
  return typeof step === "string" ? { name: step, options: {} } : { name: step.name, options: step.options ?? {} };
}
