/** The names that completion offers, from the methods themselves. */
import { families, methods, recipes } from "../index.js";
import type { Names } from "./completion.js";

export function knownNames(): Names {
  const all = methods().methods.map(({ name, summary, startsFromMask }) => ({
    value: name,
    help: summary,
    startsFromMask,
  }));
  return {
    methods: all.filter(({ startsFromMask }) => !startsFromMask),
    steps: all.filter(({ startsFromMask }) => startsFromMask),
    families: families().families.map(({ name }) => ({ value: name, help: "" })),
    recipes: recipes().recipes.map(({ name, description }) => ({ value: name, help: description })),
  };
}
