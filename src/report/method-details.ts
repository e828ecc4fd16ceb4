/** What `prune methods NAME` says: options with defaults, paper and cost of one method, step or rule, read from itself. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { ALLOCATION_RULES, allocationSchema, describeAllocations } from "../allocation/registry.js";
import { UsageError } from "../errors.js";
import { existsSync, readFileSync } from "../files/program-files.js";
import { isFollowing, isTrainer, looksAtGradients, METHODS, type Method } from "../methods/registry.js";
import { nearestName } from "../nearest-name.js";
import { UNSTRUCTURED } from "../sparsity/pattern.js";
import { formatBytes, formatTable } from "./format.js";

/** The compiled file is dist/src/report/method-details.js. */
const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

export interface MethodOption {
  readonly name: string;
  /** "number", or the names it may have. */
  readonly values: string;
  /** null: none, or worked out. */
  readonly default: unknown;
}

/** What a linear costs on the device, as the method states it. */
export interface MethodCost {
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Floating-point operations of products, factorisations, sweeps and systems of rows. */
  readonly operations: number;
  /** Beyond the weight and the statistics. */
  readonly bytes: number;
}

/** `--json` of `prune methods NAME`. */
export interface MethodReport {
  readonly schema: "prune.method/v1";
  readonly name: string;
  readonly flag: "--method" | "--then" | "--allocation";
  readonly summary: string;
  /** Statistics of a linear's inputs, or "gradients"; empty where no calibration is needed. null: not a method. */
  readonly needs: readonly string[] | null;
  readonly options: readonly MethodOption[];
  /** Address of the paper; null where there is none. */
  readonly paper: string | null;
  /** Path of its page inside the package. */
  readonly page: string;
  /** null for rules, and for steps that train. */
  readonly cost: MethodCost | null;
}

/** A linear of a 7B model's attention. */
const REFERENCE = { name: "reference", inFeatures: 4096, outFeatures: 4096, pattern: UNSTRUCTURED, sparsity: 0.5 };

/** @throws UsageError E_METHOD with the nearest name */
export function describeMethod(name: string): MethodReport {
  const method = METHODS.get(name);
  if (method !== undefined) {
    const page = `docs/methods/${name.replace(/^safe\+$/, "safe")}.md`;
    return {
      schema: "prune.method/v1",
      name,
      flag: isFollowing(method) ? "--then" : "--method",
      summary: method.summary,
      needs: [...(isTrainer(method) ? [] : method.needs), ...(looksAtGradients(method) ? ["gradients"] : [])],
      options: optionsOf(method.schema as z.ZodType),
      paper: paperOf(page),
      page,
      cost: costOfMethod(method),
    };
  }
  if (ALLOCATION_RULES.includes(name))
    return {
      schema: "prune.method/v1",
      name,
      flag: "--allocation",
      summary: describeAllocations().find(({ names }) => names.includes(name))?.summary ?? "",
      needs: null,
      options: optionsOf(schemaOfRule(name)),
      paper: null,
      page: "docs/allocation.md",
      cost: null,
    };
  const known = [...METHODS.keys(), ...ALLOCATION_RULES];
  const nearest = nearestName(name.toLowerCase(), known);
  throw new UsageError("E_METHOD", `"${name}" is no method, step or allocation rule.`, {
    hint: nearest === undefined ? "`prune methods` lists them." : `Did you mean "${nearest}"?`,
    details: { value: name, known },
  });
}

function schemaOfRule(name: string): z.ZodType {
  const found = allocationSchema.options.find(({ shape }) => (shape.rule.values as ReadonlySet<string>).has(name));
  return found ?? z.object({});
}

interface JsonProperty {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
}

function optionsOf(schema: z.ZodType): MethodOption[] {
  const { properties = {} } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as {
    properties?: Readonly<Record<string, JsonProperty>>;
  };
  return Object.entries(properties).flatMap(([name, { type = "", enum: choices, default: value = null }]) =>
    name === "rule" ? [] : [{ name, values: choices?.join(", ") ?? type.replace("array", "numbers"), default: value }],
  );
}

/** The first that the method's page names. */
function paperOf(page: string): string | null {
  const file = join(ROOT, page);
  const [, id] = (existsSync(file) ? /arXiv:(\d+\.\d+)/.exec(readFileSync(file, "utf8")) : null) ?? [];
  return id === undefined ? null : `https://arxiv.org/abs/${id}`;
}

function costOfMethod(method: Method): MethodCost | null {
  if (isTrainer(method)) return null;
  const { products, kernels, bytes } = method.cost(REFERENCE, method.schema.parse({}));
  const { inFeatures, outFeatures } = REFERENCE;
  return { inFeatures, outFeatures, operations: products + kernels, bytes };
}

export function renderMethod(report: MethodReport): string {
  const { name, flag, summary, needs, options, paper, page, cost } = report;
  const given = {
    "--method": "--option KEY=VALUE",
    "--then": `--then ${name}:KEY=VALUE`,
    "--allocation": `--allocation ${name}:KEY=VALUE`,
  };
  const rows = options.map(({ name: key, values, default: value }) => [
    key,
    value === null ? "-" : String(value),
    values,
  ]);
  const facts = [
    `${name} (${flag}): ${summary}`,
    ...(needs === null ? [] : [`looks at: ${needs.join(", ") || "nothing but the weights: no calibration is needed"}`]),
    ...(cost === null
      ? []
      : [
          `a linear of ${cost.inFeatures} × ${cost.outFeatures}: ${formatOperations(cost.operations)}, ${formatBytes(cost.bytes)} beside the weight and the statistics`,
        ]),
    ...(paper === null ? [] : [`paper: ${paper}`]),
    `more: ${page}`,
  ];
  const table =
    rows.length === 0
      ? "It has no options."
      : `Options, by ${given[flag]}:\n${formatTable(["name", "default", "values"], rows, [])}`;
  return `${facts.join("\n")}\n\n${table}`;
}

function formatOperations(operations: number): string {
  if (operations === 0) return "no products";
  return `${(operations / 1e9).toPrecision(3)} Gflop`;
}
