/** A resolved run as a recipe that repeats it: left in the output of every run. */
import { stringify } from "yaml";
import { recipeOf } from "../options/recipe.js";
import type { RunConfig } from "../options/run-options.js";

/** The text of recipe.yaml. The output, which may be moved, is not named. */
export function formatRecipe(config: RunConfig): string {
  return stringify(recipeOf(config));
}
