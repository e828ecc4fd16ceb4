/** Reports as text for people: what stdout shows without `--json`. Pure; the last line end is the caller's. */
import { elementsOf } from "../array.js";
import type {
  BlockTrainingReport,
  ConfigReport,
  Estimate,
  ReferenceComparison,
  EvaluationReport,
  GenerationReport,
  InspectionReport,
  LimitName,
  LimitReport,
  MaskReport,
  PlanReport,
  RunReport,
  TensorInspection,
  TextCounts,
  ZeroChecks,
} from "../contract.js";
import type { DevicesReport } from "./devices-report.js";
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatFacts,
  formatLoss,
  formatPercent,
  formatTable,
} from "./format.js";

/** How many texts and tokens there were, and what of them was not used. */
function renderCounts({ texts, tokens, empty, withoutField, tooShort }: TextCounts): string {
  const unused = [
    [empty, "empty"],
    [withoutField, "records without the field"],
    [tooShort, "drawn and too short"],
  ] as const;
  const said = unused.filter(([count]) => count > 0).map(([count, what]) => `, ${formatCount(count)} ${what}`);
  return `${formatCount(texts)} ${texts === 1 ? "text" : "texts"}, ${formatCount(tokens)} tokens read${said.join("")}`;
}

export function renderMask({ out, mask, elements, pruned, cleared, tensors, seconds }: MaskReport): string {
  return formatFacts([
    ["out", out],
    ["mask", mask],
    ["zeros", `${formatCount(pruned)} of ${formatCount(elements)} weights in ${tensors.length} tensors`],
    ["cleared", `${formatCount(cleared)} that were not zero before`],
    ["time", formatDuration(seconds)],
  ]);
}

export function renderZeroChecks(report: ZeroChecks): string {
  const checks = (["mask", "pattern", "against"] as const).flatMap((name) => {
    const check = report[name];
    return check === undefined ? [] : [{ name, check }];
  });
  const facts = checks.map(({ name, check }): [string, string] => {
    const { isKept, tensors, zeros, lost, added, broken } = check;
    const what = isKept
      ? "kept"
      : name === "pattern"
        ? `lost in ${broken.length} tensors`
        : `${formatCount(lost)} zeros lost in ${broken.length} tensors`;
    const further = added === 0 ? "" : `, ${formatCount(added)} more than asked for`;
    return [name, `${what}; ${tensors} tensors with ${formatCount(zeros)} zeros${further}`];
  });
  const lines = checks.flatMap(({ name, check }) => check.broken.map((finding) => `${name}: ${finding.name}`));
  return [formatFacts([["model", report.model], ...facts]), ...lines].join("\n");
}

export function renderRun(report: RunReport): string {
  const { layers, sparsity, calibration } = report;
  const zeros = layers.reduce((sum, layer) => sum + layer.zeros, 0);
  const elements = layers.reduce((sum, layer) => sum + layer.elements, 0);
  const facts: [string, string][] = [
    ["out", report.out],
    ["method", `${report.method}, pattern ${report.pattern}, on ${report.device}`],
    ["sparsity", `${formatPercent(sparsity.achieved, 4)} (target ${formatPercent(sparsity.target, 4)})`],
    ["zeros", `${formatCount(zeros)} of ${formatCount(elements)} weights in ${layers.length} linears`],
  ];
  if (calibration !== null) {
    facts.push([
      "calibration",
      `${calibration.sequences} sequences of ${calibration.seqlen} tokens, sha256 ${calibration.sha256.slice(0, 12)}`,
    ]);
    if (calibration.counts !== undefined) facts.push(["text", renderCounts(calibration.counts)]);
  }
  const permuted = layers.flatMap(({ permutation }) => permutation ?? []);
  if (permuted.length > 0) {
    const mean = (values: readonly number[]): string =>
      formatPercent(values.reduce((sum, value) => sum + value, 0) / values.length, 2);
    const [retained, before] = [permuted.map((entry) => entry.retained), permuted.map((entry) => entry.before)];
    facts.push([
      "permutation",
      `inputs of ${permuted.length} linears; the pattern retains ${mean(retained)} of their score, ${mean(before)} without`,
    ]);
  }
  if (report.resumedBlocks > 0) facts.push(["resumed", `after ${report.resumedBlocks} blocks of an earlier run`]);
  const trained = report.training ?? [];
  for (const each of new Set(trained.map(({ step }) => step)))
    facts.push([each, renderTraining(trained.filter(({ step }) => step === each))]);
  for (const { name, steps, first, last } of report.trained ?? [])
    facts.push([name, `${steps} steps, loss ${first.toPrecision(4)} to ${last.toPrecision(4)} (tenths of the steps)`]);
  facts.push(["time", formatDuration(report.seconds)], ["peak memory", formatBytes(report.peakRssBytes)]);
  const measured = report.evaluation === undefined ? "" : `\n\n${renderEvaluation(report.evaluation)}`;
  return `${formatFacts(facts)}\n\n${renderLayerSummary(report)}${measured}`;
}

