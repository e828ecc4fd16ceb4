/** What `prune cut` and `prune verify` say to people. */
import type { CutReport, ModelSizes, StructureReport, VerifyReport } from "../contract.js";
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

export function renderCut(report: Omit<CutReport, "schema">): string {
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

export function renderStructure(report: StructureReport): string {
  const { criterion, calibration, rounds = [], experts = [], widths = [] } = report;
  const text =
    calibration === null
      ? ""
      : `, ${calibration.sequences} sequences of ${calibration.seqlen} tokens, sha256 ${calibration.sha256.slice(0, 12)}`;
  const parts = [`criterion  ${criterion}${text}`, renderCut(report)];
  if (rounds.length > 0) parts.push(renderRounds(rounds, report.droppedBlocks));
  if (experts.length > 0) parts.push(renderExperts(experts));
  if (widths.length > 0) parts.push(renderWidths(widths));
  return parts.join("\n\n");
}

function renderRounds(rounds: NonNullable<StructureReport["rounds"]>, dropped: readonly number[]): string {
  const rows = rounds.flatMap((scores, round) =>
    scores.map(({ block, score }) => [
      String(round + 1),
      String(block),
      score.toPrecision(4),
      dropped.includes(block) ? "goes" : "",
    ]),
  );
  return formatTable(["round", "block", "score", ""], rows, ["round", "block", "score"]);
}

/** A row per mixture: what is kept, and the range of scores on both sides. */
function renderExperts(experts: NonNullable<StructureReport["experts"]>): string {
  const blocks = [...new Set(experts.map(({ block }) => block))];
  const range = (scores: readonly number[]): string =>
    scores.length === 0 ? "-" : `${Math.min(...scores).toPrecision(3)} to ${Math.max(...scores).toPrecision(3)}`;
  const rows = blocks.map((block) => {
    const own = experts.filter((one) => one.block === block);
    const [kept, gone] = [own.filter(({ isKept }) => isKept), own.filter(({ isKept }) => !isKept)];
    const scoresOf = (some: typeof own): number[] => some.map(({ score }) => score);
    return [
      String(block),
      gone.map(({ expert }) => expert).join(" "),
      range(scoresOf(gone)),
      range(scoresOf(kept)),
      String(own.filter(({ tokens }) => tokens === 0).length),
      String(own.filter(({ isProtected }) => isProtected).length),
    ];
  });
  const header = ["block", "experts that go", "their scores", "scores of others", "without tokens", "protected"];
  return formatTable(header, rows, ["block", "without tokens", "protected"]);
}

function renderWidths(widths: NonNullable<StructureReport["widths"]>): string {
  const rows = widths.map(({ block, kept, of, cutError, error }) => [
    String(block),
    `${kept} of ${of}`,
    formatPercent(cutError, 1),
    formatPercent(error, 1),
  ]);
  const header = ["block", "channels", "error, cut", "error"];
  return formatTable(header, rows, header);
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
