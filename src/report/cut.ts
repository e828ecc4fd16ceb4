/** What `prune cut` and `prune verify` say to people. */
import type { CutReport, ModelSizes, VerifyReport } from "../contract.js";
import { formatBytes, formatCount, formatDuration, formatFacts, formatPercent, formatTable } from "./format.js";

const ROWS: readonly (readonly [string, (sizes: ModelSizes) => number | null, (value: number) => string])[] = [
  ["blocks", ({ blocks }) => blocks, String],
  ["experts per mixture", ({ experts }) => experts, String],
  ["parameters", ({ parameters }) => parameters, formatCount],
  ["active per token", ({ activeParameters }) => activeParameters, formatCount],
  ["tensors", ({ tensorBytes }) => tensorBytes, formatBytes],
  ["shards on disk", ({ fileBytes }) => fileBytes, formatBytes],
  ["keys and values per token", ({ keyValueBytesPerToken }) => keyValueBytesPerToken, formatBytes],
];

export function renderSizes(before: ModelSizes, after: ModelSizes): string {
  const rows = ROWS.flatMap(([name, valueOf, format]) => {
    const [then, now] = [valueOf(before), valueOf(after)];
    if (then === null || now === null) return [];
    return [[name, format(then), format(now), then === 0 ? "-" : formatPercent(now / then - 1, 1)]];
  });
  return formatTable(["", "before", "after", "change"], rows, ["before", "after", "change"]);
}

export function renderCut(report: CutReport): string {
  const { model, family, out, config, droppedBlocks, leftOut, seconds } = report;
  const facts: [string, string][] = [
    ["model", `${model} (${family})`],
    ["out", out ?? "nothing was written: dry run"],
  ];
  if (droppedBlocks.length > 0) facts.push(["blocks dropped", droppedBlocks.join(", ")]);
  if (config.length > 0) facts.push(["config.json", config.map(changeOf).join("; ")]);
  if (leftOut.length > 0)
    facts.push([
      "left out",
      `${leftOut.length} tensors of layers that predict further tokens, ${leftOut[0]} among them`,
    ]);
  facts.push(["time", formatDuration(seconds)]);
  return `${formatFacts(facts)}\n\n${renderSizes(report.before, report.after)}`;
}

/** Lists are not for people. */
function changeOf({ path, from, to }: CutReport["config"][number]): string {
  const said = (value: unknown): string => (Array.isArray(value) ? `[${value.length}]` : JSON.stringify(value));
  return `${path.join(".")} ${from === null ? "" : `${said(from)} → `}${said(to)}`;
}

export function renderVerification(report: VerifyReport): string {
  const { model, family, tensors, shards, others, unlisted } = report;
  const facts: [string, string][] = [
    ["model", `${model} (${family})`],
    ["tensors", `${tensors} in ${shards} shards, as config.json says`],
  ];
  for (const [name, valueOf, format] of ROWS) {
    const value = valueOf(report);
    if (value !== null && name !== "tensors") facts.push([name, format(value)]);
  }
  if (others.length > 0) facts.push(["not the language model's", `${others.length}, ${others[0]} among them`]);
  if (unlisted.length > 0) facts.push(["not in the index", `${unlisted.length}, ${unlisted[0]} among them`]);
  return formatFacts(facts);
}