/** One row per kind of linear (the last parts of its path), because a model has hundreds of linears. */
function renderLayerSummary({ layers }: RunReport): string {
  const kinds = new Map<
    string,
    { count: number; zeros: number; elements: number; loss: number | null; error: number; seconds: number }
  >();
  const isMeasured = layers.some(({ reconstruction }) => reconstruction !== undefined);
  for (const { name, zeros, elements, loss, reconstruction, seconds } of layers) {
    const kind = name.replace(/^.*?\.\d+\./, "");
    const sum = kinds.get(kind) ?? { count: 0, zeros: 0, elements: 0, loss: null, error: 0, seconds: 0 };
    kinds.set(kind, {
      count: sum.count + 1,
      zeros: sum.zeros + zeros,
      elements: sum.elements + elements,
      loss: loss === null ? sum.loss : (sum.loss ?? 0) + loss,
      error: sum.error + (reconstruction?.relative ?? 0),
      seconds: sum.seconds + seconds,
    });
  }
  const rows = [...kinds].map(([kind, { count, zeros, elements, loss, error, seconds }]) => [
    kind,
    String(count),
    formatCount(elements),
    formatPercent(elements === 0 ? 0 : zeros / elements),
    loss === null ? "-" : formatLoss(loss),
    ...(isMeasured ? [(error / count).toFixed(4)] : []),
    formatDuration(seconds),
  ]);
  const header = ["linear", "count", "weights", "zeros", "loss", ...(isMeasured ? ["mean error"] : []), "time"];
  return formatTable(header, rows, header.slice(1));
}

export function renderPlan(report: PlanReport): string {
  const facts: [string, string][] = [
    ["model", `${report.model} (${report.family}, ${report.blocks} blocks)`],
    ["out", `${report.out} (not written: dry run)`],
    ["method", `${report.method}, pattern ${report.pattern}, on ${report.device}`],
    ["would prune", `${report.linears} linears, ${formatCount(report.prunableElements)} weights`],
    ["zeros to make", `${formatCount(report.zerosToMake)} (${formatPercent(report.sparsity)})`],
    ["bytes", `${formatBytes(report.bytesToRead)} to read, ${formatBytes(report.bytesToWrite)} to write`],
    ["disk", `${formatBytes(report.diskBytes)} while it is at work`],
    ["peak memory", `about ${formatBytes(report.peakMemoryBytes)}`],
    ["time", `about ${formatDuration(report.estimatedSeconds)}`],
  ];
  if (report.ignored.length > 0) facts.push(["left dense", report.ignored.join(", ")]);
  return formatFacts(facts);
}

export function renderGeneration(report: GenerationReport): string {
  const { sequences, tokens, ended, sampling, batchSize, passes, generatedTokens, seconds } = report;
  const { seed, temperature, topK, topP, greedyTokens } = sampling;
  const held = report.blocksInMemory === report.blocks ? "all" : `${report.blocksInMemory} of ${report.blocks}`;
  return formatFacts([
    ["out", report.out],
    ["model", report.model],
    ["written", `${formatCount(sequences)} sequences, ${formatCount(tokens)} tokens, at most ${report.seqlen} each`],
    ["ended", `${formatCount(ended)} sequences by a token that ends a text`],
    [
      "sampling",
      `${greedyTokens} tokens greedily, then temperature ${temperature}, top-k ${topK}, top-p ${topP}, seed ${seed}`,
    ],
    ["passes", `${formatCount(passes)} of up to ${batchSize} sequences, weights of ${held} blocks in memory`],
    ["time", `${formatDuration(seconds)}, ${formatCount(Math.round(generatedTokens / seconds))} tokens per second`],
  ]);
}

export function renderEvaluation(report: EvaluationReport): string {
  const perplexity = Number.isFinite(report.perplexity) ? report.perplexity.toFixed(4) : String(report.perplexity);
  const { windows, seqlen, tokens, text, textSha256 } = report;
  return `${formatFacts([
    ["perplexity", perplexity],
    ["nll", `${report.nll.toFixed(6)} nats per token`],
    [
      "protocol",
      `${windows} non-overlapping windows of ${seqlen} tokens, ${formatCount(tokens)} predicted, mean over all`,
    ],
    ["text", `${text}, sha256 ${textSha256.slice(0, 12)}`],
    ["model", report.model],
    ...(report.reference === undefined ? [] : referenceFacts(report.reference)),
    ...(report.limits ?? []).map(limitFact),
    ["time", formatDuration(report.seconds)],
  ])}`;
}

