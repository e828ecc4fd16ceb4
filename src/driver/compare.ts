/**
 * `prune compare`: every method at every target, each pruned, evaluated against the dense model and thrown away. The
 * dense model is evaluated once; finished cells are noted in a file, so an interrupted sweep goes on where it was.
 */
import { appendFile, mkdir, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { loadEvaluation } from "../calibration/corpus.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { ComparedMethod, ComparisonConfig, ComparisonReport, ComparisonRow, EngineEvent } from "../contract.js";
import { ConfigError } from "../errors.js";
import { estimateMean } from "../evaluation/divergence.js";
import { compareEvaluated, evaluateWindows, type EvaluatedWindows } from "../evaluation/perplexity.js";
import { openModel } from "../model/open-model.js";
import { formatPattern } from "../sparsity/pattern.js";
import { hashOf } from "./journal.js";
import { pruneModel } from "./prune-model.js";

const RESULTS_NAME = "compare.jsonl";
const PRUNED_NAME = "pruned";

type Target = ComparisonConfig["targets"][number];

/** Run the sweep. Rows come in the order of methods, then targets. */
export async function compareMethods(config: ComparisonConfig, context: EngineContext): Promise<ComparisonReport> {
  await mkdir(config.workDirectory, { recursive: true });
  await using model = await openModel(config.run.model, { family: config.run.family, logger: context.logger });
  const corpus = await loadEvaluation(config.text, {
    modelDirectory: config.run.model,
    seqlen: config.seqlen,
    vocabSize: model.architecture.vocabularySize,
    ...(config.maxWindows === undefined ? {} : { maxWindows: config.maxWindows }),
  });
  const results = join(config.workDirectory, RESULTS_NAME);
  const fingerprint = fingerprintOf(config, corpus.sha256);
  const finished = config.resume ? await readResults(results, fingerprint) : new Map<string, ComparisonRow>();
  if (finished.size === 0) await writeFile(results, `${JSON.stringify({ fingerprint })}\n`);

  await using dense = await evaluateWindows(model, corpus.sequences, join(config.workDirectory, "dense.bin"), context);
  const cells = config.methods.flatMap((method) => config.targets.map((target) => ({ method, target })));
  const rows: ComparisonRow[] = [];
  for (const [index, { method, target }] of cells.entries()) {
    const label = labelOf(method, target);
    throwIfStopped(context, true);
    let row = finished.get(label);
    if (row === undefined) {
      row = await runCell(config, method, target, dense, corpus.sequences, context);
      await appendFile(results, `${JSON.stringify({ label, row })}\n`);
    }
    rows.push(row);
    context.emit({ type: "cell", done: index + 1, total: cells.length, label });
  }
  await rm(results);
  await rmdir(config.workDirectory).catch(() => undefined); // kept where it holds something else
  return {
    schema: "prune.compare/v1",
    model: config.run.model,
    text: corpus.description,
    textSha256: corpus.textSha256,
    dense: { perplexity: Math.exp(estimateMean(dense.windowLosses).value) },
    resumedRows: finished.size,
    rows,
  };
}

function labelOf({ label }: ComparedMethod, { pattern, sparsity }: Target): string {
  return `${label} ${pattern.kind === "unstructured" ? sparsity : formatPattern(pattern)}`;
}

/** What must be equal for finished rows to be taken over. */
function fingerprintOf(config: ComparisonConfig, textSha256: string): string {
  const { run } = config;
  const methods = config.methods.map(({ label, methodOptions, then }) => [label, methodOptions, then]);
  const shared = [
    run.model,
    run.calibration,
    run.nsamples,
    run.seqlen,
    run.seed,
    run.device,
    run.ignore,
    run.propagation,
  ];
  return hashOf(JSON.stringify([shared, methods, config.seqlen, config.maxWindows, textSha256]));
}

async function readResults(file: string, fingerprint: string): Promise<Map<string, ComparisonRow>> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    return new Map(); // nothing was finished
  }
  const lines = text.split("\n").slice(0, -1);
  const [head, ...rows] = lines.map(
    (line) => JSON.parse(line) as { fingerprint?: string; label: string; row: ComparisonRow },
  );
  if (head?.fingerprint !== fingerprint) {
    throw new ConfigError("E_FINGERPRINT", `${file}: the interrupted comparison had other settings.`, {
      hint: "Resume with the same command, or leave --resume out to start again.",
      details: { file },
    });
  }
  return new Map(rows.map(({ label, row }) => [label, row]));
}

async function runCell(
  config: ComparisonConfig,
  { label, method, methodOptions, then }: ComparedMethod,
  { pattern, sparsity }: Target,
  dense: EvaluatedWindows,
  sequences: readonly Int32Array[],
  context: EngineContext,
): Promise<ComparisonRow> {
  const out = join(config.workDirectory, PRUNED_NAME);
  let peakRssBytes = 0;
  const watching: EngineContext = {
    ...context,
    emit: (event: EngineEvent) => {
      peakRssBytes = Math.max(peakRssBytes, process.memoryUsage.rss());
      context.emit(event);
    },
  };
  const run = { ...config.run, method, methodOptions, then, pattern, sparsity, out, force: true, resume: false };
  try {
    const report = await pruneModel(run, watching);
    await using pruned = await openModel(out, { family: config.run.family, logger: context.logger });
    await using evaluated = await evaluateWindows(
      pruned,
      sequences,
      join(config.workDirectory, "pruned.bin"),
      watching,
    );
    const { klDivergence, top1Agreement, perplexityRatio } = await compareEvaluated(dense, evaluated);
    const losses = report.layers.map((layer) => layer.loss);
    return {
      method: label,
      pattern: report.pattern,
      sparsity: report.sparsity,
      perplexity: Math.exp(estimateMean(evaluated.windowLosses).value),
      perplexityRatio,
      klDivergence,
      top1Agreement,
      loss: losses.includes(null) ? null : losses.reduce<number>((sum, loss) => sum + (loss ?? 0), 0),
      seconds: report.seconds,
      peakRssBytes,
    };
  } finally {
    await rm(out, { recursive: true, force: true });
    await rm(`${out}.partial`, { recursive: true, force: true });
  }
}
