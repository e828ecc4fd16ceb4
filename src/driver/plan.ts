/**
 * `--dry-run`: what a run would prune, read, write, need and take. Nothing is written and no block is loaded. What the run would
 * refuse before its first block is refused here, by the same checks.
 */
import { dirname, join } from "node:path";
import { existsSync, statSync } from "../files/checkpoint-files.js";
import { examineSource } from "../calibration/text-source.js";
import { bytesOf } from "../checkpoint/clone.js";
import { planCloneOf } from "../checkpoint/output-directory.js";
import { checkFreeSpace, checkPlace, nameOutput } from "../checkpoint/output-place.js";
import { openModel } from "../model/open-model.js";
import { sequencesPerRun } from "../forward/weights.js";
import type { LinearSpec } from "../model/architecture.js";
import { createMatmulEngine } from "../onnx/matmul.js";
import { scratchBytesOf } from "./disk-cost.js";
import { OWN_NAMES, plannedRun } from "./session.js";
import { weightPasses } from "../allocation/registry.js";
import { OWN_TEXT } from "../options/values.js";
import { formatPattern } from "../sparsity/pattern.js";
import { elementsOf } from "../solvers/cost.js";
import { pruneCount } from "../sparsity/target.js";
import type { EngineContext } from "../context.js";
import type { PlanReport, RunConfig } from "../contract.js";
import { openDevice } from "./devices.js";
import { gradientsOf, ofModel } from "./gradient-source.js";
import { decidePrunables, sayNeedless } from "./prunables.js";
import type { ModelTraining } from "./run.js";
import { loadCalibrationTokens } from "./run-tokens.js";
import { secondsOf, type Rates } from "./rates.js";
import { isForwarded, memoryOf, workOf, type PlannedRun } from "./run-cost.js";

/** Resident memory of the runtime itself, Node and kernels, and what ONNX Runtime adds once it has graphs; on Linux. */
const FIXED_BYTES = 150 * 2 ** 20;
const GRAPH_BYTES = 115 * 2 ** 20;
/** The graphs of the dense model beside the pruned one, and the products that compare them. */
const TWIN_BYTES = 50 * 2 ** 20;
/** Opening the model, the device and its threads, compiling graphs. */
const FIXED_SECONDS = 0.7;
/** Floating-point operations of the product that is tried. */
const PROBE_OPERATIONS = 2e9;
const PROBE_ENTRIES = 2 ** 22;
/** Of the product's weight, which has fewer outputs where it would be larger: a plan is to take little memory. */
const PROBE_WEIGHTS = 2 ** 24;
const TRIES = 16;

/**
 * Describe a run without doing it.
 * @throws UsageError, CheckpointError, ConfigError, CalibrationError, ResourceError where the run itself would before any work
 */
export async function planRun(config: RunConfig, context: EngineContext): Promise<PlanReport> {
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  await checkPlace(await nameOutput(config.out), config);
  const { selection, overrides } = decidePrunables(config, model);
  sayNeedless(selection, context.logger);
  await using device = await openDevice(config.device, context.logger);
  const { blocks } = model.architecture;
  const elements = sumOf(selection.selected, elementsOf);
  const checkpointBytes = sumOf(model.checkpoint.shards, (shard) => statSync(join(config.model, shard)).size);
  const planned = { ...plannedRun(config, model, selection), checkpointBytes };
  const { solver, trainings, prunedBytes } = planned;
  const cloneBytes = config.resume ? 0 : bytesOf(await planCloneOf(model.checkpoint, OWN_NAMES));
  const scratchBytes = scratchBytesOf(planned);
  const parent = dirname(config.out);
  if (existsSync(parent)) await checkFreeSpace(parent, cloneBytes, scratchBytes);
  if (config.calibration !== undefined && config.calibration.set !== OWN_TEXT) {
    await examineSource(config.calibration);
    await loadCalibrationTokens(config, model, context); // a text that is too short is better known now
  }
  const gradientPasses = ofModel(gradientsOf(solver)).length > 0 ? 2 : 0; // forward and back
  const passes = weightPasses(config.allocation) + gradientPasses;
  return {
    schema: "prune.plan/v1",
    model: config.model,
    out: config.out,
    family: model.architecture.family,
    method: config.method,
    pattern: formatPattern(config.pattern),
    sparsity: config.sparsity,
    blocks: blocks.length,
    linears: selection.selected.length,
    prunableElements: elements,
    zerosToMake: zerosToMake(selection.selected, config.sparsity, overrides),
    // Once for the clone, once for the forward, and as often as the allocation and gradients look at the dense model.
    bytesToRead: (2 + passes) * checkpointBytes,
    bytesToWrite: checkpointBytes + prunedBytes,
    diskBytes: cloneBytes + scratchBytes,
    peakMemoryBytes: residentBytes(planned) + memoryOf(planned),
    estimatedSeconds:
      FIXED_SECONDS +
      secondsOf(workOf(planned), await measureRates(selection.selected, config)) +
      givenSeconds(trainings),
    ignored: selection.ignored.map(({ name }) => name),
    device: `${device.kind} (${device.description})`,
  };
}

