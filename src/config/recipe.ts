/**
 * Recipes: a run written down as YAML (JSON is YAML too). Unknown keys are refused with the nearest valid one, and
 * every problem is named with its place in the file. What the values mean together is rules.ts's business.
 */
import { basename } from "node:path";
import { fileErrorCode } from "../files/file-errors.js";
import { readFile, statSync } from "../files/request-files.js";
import { CST, isMap, isScalar, Lexer, LineCounter, parseDocument, visit, type Document, type Node } from "yaml";
import { z } from "zod";
import { ConfigError, UsageError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { nearestName } from "../nearest-name.js";
import { optionsOfRecipeKey, recipeSchema, requestOfRecipe } from "../options/recipe.js";
import type { RunRequest } from "../options/run-options.js";
import { builtInRecipes } from "./built-in-recipes.js";

/** A written-down run has a few hundred; with a sparsity for each of a thousand linears it has 100,000. */
const LARGEST_BYTES = 2 ** 17;
/** Lists and mappings in each other. */
const DEEPEST = 64;
/** Unknown keys that are named one by one. */
const MOST_UNKNOWN = 50;

/** A recipe as far as it can be taken. */
export interface ExaminedRecipe {
  /** What it asks for; keys of the first level that hold a mistake are left out. */
  readonly request: RunRequest;
  /** A ConfigError E_RECIPE for every mistake, which it names as file:line:column. */
  readonly problems: readonly ConfigError[];
  /** Options that it says and that could not be read, since their key of the first level holds a mistake. */
  readonly unread: ReadonlySet<string>;
}

/**
 * Read a recipe and find every mistake in it.
 * @throws UsageError E_RECIPE_MISSING, ConfigError E_RECIPE for a file that is no YAML
 */
export async function loadRecipe(file: string): Promise<ExaminedRecipe> {
  let text: string;
  try {
    const status = statSync(file);
    if (!(status.isFile() || status.isFIFO()) || status.size > LARGEST_BYTES)
      throw new UsageError("E_RECIPE", `--recipe: ${file} is no file of at most ${LARGEST_BYTES} bytes.`, {
        details: { file },
      });
    text = await readFile(file, "utf8");
  } catch (cause) {
    if (fileErrorCode(cause) === undefined) throw cause;
    const nearest = nearestName(
      basename(file, ".yaml"),
      builtInRecipes().map(({ name }) => name),
    );
    throw new UsageError("E_RECIPE_MISSING", `--recipe: ${file} cannot be read.`, {
      hint: nearest === undefined ? "`prune recipes` lists the built-in ones." : `Did you mean "${nearest}"?`,
      details: { file },
      cause,
    });
  }
  return examineRecipe(text, file);
}

/** @throws ConfigError E_RECIPE listing every problem as file:line:column */
export function parseRecipe(text: string, file: string): RunRequest {
  const { request, problems } = examineRecipe(text, file);
  if (problems.length === 0) return request;
  const messages = problems.map(({ message }) => message);
  throw new ConfigError("E_RECIPE", messages.join("\n"), {
    hint: "docs/recipes.md lists the keys of a recipe.",
    details: { file, problems: messages },
  });
}

/** @throws ConfigError E_RECIPE for a text that is no YAML */
export function examineRecipe(text: string, file: string): ExaminedRecipe {
  const lines = new LineCounter();
  const refuse = (position: number, problem: string, cause?: unknown): ConfigError => {
    const { line, col } = lines.linePos(position);
    return new ConfigError("E_RECIPE", `${file}:${line}:${col} ${problem}.`, {
      details: { file, line, column: col },
      cause,
    });
  };
  const document = parse(text, lines, refuse);
  const [first] = document.errors;
  if (first !== undefined) throw refuse(first.pos[0], first.message);
  refuseInherited(document, refuse);
  const content = valuesOf(document, refuse);
  const parsed = recipeSchema.safeParse(content);
  if (parsed.success) return { request: requestOfRecipe(parsed.data), problems: [], unread: new Set() };
  const issues = parsed.error.issues.flatMap(plainIssues);
  const wrong = new Set(
    issues.flatMap(({ path, keys }) => (path.length === 0 && keys !== undefined ? keys : [String(path[0] ?? "")])),
  );
  const kept = Object.entries(isRecord(content) ? content : {}).filter(([key]) => !wrong.has(key));
  return {
    request: requestOfRecipe(recipeSchema.parse({ ...Object.fromEntries(kept), version: 1 })),
    problems: issues
      .flatMap((issue) => describeIssue(issue, document, lines, file))
      .map((message) => new ConfigError("E_RECIPE", message, { details: { file } })),
    unread: new Set([...wrong].flatMap(optionsOfRecipeKey)),
  };
}

type Refuse = (position: number, problem: string, cause?: unknown) => ConfigError;

function parse(text: string, lineCounter: LineCounter, refuse: Refuse): Document.Parsed {
  if (isTooDeep(text)) throw refuse(0, TOO_DEEP);
  try {
    return parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: true, logLevel: "error" });
  } catch (cause) {
    if (cause instanceof RangeError) throw refuse(0, TOO_DEEP, cause);
    throw cause;
  }
}

