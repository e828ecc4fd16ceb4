/** The recipes of published settings that the package brings, by name. */
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { existsSync, readdirSync, readFileSync } from "../files/program-files.js";
import { isRecord } from "../is-record.js";

/** The compiled file is dist/src/config/built-in-recipes.js. */
const FOLDER = fileURLToPath(new URL("../../../configs/", import.meta.url));
const ENDING = ".yaml";

export interface BuiltInRecipe {
  readonly name: string;
  readonly description: string;
}

export function builtInRecipes(): BuiltInRecipe[] {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith(ENDING));
  return files.sort().map((file) => {
    const content: unknown = parse(readFileSync(join(FOLDER, file), "utf8"));
    return { name: basename(file, ENDING), description: isRecord(content) ? String(content["description"] ?? "") : "" };
  });
}

/** The file that `--recipe` names: one that exists, else the built-in recipe of that name, with or without its ending. */
export function fileOfRecipe(asked: string, workingDirectory: string): string {
  const file = resolve(workingDirectory, asked);
  if (existsSync(file) || asked !== basename(asked)) return file;
  const builtIn = join(FOLDER, basename(asked, ENDING) + ENDING);
  return existsSync(builtIn) ? builtIn : file;
}
