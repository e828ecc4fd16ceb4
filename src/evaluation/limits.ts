/** Limits that a model is to keep: what a pipeline decides by whether to go on. */
import type { ComparisonReport, EvaluationReport, LimitName, LimitReport, ReferenceComparison } from "../contract.js";
import { GateError } from "../errors.js";

const FLAGS: Readonly<Record<LimitName, string>> = {
  perplexity: "--max-ppl",
  perplexityRatio: "--max-ppl-ratio",
  klDivergence: "--max-kl",
};

/** What came of each limit; what is no number keeps none. */
export function checkLimits(
  limits: Readonly<Partial<Record<LimitName, number>>>,
  {
    perplexity,
    reference,
  }: {
    readonly perplexity: number;
    readonly reference: Pick<ReferenceComparison, "perplexityRatio" | "klDivergence"> | undefined;
  },
): LimitReport[] {
  const values: Readonly<Record<LimitName, number>> = {
    perplexity,
    perplexityRatio: reference?.perplexityRatio.value ?? NaN,
    klDivergence: reference?.klDivergence.value ?? NaN,
  };
  return (Object.keys(FLAGS) as LimitName[]).flatMap((name) => {
    const [most, value] = [limits[name], values[name]];
    return most === undefined ? [] : [{ name, most, value, isKept: value <= most }];
  });
}

/** @throws GateError naming the limits that are not kept */
export function expectLimitsKept({ model, limits = [] }: Pick<EvaluationReport, "model" | "limits">): void {
  const broken = limits.filter(({ isKept }) => !isKept);
  if (broken.length === 0) return;
  const said = broken.map(({ name, most, value }) => `${FLAGS[name]} ${most}: it is ${Number(value.toPrecision(6))}`);
  throw new GateError("E_LIMIT", `${model} does not keep ${said.join("; ")}.`, {
    hint: "Prune less, or by a method that keeps more: prune methods.",
    details: { model, limits: broken },
  });
}

/** @throws GateError naming the rows that do not keep their limits */
export function expectRowsKept({ model, rows }: Pick<ComparisonReport, "model" | "rows">): void {
  const broken = rows.filter(({ limits = [] }) => limits.some(({ isKept }) => !isKept));
  if (broken.length === 0) return;
  const names = broken.map(({ method, pattern, sparsity, allocation }) =>
    [
      method,
      pattern === "unstructured" ? sparsity.target : pattern,
      ...(allocation === "uniform" ? [] : [allocation]),
    ].join(" "),
  );
  throw new GateError(
    "E_LIMIT",
    `${model}: ${broken.length} of ${rows.length} rows do not keep their limits: ${names.join(", ")}.`,
    {
      hint: "Prune less, or by a method that keeps more.",
      details: { model, rows: names },
    },
  );
}
