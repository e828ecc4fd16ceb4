/**
 * `prune compare`: every method at every target under every allocation, each pruned, evaluated against the dense model
 * and thrown away. The dense model is evaluated once, calibration tokens are made once and each allocation is worked out
 * once; finished cells are noted in a file, so an interrupted sweep goes on where it was.
 */
import { syncDirectory } from "../files/durable.js";
import { appendFile, mkdir, open, readFile, rename, rm, rmdir, writeFile } from "../files/output-files.js";
import { dirname, join } from "node:path";
import { loadEvaluation } from "../calibration/corpus.js";
import { contextOfPart, throwIfStopped, type EngineContext } from "../context.js";
import type {
  ComparedAllocation,
  ComparedMethod,
  ComparisonConfig,
  ComparisonReport,
  ComparisonRow,
  EngineEvent,
  LayerReport,
  RunConfig,
} from "../contract.js";
import { CheckpointError, combineProblems, ConfigError, PruneError } from "../errors.js";
import { estimateMean } from "../evaluation/divergence.js";
import { compareEvaluated, evaluateWindows, type EvaluatedWindows } from "../evaluation/perplexity.js";
import { openModel, type Model } from "../model/open-model.js";
import { placeOf, sharedBytesOf } from "../options/fingerprint.js";
import { fileErrorCode } from "../files/file-errors.js";
import { OutputLock } from "../files/lock.js";
import { formatPattern } from "../sparsity/pattern.js";
import { UNIFORM } from "../allocation/registry.js";
import { VERSION } from "../version.js";
import { courseOf, spansOf } from "./course.js";
import { hashOf, wholeLines } from "./journal.js";
import { StoredStatistics } from "./stored-statistics.js";
import { checkWeights } from "./finite-weights.js";
import { PARTS } from "./parts.js";
import { decidePrunables } from "./prunables.js";
import { allocationKey, pruneModel } from "./prune-model.js";
import { secondsOf, USUAL_RATES } from "./rates.js";
import { evaluationWork } from "./run-cost.js";
import { loadCalibrationTokens } from "./run-tokens.js";
import { blockTrainingsOf, modelTrainingsOf, plannedRun, solverOf, type SharedWork } from "./session.js";

const RESULTS_NAME = "compare.jsonl";
const PRUNED_NAME = "pruned";
const STATISTICS_NAME = "statistics";
/** Where a power cut forgot that the last cell's things were removed. */
const LEFT_BY_CELLS = ["", ".partial", ".lock", ".bin"].map((ending) => `${PRUNED_NAME}${ending}`);

type Target = ComparisonConfig["targets"][number];

interface Cell {
  readonly method: ComparedMethod;
  readonly target: Target;
  readonly allocation: ComparedAllocation;
}

/** Refuse the sweep before any work where some cell's pattern, patterns of linears or allocation does not fit the model. */
function requireUsableCells(config: ComparisonConfig, model: Model): void {
  const problems = new Map<string, PruneError>();
  for (const cell of cellsOf(config)) {
    try {
      decidePrunables({ ...config.run, ...settingsOf(cell) }, model);
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      problems.set(error.message, error); // the same for every method
    }
  }
  if (problems.size > 0) throw combineProblems([...problems.values()]);
}

/** What of a run a cell decides, besides the method. */
function settingsOf({
  method,
  target,
  allocation: { allocation },
}: Cell): Pick<RunConfig, "pattern" | "sparsity" | "allocation"> & Partial<RunConfig> {
  return { ...target, ...method.settings, allocation };
}

const NO_ALLOCATION: ComparedAllocation = { label: UNIFORM.rule, allocation: UNIFORM };

function cellsOf({ methods, targets, allocations }: ComparisonConfig): Cell[] {
  return methods.flatMap((method) =>
    targets.flatMap((target) => {
      const { kind } = target.pattern;
      if (method.kind !== undefined && method.kind !== kind) return [];
      const own = method.settings?.allocation;
      const spread = own !== undefined ? [own] : kind === "unstructured" ? allocations : [NO_ALLOCATION];
      return spread.map((allocation) => ({ method, target, allocation }));
    }),
  );
}

