/** Flags of `prune compare` → a sweep with no defaults left to fill in. */
import { basename, resolve } from "node:path";
import { z } from "zod";
import type { ComparedMethod, ComparisonConfig } from "../contract.js";
import { PruneError, UsageError } from "../errors.js";
import { findSolver } from "../solvers/registry.js";
import { parsePattern, patternSparsity, type Pattern } from "../sparsity/pattern.js";
import { parseTokenSource, resolveRunConfig, type Resolved, type Surroundings } from "./resolve.js";
import { checkSteps } from "./rules.js";
import { parseFlags, type RunFlags } from "./schema.js";
import { parseCount, parseSparsity } from "./units.js";

const comparisonFlagsSchema = z.strictObject({
  model: z.string().optional(),
  family: z.string().optional(),
  methods: z.string().default("magnitude,wanda,sparsegpt"),
  sparsities: z.string().default("0.5,0.6,0.7"),
  patterns: z.string().default("unstructured,2:4"),
  text: z.string({ error: "missing; give a text or a file of token ids to measure perplexity on" }),
  maxWindows: z.string().optional(),
  work: z.string().optional(),
  resume: z.boolean().default(false),
  calibration: z.string().optional(),
  nsamples: z.string().optional(),
  seqlen: z.string().optional(),
  seed: z.string().optional(),
  device: z.string().optional(),
  ignore: z.array(z.string()).optional(),
  propagation: z.string().optional(),
  memory: z.string().optional(),
});

export type ComparisonFlags = z.input<typeof comparisonFlagsSchema>;

const splitList = (text: string): string[] =>
  text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");

/** A method, or several steps joined by "+": wanda+admm-update. */
function parseComparedMethod(label: string): ComparedMethod {
  const [first, ...then] = label.split("+").map((name) => {
    const solver = findSolver(name.trim());
    return { method: solver.name, methodOptions: solver.schema.parse({}) as Readonly<Record<string, unknown>> };
  });
  if (first === undefined) throw new UsageError("E_METHOD", `--methods: "${label}" names no method.`);
  const problem = checkSteps([first, ...then].map(({ method }) => method));
  if (problem !== undefined) throw problem;
  return { label, ...first, then };
}

function targetsOf(
  patterns: readonly string[],
  sparsities: readonly string[],
): { pattern: Pattern; sparsity: number }[] {
  return patterns.map(parsePattern).flatMap((pattern) => {
    const own = patternSparsity(pattern);
    if (own !== undefined) return [{ pattern, sparsity: own }];
    return sparsities.map((text) => ({ pattern, sparsity: parseSparsity(text) }));
  });
}

/** @throws UsageError, ConfigError, CheckpointError as `resolveRunConfig` */
export async function resolveComparison(
  flags: ComparisonFlags,
  surroundings: Surroundings,
): Promise<Resolved<ComparisonConfig>> {
  const { methods, sparsities, patterns, text, maxWindows, work, resume, ...shared } = parseFlags(
    comparisonFlagsSchema,
    flags,
  );
  const compared = splitList(methods).map(parseComparedMethod);
  const targets = targetsOf(splitList(patterns), splitList(sparsities));
  if (compared.length === 0 || targets.length === 0) {
    throw new UsageError("E_COMPARISON", "nothing to compare: --methods, --sparsities or --patterns is empty.");
  }
  const steps = compared.flatMap((method) => [method, ...method.then]);
  const hungry = steps.find(({ method }) => findSolver(method).needs.length > 0);
  const runFlags = Object.fromEntries(Object.entries(shared).filter(([, value]) => value !== undefined)) as RunFlags;
  // Any method that looks at activations stands for all of them: what it needs, all cells are given.
  const asked = { ...runFlags, method: hungry?.method ?? "magnitude", sparsity: "0.5" };
  const starts = hungry === undefined || findSolver(hungry.method).startsFromMask !== true;
  const { config: run, notes } = await resolveRunConfig(
    starts ? asked : { ...asked, method: "wanda" },
    false,
    surroundings,
  );
  const source = parseTokenSource("--text", text, surroundings.workingDirectory);
  if (source instanceof PruneError) throw source;
  return {
    notes,
    config: {
      run,
      methods: compared,
      targets,
      text: source,
      seqlen: run.seqlen,
      maxWindows: maxWindows === undefined ? undefined : parseCount("--max-windows", maxWindows, 1),
      workDirectory: resolve(surroundings.workingDirectory, work ?? `${basename(run.model)}-compare`),
      resume,
    },
  };
}
