/** The table of `prune compare`, for people and as CSV. */
import type { ComparisonReport, ComparisonRow, Estimate } from "../contract.js";
import { formatBytes, formatDuration, formatPercent, formatTable } from "./format.js";

const COLUMNS = [
  "method",
  "pattern",
  "allocation",
  "zeros",
  "perplexity",
  "ratio",
  "KL",
  "top-1",
  "loss",
  "time",
  "memory",
];

function withMargin({ value, high }: Estimate, digits: number): string {
  return `${value.toFixed(digits)} ± ${(high - value).toFixed(digits)}`;
}

const reproducesModel = ({ reproduce }: ComparisonRow): boolean => reproduce === "model";

function cells(row: ComparisonRow): string[] {
  return [
    reproducesModel(row) ? `${row.method} *` : row.method,
    row.pattern,
    row.allocation,
    formatPercent(row.sparsity.achieved, 2),
    row.perplexity.toFixed(3),
    withMargin(row.perplexityRatio, 3),
    withMargin(row.klDivergence, 4),
    formatPercent(row.top1Agreement.value, 1),
    row.loss.toFixed(4),
    formatDuration(row.seconds),
    formatBytes(row.peakRssBytes),
  ];
}

/** "keeps" or "breaks" the limits that were given. */
function verdict({ limits = [] }: ComparisonRow): string {
  return limits.every(({ isKept }) => isKept) ? "keeps" : "breaks";
}

export function renderComparison(report: ComparisonReport): string {
  const hasLimits = report.rows.some(({ limits }) => limits !== undefined);
  const columns = hasLimits ? [...COLUMNS, "limits"] : COLUMNS;
  const rows = report.rows.map((row) => (hasLimits ? [...cells(row), verdict(row)] : cells(row)));
  const table = formatTable(columns, rows, COLUMNS.slice(3));
  const facts = [
    `dense perplexity ${report.dense.perplexity.toFixed(3)} of ${report.model}`,
    `calibration ${report.calibration.description}`,
    `text ${report.text}`,
  ];
  const legend = [
    "± and intervals: 95 %, windows taken as independent.",
    "loss: ‖(W-Ŵ)X‖² / ‖WX‖² on the calibration tokens, mean over layers.",
    ...(report.rows.some(reproducesModel)
      ? ["* reproduces the model, not layers: loss is not what it minimises."]
      : []),
  ];
  return [table, "", ...facts, ...legend].join("\n");
}

/** One line per row, numbers as they are; fields that hold a comma are quoted. */
export function comparisonCsv(report: ComparisonReport): string {
  const header =
    "method,pattern,allocation,target,achieved,perplexity,perplexity_ratio,kl_divergence,top1_agreement,loss,seconds,peak_rss_bytes,reproduce";
  const lines = report.rows.map((row) =>
    [
      row.method,
      row.pattern,
      row.allocation,
      row.sparsity.target,
      row.sparsity.achieved,
      row.perplexity,
      row.perplexityRatio.value,
      row.klDivergence.value,
      row.top1Agreement.value,
      row.loss,
      row.seconds,
      row.peakRssBytes,
      row.reproduce,
    ]
      .map((field) => (String(field).includes(",") ? `"${String(field)}"` : String(field)))
      .join(","),
  );
  return [header, ...lines].join("\n");
}