/** Run the sweep. Rows come in the order of methods, then targets, then allocations. */
export async function compareMethods(config: ComparisonConfig, context: EngineContext): Promise<ComparisonReport> {
  await mkdir(config.workDirectory, { recursive: true });
  await using _lock = await OutputLock.take(config.workDirectory, "--work");
  await using model = await openModel(config.run.model, { family: config.run.family, logger: context.logger });
  const corpus = await loadEvaluation(config.text, {
    modelDirectory: config.run.model,
    textField: config.run.textField,
    seqlen: config.seqlen,
    vocabSize: model.architecture.vocabularySize,
    ...(config.maxWindows === undefined ? {} : { maxWindows: config.maxWindows }),
  });
  requireUsableCells(config, model);
  const nonFinite = await checkWeights(model, config.run, context);
  const calibration = await loadCalibrationTokens(config.run, model, contextOfPart(context, { from: 0, to: 0 }));
  await using statistics = new StoredStatistics(join(config.workDirectory, STATISTICS_NAME));
  const shared: SharedWork = { calibration, allocations: new Map(), statistics, nonFinite };
  const results = join(config.workDirectory, RESULTS_NAME);
  const fingerprint = fingerprintOf(config, model.checkpoint.headersSha256, corpus.sha256, calibration.sha256);
  const earlier = config.resume ? await readResults(results, fingerprint) : undefined;
  const scratch = join(config.workDirectory, "dense.bin");
  // Layouts are in the fingerprint; the bytes are known once they were read.
  const cells = cellsOf(config);
  const labels = cells.map(labelOf);
  const windows = corpus.sequences.length;
  const times = timesOf(config, cells, model, windows).map((time, index) =>
    earlier?.rows.has(labels[index] as string) === true ? NO_TIME : time,
  );
  const [ofDense, ...spans] = spansOf([times[0]?.evaluating ?? 1, ...times.map(sumOf)]) as [Span, ...Span[]];
  const evaluation = await model.checkpoint.hashed(() =>
    evaluateWindows(model, corpus.sequences, scratch, contextOfPart(context, ofDense)),
  );
  await using dense = evaluation.result;
  const weights = evaluation.sha256;
  if (earlier !== undefined && earlier.weights !== weights) throw otherWeights(results, config.run.model);
  const finished = earlier?.rows ?? new Map<string, ComparisonRow>();
  // Written anew, since its last line may be torn.
  await writeResults(results, [{ fingerprint, weights }, ...[...finished].map(([label, row]) => ({ label, row }))]);

  const rows: ComparisonRow[] = [];
  for (const [index, cell] of cells.entries()) {
    const [label, span] = [labels[index] as string, spans[index] as Span];
    throwIfStopped(context, true);
    let row = finished.get(label);
    if (row === undefined) {
      const part = contextOfPart(context, { ...span, cell: { number: index + 1, total: cells.length, label } });
      row = await runCell(config, cell, { dense, sequences: corpus.sequences, shared, time: times[index] }, part);
      await appendFile(results, `${JSON.stringify({ label, row })}\n`, { flush: true });
    }
    rows.push(row);
    context.emit({ type: "cell", done: index + 1, total: cells.length, label, fraction: span.to });
  }
  for (const name of LEFT_BY_CELLS) await rm(join(config.workDirectory, name), { recursive: true, force: true });
  await rm(results);
  await statistics[Symbol.asyncDispose](); // before the folder is looked at
  await rmdir(config.workDirectory).catch(() => undefined); // kept where it holds something else
  return {
    schema: "prune.compare/v1",
    model: config.run.model,
    calibration: {
      description: calibration.description,
      sequences: calibration.sequences.length,
      seqlen: config.run.seqlen,
      sha256: calibration.sha256,
      ...(calibration.counts === undefined ? {} : { counts: calibration.counts }),
    },
    text: corpus.description,
    textSha256: corpus.textSha256,
    dense: { perplexity: Math.exp(estimateMean(dense.windowLosses).value) },
    resumedRows: finished.size,
    rows,
  };
}

function labelOf({ method, target: { pattern, sparsity }, allocation }: Cell): string {
  const amount = pattern.kind === "unstructured" ? String(sparsity) : formatPattern(pattern);
  return [method.label, amount, ...(allocation.allocation.rule === "uniform" ? [] : [allocation.label])].join(" ");
}

/**
 * What must be equal for finished rows to be taken over: whatever all cells share. Methods, targets and allocations are
 * in the rows' labels, so that a sweep may be resumed with more of them.
 */
function fingerprintOf(config: ComparisonConfig, ...contents: readonly string[]): string {
  const { model, family } = config.run;
  const shared = { model, family, ...sharedBytesOf(config.run), ...placeOf(config.run) };
  return hashOf(JSON.stringify([VERSION, shared, config.seqlen, contents]));
}

/** Lines of the file, which is there whole or as it was. */
async function writeResults(file: string, lines: readonly object[]): Promise<void> {
  await writeFile(`${file}.tmp`, lines.map((line) => `${JSON.stringify(line)}\n`).join(""), { flush: true });
  await rename(`${file}.tmp`, file);
  await syncDirectory({ open }, dirname(file));
}

interface Results {
  /** Hash of the dense model's bytes, as its evaluation reads them. */
  readonly weights: string | undefined;
  readonly rows: ReadonlyMap<string, ComparisonRow>;
}

/** Undefined where nothing was begun. */
async function readResults(file: string, fingerprint: string): Promise<Results | undefined> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if (fileErrorCode(error) === "ENOENT") return undefined;
    throw error;
  }
  const lines = wholeLines(text);
  if (lines.length === 0) return undefined; // stopped before its first line was whole
  const [head, ...rows] = lines.map((line, index) => parseLine(line, `${file}:${index + 1}`));
  if (head?.fingerprint !== fingerprint) {
    throw new ConfigError("E_FINGERPRINT", `${file}: the interrupted comparison had other settings.`, {
      hint: "Resume with the same command, or leave --resume out to start again.",
      details: { file },
    });
  }
  return { weights: head.weights, rows: new Map(rows.map(({ label, row }) => [label, row])) };
}

