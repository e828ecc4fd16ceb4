/**
 * The shape of recipes, by the table of options: what a recipe may say, the request that it stands for, and the recipe that
 * repeats a run. Reading files and naming places in them is config/recipe.ts's business.
 */
import { LIBRARY } from "./library.js";
import { fieldOf, RUN_OPTION_LIST, type RunConfig, type RunOptionEntry, type RunRequest } from "./run-options.js";

type Plain = Readonly<Record<string, unknown>>;

/** Keys of a recipe that hold further keys. */
const SECTIONS: Readonly<Record<string, { readonly help: string; readonly shorthand?: string }>> = {
  /** A text alone is its name. */
  method: { help: "a method's name, or its name and options", shorthand: "name" },
  calibration: { help: "what statistics of layers' inputs are collected on" },
};

const { z } = LIBRARY;

/** What a recipe file may say; everything is optional, and flags of the command line come before it. */
export const recipeSchema = z
  .strictObject({
    version: z.literal(1).describe("version of this format"),
    description: z.string().optional().describe("for people"),
    ...shapeOf(),
  })
  .describe("A recipe for `prune run --recipe`");

/** The JSON Schema that editors complete and check recipes with. */
export function recipeJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(recipeSchema, { target: "draft-2020-12", io: "input" }), title: "prune recipe" };
}

function schemaOf({ type, help }: RunOptionEntry): ReturnType<RunOptionEntry["type"]["schema"]> {
  return type.schema(LIBRARY).optional().describe(help);
}

function shapeOf(): Record<string, ReturnType<typeof schemaOf>> {
  const shape: Record<string, ReturnType<typeof schemaOf>> = {};
  for (const [, entry] of RUN_OPTION_LIST) {
    if (entry.recipe === undefined) continue;
    const [key = "", inner] = entry.recipe.split(".");
    if (inner === undefined) shape[key] = schemaOf(entry);
    else if (shape[key] === undefined) shape[key] = sectionOf(key);
  }
  return shape;
}

function sectionOf(section: string): ReturnType<typeof schemaOf> {
  const { help, shorthand } = SECTIONS[section] ?? { help: "" };
  const members = RUN_OPTION_LIST.flatMap(([, entry]) => {
    const [key, inner] = entry.recipe?.split(".") ?? [];
    if (key !== section || inner === undefined) return [];
    return [[inner, inner === shorthand ? entry.type.schema(LIBRARY) : schemaOf(entry)] as const];
  });
  const whole = z.strictObject(Object.fromEntries(members));
  return (shorthand === undefined ? whole : z.union([z.string(), whole])).optional().describe(help);
}

/** The options that a recipe's key of the first level says. */
export function optionsOfRecipeKey(key: string): string[] {
  return RUN_OPTION_LIST.flatMap(([name, { recipe }]) => (recipe?.split(".")[0] === key ? [name] : []));
}

/** What a recipe says, as a request. */
export function requestOfRecipe(recipe: Plain): RunRequest {
  const said = RUN_OPTION_LIST.map(([name, { recipe: path }]) => [
    name,
    path === undefined ? undefined : valueAt(recipe, path.split(".")),
  ]);
  return Object.fromEntries(said.filter(([, value]) => value !== undefined)) as RunRequest;
}

function valueAt(recipe: Plain, [key = "", inner]: readonly string[]): unknown {
  const value = recipe[key];
  if (inner === undefined || value === undefined) return value;
  if (typeof value === "string") return inner === SECTIONS[key]?.shorthand ? value : undefined;
  return (value as Plain)[inner];
}

/** A resolved run as a recipe that repeats it. Paths are absolute, all defaults are filled in. */
export function recipeOf(config: RunConfig): Plain {
  const recipe: Record<string, unknown> = { version: 1 };
  for (const [name, { recipe: path, isWritten = true, type }] of RUN_OPTION_LIST) {
    const field = fieldOf(name);
    if (path === undefined || field === undefined) continue;
    if (isWritten === false || (isWritten !== true && !isWritten(config))) continue;
    const value: unknown = type.write(config[field]);
    if (value === undefined) continue;
    const [key = "", inner] = path.split(".");
    recipe[key] = inner === undefined ? value : { ...(recipe[key] as Plain | undefined), [inner]: value };
  }
  return recipe;
}