const LIMITED: Readonly<Record<LimitName, string>> = {
  perplexity: "perplexity",
  perplexityRatio: "ratio",
  klDivergence: "KL divergence",
};

function limitFact({ name, most, isKept }: LimitReport): [string, string] {
  return ["limit", `${LIMITED[name]} ≤ ${most}: ${isKept ? "kept" : "NOT KEPT"}`];
}

function referenceFacts(reference: ReferenceComparison): [string, string][] {
  const { model, perplexity, perplexityRatio, klDivergence, top1Agreement } = reference;
  const interval = ({ value, low, high }: Estimate, digits: number): string =>
    `${value.toFixed(digits)} (95 % interval ${low.toFixed(digits)} to ${high.toFixed(digits)})`;
  return [
    ["reference", `${model}, perplexity ${perplexity.toFixed(4)}`],
    ["ratio", interval(perplexityRatio, 4)],
    ["KL divergence", `${interval(klDivergence, 5)} nats`],
    ["top-1 agreement", interval(top1Agreement, 4)],
  ];
}

/** Losses are the mean over blocks: on what is held out where there is any, else on what was trained on. */
function renderTraining(blocks: readonly BlockTrainingReport[]): string {
  const mean = (of: (block: BlockTrainingReport) => number): string =>
    (blocks.reduce((sum, block) => sum + of(block), 0) / blocks.length).toPrecision(3);
  const before = mean(({ heldOutBefore, before: own }) => heldOutBefore ?? own);
  const after = mean(({ heldOutAfter, after: own }) => heldOutAfter ?? own);
  const where = blocks.some(({ heldOutAfter }) => heldOutAfter !== null) ? ", on sequences held out" : "";
  return `${blocks.length} blocks, loss ${before} to ${after} relative to their outputs${where}`;
}

export function renderInspection(report: InspectionReport): string {
  const row = ({ name, dtype, shape, zeros, patterns, prunable }: TensorInspection): string[] => {
    const elements = elementsOf(shape);
    const share = elements === 0 ? "-" : formatPercent(zeros / elements);
    return [
      name,
      dtype,
      `[${shape.join(", ")}]`,
      formatCount(zeros),
      share,
      prunable ? patterns.join(" ") || "-" : "(not pruned)",
    ];
  };
  const table = formatTable(["tensor", "dtype", "shape", "zeros", "share", "patterns"], report.tensors.map(row), [
    "zeros",
    "share",
  ]);
  const total = `${formatCount(report.zeros)} zeros of ${formatCount(report.elements)} weights in prunable linears: ${formatPercent(report.sparsity, 4)}`;
  const further =
    report.further.length === 0
      ? ""
      : `\n${report.further.length} tensors of layers that predict further tokens are passed through untouched and stay dense`;
  return `${table}\n\n${total}${further}`;
}

export function renderConfig({ model, modelType, family, given, defaults }: ConfigReport): string {
  const facts = formatFacts([
    ["model", model],
    ["model_type", modelType],
    ["family", family ?? "none that is known"],
  ]);
  const row = ([key, value]: [string, unknown], from: string): string[] => [key, JSON.stringify(value) ?? "-", from];
  const rows = [
    ...Object.entries(given).map((entry) => row(entry, "config.json")),
    ...Object.entries(defaults).map((entry) => row(entry, "default")),
  ].sort(([a = ""], [b = ""]) => (a < b ? -1 : 1));
  return `${facts}\n\n${formatTable(["key", "value", "from"], rows, [])}`;
}

export function renderDevices(report: DevicesReport): string {
  const facts: [string, string][] = [
    ["auto takes", `${report.auto.device}: ${report.auto.reason}`],
    ["cpu", `${report.cpu.model}, ${report.cpu.threads} threads`],
    ["onnxruntime", `${report.onnxruntime.version}, providers ${report.onnxruntime.providers.join(", ")}`],
    ["adapters", report.adapters.length === 0 ? "none" : String(report.adapters.length)],
  ];
  const adapters = report.adapters.map(
    (adapter) => `\n${formatFacts(Object.entries(adapter).map(([key, value]) => [`  ${key}`, describe(value)]))}`,
  );
  return [formatFacts(facts), ...adapters].join("\n");
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return value.map(describe).join(", ");
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value)
    .map(([key, item]) => `${key} ${describe(item)}`)
    .join(", ");
}