interface Line {
  readonly fingerprint?: string;
  readonly weights?: string;
  readonly label: string;
  readonly row: ComparisonRow;
}

function parseLine(line: string, place: string): Line {
  try {
    return JSON.parse(line) as Line;
  } catch (cause) {
    throw new CheckpointError("E_JOURNAL", `${place}: is no line of a comparison's results.`, {
      hint: "The file was changed by something else: leave --resume out to start again.",
      cause,
    });
  }
}

function otherWeights(file: string, model: string): ConfigError {
  return new ConfigError("E_FINGERPRINT", `${file}: the interrupted comparison read other weights from ${model}.`, {
    hint: "Put the checkpoint back as it was, or leave --resume out to start again.",
    details: { file, model },
  });
}

/** What the dense model gives to every cell. */
interface DenseWork {
  readonly dense: EvaluatedWindows;
  readonly sequences: readonly Int32Array[];
  readonly shared: SharedWork;
  /** What the cell is expected to take. */
  readonly time: CellTime | undefined;
}

/** Of a usual machine, seconds. */
interface CellTime {
  readonly pruning: number;
  readonly evaluating: number;
}

const NO_TIME: CellTime = { pruning: 0, evaluating: 0 };
type Span = ReturnType<typeof spansOf>[number];

const sumOf = ({ pruning, evaluating }: CellTime): number => pruning + evaluating;

/** What cells take, each without what it shares with an earlier one. */
function timesOf(config: ComparisonConfig, cells: readonly Cell[], model: Model, windows: number): CellTime[] {
  const allocated = new Set<string>();
  return cells.map((cell) => {
    const run = runOf(config, cell);
    const { selection } = decidePrunables(run, model);
    const planned = plannedRun({
      ...{ config: run, model, solver: solverOf(run), selected: new Set(selection.selected) },
      ...{ blockTrainings: blockTrainingsOf(run), trainings: modelTrainingsOf(run) },
    });
    const isAllocated = allocated.has(allocationKey(run));
    allocated.add(allocationKey(run));
    const left: readonly string[] = [PARTS.weights, ...(isAllocated ? [PARTS.allocation, PARTS.search] : [])];
    return {
      pruning: courseOf(planned).secondsOf((name) => !left.includes(name)),
      evaluating: secondsOf(evaluationWork(planned, { windows, tokens: config.seqlen }), USUAL_RATES),
    };
  });
}

function runOf(config: ComparisonConfig, cell: Cell): RunConfig {
  const { method, methodOptions, then } = cell.method;
  const out = join(config.workDirectory, PRUNED_NAME);
  return { ...config.run, method, methodOptions, then, ...settingsOf(cell), out, force: true, resume: false };
}

async function runCell(
  config: ComparisonConfig,
  cell: Cell,
  { dense, sequences, shared, time = { pruning: 1, evaluating: 1 } }: DenseWork,
  context: EngineContext,
): Promise<ComparisonRow> {
  const run = runOf(config, cell);
  const { out } = run;
  let peakRssBytes = 0;
  const watching: EngineContext = {
    ...context,
    emit: (event: EngineEvent) => {
      peakRssBytes = Math.max(peakRssBytes, process.memoryUsage.rss());
      context.emit(event);
    },
  };
  const [ofPruning, ofEvaluating] = spansOf([time.pruning, time.evaluating]) as [Span, Span];
  try {
    const report = await pruneModel(run, contextOfPart(watching, ofPruning), shared);
    await using pruned = await openModel(out, { family: config.run.family, logger: context.logger });
    await using evaluated = await evaluateWindows(
      pruned,
      sequences,
      join(config.workDirectory, "pruned.bin"),
      contextOfPart(watching, ofEvaluating),
    );
    const { klDivergence, top1Agreement, perplexityRatio } = await compareEvaluated(dense, evaluated);
    return {
      method: cell.method.label,
      pattern: report.pattern,
      allocation: cell.allocation.label,
      reproduce: run.reproduce,
      sparsity: report.sparsity,
      perplexity: Math.exp(estimateMean(evaluated.windowLosses).value),
      perplexityRatio,
      klDivergence,
      top1Agreement,
      loss: meanError(report.layers),
      seconds: report.seconds,
      peakRssBytes,
      layers: report.layers,
    };
  } finally {
    await rm(out, { recursive: true, force: true });
    await rm(`${out}.partial`, { recursive: true, force: true });
  }
}

/**
 * Outputs of layers differ by orders of magnitude, so a ratio of sums would be the error of the few loudest: every layer
 * counts the same.
 */
function meanError(layers: readonly LayerReport[]): number {
  const errors = layers.flatMap(({ reconstruction }) =>
    reconstruction !== undefined && reconstruction.output > 0 ? [reconstruction.relative] : [],
  );
  return errors.length === 0 ? 0 : errors.reduce((sum, error) => sum + error, 0) / errors.length;
}
