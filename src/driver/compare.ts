/**
 * `prune compare`: every method at every target under every allocation, each pruned, evaluated against the dense model
 * and thrown away. The dense model is evaluated once, calibration tokens are made once and each allocation is worked out
 * once; finished cells are noted in a file, so an interrupted sweep goes on where it was.
 */
import { syncDirectory } from "../files/durable.js";
import { appendFile, mkdir, open, readFile, rename, rm, rmdir, writeFile } from "../files/output-files.js";
import { dirname, join } from "node:path";
import { loadEvaluation } from "../calibration/corpus.js";
import { bytesOf } from "../checkpoint/clone.js";
import { planCloneOf } from "../checkpoint/output-directory.js";
import { checkFreeSpace } from "../checkpoint/output-place.js";
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
import {
  compareEvaluated,
  evaluateWindows,
  memoryForStates,
  spilledByWindows,
  type EvaluatedWindows,
  type StatesPlace,
} from "../evaluation/perplexity.js";
import { openModel, type Model } from "../model/open-model.js";
import { placeOf, sharedBytesOf } from "../options/fingerprint.js";
import { fileErrorCode } from "../files/file-errors.js";
import { isRecord } from "../is-record.js";
import { OutputLock } from "../files/lock.js";
import { formatPattern } from "../sparsity/pattern.js";
import { UNIFORM } from "../allocation/registry.js";
import { VERSION } from "../version.js";
import { courseOf, spansOf } from "./course.js";
import { gramBytes, scratchBytesOf } from "./disk-cost.js";
import { hashOf, wholeLines } from "./journal.js";
import { isRouted } from "./run.js";
import { StoredStatistics } from "./stored-statistics.js";
import { checkWeights } from "./finite-weights.js";
import { PARTS } from "./parts.js";
import { decidePrunables } from "./prunables.js";
import { allocationKey, pruneModel } from "./prune-model.js";
import { secondsOf, USUAL_RATES } from "./rates.js";
import { evaluationWork } from "./run-cost.js";
import { loadCalibrationTokens } from "./run-tokens.js";
import { OWN_NAMES, plannedRun, type SharedWork } from "./session.js";

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

/**
 * What every cell is to do. Refuses the sweep before any work where some cell's pattern, patterns of linears or allocation does
 * not fit the model.
 */
function planCells(config: ComparisonConfig, cells: readonly Cell[], model: Model): PlannedCell[] {
  const problems = new Map<string, PruneError>();
  const planned = cells.flatMap((cell) => {
    try {
      const run = runOf(config, cell);
      return [plannedRun(run, model, decidePrunables(run, model).selection)];
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      problems.set(error.message, error); // the same for every method
      return [];
    }
  });
  if (problems.size > 0) throw combineProblems([...problems.values()]);
  return planned;
}

type PlannedCell = ReturnType<typeof plannedRun>;

/** What of a run a cell decides, besides the method. */
function settingsOf({
  method,
  target,
  allocation: { allocation },
}: Cell): Pick<RunConfig, "pattern" | "sparsity" | "allocation"> & Partial<RunConfig> {
  return { ...target, ...method.settings, allocation };
}

/** The run of a cell. */
function runOf(config: ComparisonConfig, cell: Cell): RunConfig {
  const { method, methodOptions, then } = cell.method;
  const out = join(config.workDirectory, PRUNED_NAME);
  return {
    ...{ ...config.run, method, methodOptions, then },
    ...{ ...settingsOf(cell), out, force: true, resume: false },
  };
}

/**
 * What is there at the fullest moment: a clone, the dense model's states, kept statistics, and what a cell's run has beside its
 * clone or, after that, its evaluation.
 * @throws ResourceError E_DISK_FULL
 */