/** The library runs out of stack where they lie too deep in each other, and then out of the process's memory. */
function isTooDeep(text: string): boolean {
  let [brackets, inLine] = [0, 0];
  let isContent = false;
  for (const lexeme of new Lexer().lex(text)) {
    if (isContent) {
      isContent = false; // of a scalar, whatever it looks like
      continue;
    }
    const token = CST.tokenType(lexeme);
    isContent = token === "scalar";
    if (token === "newline") inLine = 0;
    else if (token === "flow-seq-start" || token === "flow-map-start") brackets++;
    else if (token === "flow-seq-end" || token === "flow-map-end") brackets--;
    else if (token === "seq-item-ind" || token === "explicit-key-ind" || token === "map-value-ind") inLine++;
    if (brackets > DEEPEST || (inLine > DEEPEST && brackets === 0)) return true;
  }
  return false;
}

/** What a document says, as plain values: aliases that lead into themselves, or to far more than was written, are refused. */
function valuesOf(document: Document.Parsed, refuse: Refuse): unknown {
  try {
    const content: unknown = document.toJS({ maxAliasCount: MOST_ALIASED });
    JSON.stringify(content);
    return content;
  } catch (cause) {
    if (cause instanceof RangeError) throw refuse(0, TOO_DEEP, cause);
    let alias = 0;
    visit(document, {
      Alias(_key, { range }) {
        alias = range?.[0] ?? 0;
        return visit.BREAK;
      },
    });
    const reason = cause instanceof Error ? cause.message : String(cause);
    // What leads into itself is read, but has no end when it is written.
    const problem = cause instanceof TypeError ? "lead into themselves" : `cannot be followed: ${reason}`;
    throw refuse(alias, `aliases (*name) ${problem}`, cause);
  }
}

/** A key that would be the ancestor of what it stands in rather than a part of it: the schema passes it over. */
function refuseInherited(document: Document.Parsed, refuse: Refuse): void {
  visit(document, {
    Pair(_place, { key }) {
      if (!isScalar(key) || String(key.value) !== "__proto__") return;
      throw refuse(key.range?.[0] ?? 0, "__proto__: unknown key");
    },
  });
}

const TOO_DEEP = "lists and mappings lie too deep in each other";
/** The library counts what aliases stand for, and gives up beyond this. */
const MOST_ALIASED = 100;

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
  const known = knownKeys(path, document);
  const more = issue.keys.length - MOST_UNKNOWN;
  const named = issue.keys.slice(0, MOST_UNKNOWN).map((key) => {
    const pair = isMap(parent) ? parent.items.find((item) => String(item.key) === key) : undefined;
    const nearest = nearestName(key, known);
    const suggestion = nearest === undefined ? "" : ` Did you mean "${nearest}"?`;
    return `${at(pair?.key)} ${[...path, key].join(".")}: unknown key.${suggestion}`;
  });
  return more > 0 ? [...named, `${at(parent)} ${more} more unknown keys.`] : named;
}

/** The keys that an object at this path may have, as far as the schema says so plainly. */
function knownKeys(path: readonly (string | number)[], document: Document): string[] {
  let schemas: z.core.$ZodType[] = [recipeSchema];
  for (const [depth, part] of path.entries()) {
    schemas = schemas.flatMap(alternatives).flatMap((schema): z.core.$ZodType[] => {
      if (schema instanceof z.ZodArray) return [schema.element];
      const inner = schema instanceof z.ZodObject ? (schema.shape as z.core.$ZodShape)[part] : undefined;
      return inner === undefined ? [] : [inner];
    });
    schemas = schemas.flatMap(alternatives).filter((schema) => fits(schema, document.getIn(path.slice(0, depth + 1))));
  }
  const objects = schemas.flatMap(alternatives).filter((schema) => schema instanceof z.ZodObject);
  return [...new Set(objects.flatMap((schema) => Object.keys(schema.shape)))];
}

/** What a value may be: the members of a union, without what says that it may be absent. */
function alternatives(schema: z.core.$ZodType): z.core.$ZodType[] {
  if (schema instanceof z.ZodOptional) return alternatives(schema.unwrap());
  return schema instanceof z.ZodUnion ? schema.options.flatMap(alternatives) : [schema];
}

/** Whether the literals of an object's schema are those of a node of the document: its rule, where it names one. */
function fits(schema: z.core.$ZodType, node: unknown): boolean {
  if (!(schema instanceof z.ZodObject) || !isMap(node)) return true;
  return Object.entries(schema.shape as z.core.$ZodShape).every(
    ([key, member]) => !(member instanceof z.ZodLiteral) || member.values.has(node.get(key) as z.core.util.Literal),
  );
}
