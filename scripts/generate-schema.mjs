// Writes configs/recipe.schema.json from the recipe's definition. Needs a build.
import { writeFileSync } from "node:fs";

const { recipeJsonSchema } = await import("../dist/src/options/recipe.js");
writeFileSync(
  new URL("../configs/recipe.schema.json", import.meta.url),
  `${JSON.stringify(recipeJsonSchema(), null, 2)}\n`,
);
