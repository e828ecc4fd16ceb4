/** `prune recipes`: the built-in recipes that `--recipe` takes by name. */
import type { CommandSpec } from "../command.js";

export const recipes: CommandSpec = {
  name: "recipes",
  description: "recipes of published settings, for --recipe",
  examples: ["prune recipes", "prune ./Llama-3.2-1B --recipe wanda-2of4 --calibration c4.jsonl.gz"],
  flags: [],
  async act(_said, session) {
    const api = await import("../../index.js");
    const { renderRecipes } = await import("../../report/recipes.js");
    return session.print(api.recipes(), renderRecipes);
  },
};