async function requireRoomFor(
  { workDirectory, run: { propagation } }: ComparisonConfig,
  model: Model,
  cells: readonly PlannedCell[],
  { nsamples, dense, pruned }: Readonly<Record<"nsamples" | "dense" | "pruned", number>>,
): Promise<void> {
  const { architecture } = model;
  const planned = cells.map((cell) => ({ ...cell, config: { ...cell.config, nsamples } }));
  const isKept = propagation === "dense" && !architecture.blocks.some(isRouted);
  const withGrams = isKept
    ? planned.filter((each) => each.solver.needs.includes("gram") || each.config.measureLoss)
    : [];
  const grams = Math.max(0, ...withGrams.map(({ selected }) => gramBytes(architecture, selected)));
  const atWork = Math.max(pruned, ...planned.map(scratchBytesOf));
  const cloneBytes = bytesOf(await planCloneOf(model.checkpoint, OWN_NAMES));
  await checkFreeSpace(workDirectory, cloneBytes, dense + grams + atWork, "--work");
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
  const cells = cellsOf(config);
  const planned = planCells(config, cells, model);
  const nonFinite = await checkWeights(model, config.run, context);
  const calibration = await loadCalibrationTokens(config.run, model, contextOfPart(context, { from: 0, to: 0 }));
  await using statistics = new StoredStatistics(join(config.workDirectory, STATISTICS_NAME));
  const shared: SharedWork = { calibration, allocations: new Map(), statistics, nonFinite };
  const results = join(config.workDirectory, RESULTS_NAME);
  const fingerprint = fingerprintOf(config, model.checkpoint.headersSha256, corpus.sha256, calibration.sha256);
  const earlier = config.resume ? await readResults(results, fingerprint) : undefined;
  const [denseBytes = 0, prunedBytes = 0] = memoryForStates(2);
  const places = {
    dense: { memoryBytes: denseBytes, scratchFile: join(config.workDirectory, "dense.bin") },
    pruned: { memoryBytes: prunedBytes, scratchFile: join(config.workDirectory, "pruned.bin") },
  };
  await requireRoomFor(config, model, planned, {
    nsamples: calibration.sequences.length,
    dense: spilledByWindows(model, corpus.sequences, denseBytes),
    pruned: spilledByWindows(model, corpus.sequences, prunedBytes),
  });
  const labels = cells.map(labelOf);
  const windows = corpus.sequences.length;
  const times = timesOf(planned, { windows, tokens: config.seqlen }).map((time, index) =>
    earlier?.rows.has(labels[index] as string) === true ? NO_TIME : time,
  );
  const [ofDense, ...spans] = spansOf([times[0]?.evaluating ?? 1, ...times.map(sumOf)]) as [Span, ...Span[]];
  // Layouts are in the fingerprint; the bytes are known once they were read.
  const evaluation = await model.checkpoint.hashed(() =>
    evaluateWindows(model, corpus.sequences, places.dense, contextOfPart(context, ofDense)),
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
      row = await runCell(
        config,
        cell,
        { dense, sequences: corpus.sequences, place: places.pruned, shared, time: times[index] },
        part,
      );
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

/**
 * Undefined where nothing was begun.
 * @throws ConfigError E_FINGERPRINT, CheckpointError E_JOURNAL
 */
export async function readResults(file: string, fingerprint: string): Promise<Results | undefined> {
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
  if (head?.["fingerprint"] !== fingerprint) {
    throw new ConfigError("E_FINGERPRINT", `${file}: the interrupted comparison had other settings.`, {
      hint: "Resume with the same command, or leave --resume out to start again.",
      details: { file },
    });
  }
  const finished = rows.map(({ label, row }, index): readonly [string, ComparisonRow] => {
    if (typeof label === "string" && isRow(row)) return [label, row];
    throw noResult(`${file}:${index + 2}`);
  });
  const weights = head["weights"];
  return { weights: typeof weights === "string" ? weights : undefined, rows: new Map(finished) };
}

/** As far as a comparison goes by it. */
function isRow(row: unknown): row is ComparisonRow {
  if (!isRecord(row)) return false;
  const { layers, sparsity, perplexityRatio, klDivergence, top1Agreement } = row;
  const parts = [sparsity, perplexityRatio, klDivergence, top1Agreement];
  return parts.every(isRecord) && Array.isArray(layers) && layers.every(isRecord);
}

function parseLine(line: string, place: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw noResult(place, cause);
  }
  if (isRecord(value)) return value;
  throw noResult(place);
}

function noResult(place: string, cause?: unknown): CheckpointError {
  return new CheckpointError("E_JOURNAL", `${place}: is no line of a comparison's results.`, {
    hint: "The file was changed by something else: leave --resume out to start again.",
    cause,
  });
}

function otherWeights(file: string, model: string): ConfigError {
  return new ConfigError("E_FINGERPRINT", `${file}: the interrupted comparison read other weights from ${model}.`, {
    hint: "Put the checkpoint back as it was, or leave --resume out to start again.",
    details: { file, model },
  });
}

/** What every cell works with. */
interface SharedByCells {
  readonly dense: EvaluatedWindows;
  readonly sequences: readonly Int32Array[];
  /** For the hidden states of the pruned model. */
  readonly place: StatesPlace;
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
function timesOf(cells: readonly PlannedCell[], text: Parameters<typeof evaluationWork>[1]): CellTime[] {
  const allocated = new Set<string>();
  return cells.map((planned) => {
    const key = allocationKey(planned.config);
    const isAllocated = allocated.has(key);
    allocated.add(key);
    const left: readonly string[] = [PARTS.weights, ...(isAllocated ? [PARTS.allocation, PARTS.search] : [])];
    return {
      pruning: courseOf(planned).secondsOf((name) => !left.includes(name)),
      evaluating: secondsOf(evaluationWork(planned, text), USUAL_RATES),
    };
  });
}

async function runCell(
  config: ComparisonConfig,
  cell: Cell,
  { dense, sequences, place, shared, time = { pruning: 1, evaluating: 1 } }: SharedByCells,
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
    await using evaluated = await evaluateWindows(pruned, sequences, place, contextOfPart(watching, ofEvaluating));
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