/** Of trainings that were given a time. */
function givenSeconds(trainings: readonly ModelTraining[]): number {
  return sumOf(trainings, ({ options }) => ("minutes" in options ? 60 * (options.minutes ?? 0) : 0));
}

function sumOf<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return items.reduce((sum, item) => sum + value(item), 0);
}

/** What the sparsity asks of all linears but those with a sparsity of their own, and what these ask. */
function zerosToMake(
  selected: readonly LinearSpec[],
  sparsity: number,
  overrides: ReadonlyMap<string, number>,
): number {
  const [own, shared] = [true, false].map((isOwn) => selected.filter(({ name }) => overrides.has(name) === isOwn));
  return (
    pruneCount(sumOf(shared, elementsOf), sparsity) +
    sumOf(own, (linear) => pruneCount(elementsOf(linear), overrides.get(linear.name) ?? 0))
  );
}

/** What the program takes whatever the model's sizes are. */
function residentBytes(planned: PlannedRun): number {
  const isTwinned = planned.solver.needs.includes("inherited-errors");
  const hasGraphs = isForwarded(planned) || gradientsOf(planned.solver).length > 0;
  return FIXED_BYTES + (hasGraphs ? GRAPH_BYTES : 0) + (isTwinned ? TWIN_BYTES : 0);
}

/** From a few tenths of a second of trying: a product of the size that the largest linear's forward has, and a loop. */
async function measureRates(selected: readonly LinearSpec[], { seqlen, nsamples }: RunConfig): Promise<Rates> {
  const { inFeatures: k, outFeatures } = selected.reduce((largest, linear) =>
    elementsOf(linear) > elementsOf(largest) ? linear : largest,
  );
  const n = Math.max(1, Math.min(outFeatures, Math.floor(PROBE_WEIGHTS / k)));
  const tokens = Math.min(sequencesPerRun(seqlen), nsamples) * seqlen;
  const m = Math.max(16, Math.min(tokens, Math.floor(PROBE_OPERATIONS / (2 * n * k))));
  await using engine = await createMatmulEngine();
  const noise = (count: number): Float32Array => {
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = Math.sin(i);
    return values;
  };
  const [a, b, out] = [noise(m * k), noise(k * n), new Float32Array(m * n)];
  const target = { values: out, sign: 1, add: false } as const;
  const multiply = (): Promise<Float32Array> => engine.multiply(a, b, m, n, k, false, false, target);
  const values = noise(PROBE_ENTRIES);
  const loop = (): Promise<Float32Array> => {
    const fresh = new Float32Array(PROBE_ENTRIES);
    for (let i = 0; i < PROBE_ENTRIES; i++) fresh[i] = 1.5 * values[i];
    return Promise.resolve(fresh);
  };
  return {
    products: (2 * m * n * k) / (await quarterOf(multiply)),
    entries: values.length / (await quarterOf(loop)),
  };
}

/**
 * Seconds that one try of four goes below, after a first one. On a machine that others use too single tries of milliseconds
 * wait for a thread that is not running; a run, whose products are part of longer work, waits less often.
 */
async function quarterOf(work: () => Promise<unknown>): Promise<number> {
  await work();
  const seconds: number[] = [];
  for (let i = 0; i < TRIES; i++) {
    const started = performance.now();
    await work();
    seconds.push((performance.now() - started) / 1000);
  }
  return seconds.sort((x, y) => x - y)[Math.floor(TRIES / 4)];
}
