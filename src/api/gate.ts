/** Limits of runs and comparisons: taken out of the request, and measured by what `prune eval` measures. */
import { join } from "node:path";
import { resolveEvaluationConfig, type Resolved, type Surroundings } from "../config/resolve.js";
import type { ComparisonReport, EvaluationConfig, LimitName, RunConfig } from "../contract.js";
import { UsageError } from "../errors.js";
import { checkLimits } from "../evaluation/limits.js";
import { LIMIT_OPTIONS, type GateRequest, type LimitRequest } from "../options/gate-options.js";
import { flagOf, type Table } from "../options/option.js";
import { readOptions } from "../options/read.js";
import { Problems } from "../problems.js";

/** The part of a request that a table describes, and the rest. */
export function split<Request extends object>(request: Request, table: Table): [own: object, rest: object] {
  const entries = Object.entries(request);
  const isOwn = ([key]: [string, unknown]): boolean => Object.hasOwn(table, key);
  return [Object.fromEntries(entries.filter(isOwn)), Object.fromEntries(entries.filter((entry) => !isOwn(entry)))];
}

/**
 * How the result of a run is to be evaluated; undefined where no limit was given. The model stands for the output until there is one.
 * @throws UsageError, CalibrationError for the request
 */
export async function resolveGate(
  gate: GateRequest,
  { model, family }: Pick<RunConfig, "model" | "family">,
  surroundings: Surroundings,
): Promise<Resolved<EvaluationConfig> | undefined> {
  const { text, maxWindows, ...limits } = gate;
  const given = Object.keys(LIMIT_OPTIONS).filter((key) => limits[key as keyof LimitRequest] !== undefined);
  if (given.length === 0) {
    const idle = text !== undefined ? "text" : maxWindows !== undefined ? "maxWindows" : undefined;
    if (idle === undefined) return undefined;
    throw new UsageError("E_GATE", `${flagOf(idle)}: a run measures limits on it, and none was given.`, {
      hint: "Add --max-ppl-ratio 1.05 for example, or measure afterwards: prune eval.",
    });
  }
  return resolveEvaluationConfig(
    {
      ...gate,
      model,
      text: text ?? join(model, "evaluation.txt"),
      ...(family === undefined ? {} : { family }),
      // Only what compares needs the dense model.
      ...(given.some((key) => key !== "maxPpl") ? { reference: model } : {}),
    },
    { ...surroundings, findModel: (name) => Promise.resolve(name) },
  );
}

/** @throws UsageError for values that cannot be taken */
export function readLimits(request: LimitRequest): Readonly<Partial<Record<LimitName, number>>> {
  const { asked, problems } = readOptions(LIMIT_OPTIONS, request);
  const found = new Problems();
  found.add(...problems);
  found.throwAny();
  const limits = { perplexity: asked.maxPpl, perplexityRatio: asked.maxPplRatio, klDivergence: asked.maxKl };
  return Object.fromEntries(Object.entries(limits).filter(([, most]) => most !== undefined));
}

/** Rows with what came of each limit, where there are any. */
export function withLimits(report: ComparisonReport, limits: ReturnType<typeof readLimits>): ComparisonReport {
  if (Object.keys(limits).length === 0) return report;
  const rows = report.rows.map((row) => ({
    ...row,
    limits: checkLimits(limits, { perplexity: row.perplexity, reference: row }),
  }));
  return { ...report, rows };
}
