/** What `prune recipes` says. */
import { formatTable } from "./format.js";

/** `--json` of `prune recipes`. */
export interface RecipesReport {
  readonly schema: "prune.recipes/v1";
  readonly recipes: readonly { readonly name: string; readonly description: string }[];
}

export function renderRecipes({ recipes }: RecipesReport): string {
  const rows = recipes.map(({ name, description }) => [name, description]);
  return `${formatTable(["name", "what it repeats"], rows, [])}\n\nprune MODEL --recipe NAME; a file is one as well (docs/recipes.md).`;
}
