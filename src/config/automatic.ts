/**
 * What `--method auto` stands for: the best combination found so far, as a recipe beneath whatever the user says. The
 * evidence, and how it was chosen, is in docs/methods/README.md.
 */
import { UNSTRUCTURED, parsePattern, type Pattern } from "../sparsity/pattern.js";
import { PruneError } from "../errors.js";
import { stepOf, type Recipe } from "./recipe.js";
import { AUTOMATIC } from "./schema.js";

const RECIPES: Readonly<Record<Pattern["kind"], Recipe & { readonly method: string }>> = {
  unstructured: { version: 1, method: "alps", allocation: "evolutionary", reproduce: "model" },
  "n-of-m": { version: 1, method: "alps", permutation: "channels", reproduce: "model" },
};

/** The recipe for a kind of pattern. */
export function automaticRecipe(kind: Pattern["kind"]): Recipe & { readonly method: string } {
  return RECIPES[kind];
}

/**
 * The recipe with what `auto` stands for beneath it, where the method is `auto`; options given for `auto` are those of the
 * method it stands for.
 * @param flags of the command line, which come before the recipe
 */
export function layAutomatic(
  recipe: Recipe | undefined,
  flags: { readonly method?: string | undefined; readonly pattern?: string | undefined },
): { readonly recipe: Recipe; readonly method: string } | undefined {
  const asked = recipe?.method === undefined ? undefined : stepOf(recipe.method);
  if ((flags.method ?? asked?.name) !== AUTOMATIC) return undefined;
  const automatic = automaticRecipe(kindOf(flags.pattern ?? recipe?.pattern));
  const options = asked?.name === AUTOMATIC ? asked.options : {};
  return {
    recipe: { ...automatic, ...recipe, method: { name: automatic.method, options } },
    method: automatic.method,
  };
}

/** A pattern that cannot be read is a problem that is reported elsewhere. */
function kindOf(text: string | undefined): Pattern["kind"] {
  if (text === undefined) return UNSTRUCTURED.kind;
  try {
    return parsePattern(text).kind;
  } catch (error) {
    if (error instanceof PruneError) return UNSTRUCTURED.kind;
    throw error;
  }
}
