/** `--dry-run`: what a run would prune, read, write, need and take. Nothing is written and no block is loaded. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { openModel, type Model } from "../model/open-model.js";
import { sequencesPerRun } from "../forward/weights.js";
import { gramPanels } from "../forward/block-runner.js";
import { tensorOf, type BlockSpec, type LinearSpec } from "../model/architecture.js";
import { createMatmulEngine } from "../onnx/matmul.js";
import { solverOf } from "./session.js";
import type { StatisticName } from "../solvers/solver.js";
import { needsActivations, weightPasses } from "../allocation/registry.js";
import { measuredSequences } from "../allocation/evolution.js";
import { formatPattern } from "../sparsity/pattern.js";
import { pruneCount } from "../sparsity/target.js";
import type { EngineContext } from "../context.js";
import type { PlanReport, RunConfig } from "../contract.js";
import { openDevice } from "./devices.js";
import { decidePrunables } from "./prunables.js";

/** Resident memory of the runtime itself: Node, ONNX Runtime, kernels; measured on Linux. */
const FIXED_BYTES = 250 * 2 ** 20;
/** Fraction of the measured product rate that a whole run reaches; see bench/RESULTS.md. */
const RUN_EFFICIENCY = 0.6;
/** Bytes per second assumed for reading, cloning and patching. */
const DISK_RATE = 400e6;
const PROBE_SIZE = 768;

/**
 * Describe a run without doing it.
 * @throws CheckpointError, ConfigError where the run itself would; patterns that match nothing are listed instead
 */
export async function planRun(config: RunConfig, context: EngineContext): Promise<PlanReport> {
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  const { selection, overrides, unmatchedPatterns } = decidePrunables(config, model.architecture, "listed");
  const solver = solverOf(config);
  await using device = await openDevice(config.device, context.logger);
  const { blocks } = model.architecture;
  const elements = sumOf(selection.selected, ({ inFeatures, outFeatures }) => inFeatures * outFeatures);
  const checkpointBytes = sumOf(model.checkpoint.shards, (shard) => statSync(join(config.model, shard)).size);
  const prunedTensors = new Set(
    blocks.flatMap((block) =>
      block.groups.flatMap((group) =>
        group.linears.filter((linear) => selection.selected.includes(linear)).map((linear) => tensorOf(block, linear)),
      ),
    ),
  );
  const prunedBytes = sumOf([...prunedTensors], (tensor) => model.checkpoint.info(tensor).byteLength);
  const needs: readonly StatisticName[] = config.measureLoss
    ? [...new Set([...solver.needs, "gram" as const])]
    : solver.needs;
  const operations = floatingPointOperations(config, model, needs) + allocationOperations(config, model);
  const passes = weightPasses(config.allocation);
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
    // Once for the clone, once for the forward, and as often as the allocation looks at the dense model.
    bytesToRead: (2 + passes) * checkpointBytes,
    bytesToWrite: checkpointBytes + prunedBytes,
    peakMemoryBytes: estimateMemory(config, model, needs),
    estimatedSeconds:
      operations / ((await measureRate()) * RUN_EFFICIENCY) +
      ((3 + passes) * checkpointBytes + prunedBytes) / DISK_RATE,
    ignored: selection.ignored.map(({ name }) => name),
    unmatchedPatterns,
    device: `${device.kind} (${device.description})`,
  };
}

function sumOf<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return items.reduce((sum, item) => sum + value(item), 0);
}

/** Not Math.max: a model of many experts has more linears than a call may have arguments. */
function largestOf<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return items.reduce((largest, item) => Math.max(largest, value(item)), 0);
}

/** What the sparsity asks of all linears but those with a sparsity of their own, and what these ask. */
function zerosToMake(
  selected: readonly LinearSpec[],
  sparsity: number,
  overrides: ReadonlyMap<string, number>,
): number {
  const elementsOf = ({ inFeatures, outFeatures }: LinearSpec): number => inFeatures * outFeatures;
  const [own, shared] = [true, false].map((isOwn) => selected.filter(({ name }) => overrides.has(name) === isOwn));
  return (
    pruneCount(sumOf(shared, elementsOf), sparsity) +
    sumOf(own, (linear) => pruneCount(elementsOf(linear), overrides.get(linear.name) ?? 0))
  );
}

function linearsOf(block: BlockSpec): LinearSpec[] {
  return block.groups.flatMap((group) => group.linears);
}

function weightsOf(linears: readonly LinearSpec[]): number {
  return sumOf(linears, ({ inFeatures, outFeatures }) => inFeatures * outFeatures);
}

/** Forwards over the calibration tokens, the statistics, and the solves. An upper bound where tokens are routed. */
function floatingPointOperations(config: RunConfig, model: Model, needs: readonly StatisticName[]): number {
  const tokens = config.nsamples * config.seqlen;
  const denseForwards = Number(needsActivations(config.allocation));
  return sumOf(model.architecture.blocks, (block) => {
    const { groups } = block;
    const stagesCount = new Set(groups.map((group) => group.stage)).size;
    const solverForwards = { block: 2, dense: 1, group: 1 + stagesCount }[config.propagation];
    const isTwinned = needs.includes("inherited-errors"); // the dense model goes along
    const forwards = denseForwards + (needs.length === 0 ? 0 : solverForwards * (isTwinned ? 2 : 1));
    const gram = sumOf(groups, ({ inFeatures: n }) =>
      sumOf(gramPanels(n), ({ first, end }) => 2 * tokens * (end - first) * end),
    );
    const solve = sumOf(linearsOf(block), ({ inFeatures: n, outFeatures }) => n ** 3 / 3 + outFeatures * n ** 2);
    const errors = sumOf(groups, ({ inFeatures: n }) => 2 * tokens * n ** 2);
    const retarget = sumOf(linearsOf(block), ({ inFeatures: n, outFeatures }) => n ** 3 + 4 * outFeatures * n ** 2);
    return (
      forwards * 2 * tokens * weightsOf(linearsOf(block)) +
      (needs.includes("gram") ? gram + solve : 0) +
      (isTwinned ? errors + retarget : 0) +
      (config.allocation.rule === "alphapruning" ? sumOf(linearsOf(block), spectrumOperations) : 0)
    );
  });
}

/** The Gram matrix on the smaller side and its reduction to a band, in f64, which runs at half the rate of f32. */
function spectrumOperations({ inFeatures, outFeatures }: LinearSpec): number {
  const size = Math.min(inFeatures, outFeatures);
  return 2 * (2 * inFeatures * outFeatures * size + 2 * size ** 3);
}

/** Forwards of the dense model, or of the candidates of a search, before anything is pruned. */
function allocationOperations({ allocation, nsamples, seqlen }: RunConfig, { architecture }: Model): number {
  if (!needsActivations(allocation)) return 0;
  const searched =
    allocation.rule === "evolutionary"
      ? measuredSequences(allocation, Math.min(allocation.heldOut, Math.floor(nsamples / 2)))
      : 0;
  const weights = sumOf(architecture.blocks, (block) => weightsOf(linearsOf(block)));
  return 2 * weights * seqlen * (nsamples + searched);
}

/** One block in f32, activations of one run, the widest statistic and weight while they are solved, hidden states. */
function estimateMemory(config: RunConfig, model: Model, needs: readonly StatisticName[]): number {
  const { blocks } = model.architecture;
  const linears = blocks.flatMap(linearsOf);
  const isTwinned = needs.includes("inherited-errors"); // the dense model's block and hidden states too
  const block = largestOf(blocks, (each) => weightsOf(linearsOf(each))) * (isTwinned ? 8 : 4);
  const largestLinear = largestOf(linears, ({ inFeatures, outFeatures }) => inFeatures * outFeatures) * 4;
  const widest = largestOf(linears, ({ inFeatures }) => inFeatures);
  const runTokens = sequencesPerRun(config.seqlen) * config.seqlen;
  const isForwarded = needs.length > 0 || needsActivations(config.allocation);
  const activations = !isForwarded ? 0 : runTokens * (4 * model.architecture.hiddenSize + 4 * widest) * 4;
  const grams = needs.includes("gram") ? (isTwinned ? 5 : 3) * widest ** 2 * 4 : 0;
  const narrowest = largestOf(linears, ({ inFeatures, outFeatures }) => Math.min(inFeatures, outFeatures));
  const spectrum = config.allocation.rule === "alphapruning" ? 3 * narrowest ** 2 * 8 : 0;
  const states = config.nsamples * config.seqlen * model.architecture.hiddenSize * 4;
  const hidden = !isForwarded ? 0 : states * (isTwinned ? 2 : 1);
  const solving = 3 * largestLinear + grams;
  return FIXED_BYTES + block + Math.max(solving, spectrum) + activations + Math.min(hidden, config.memoryBytes);
}

/** Floating-point operations per second of a product on this machine, from a tenth of a second of trying. */
async function measureRate(): Promise<number> {
  await using engine = await createMatmulEngine();
  const values = new Float32Array(PROBE_SIZE ** 2).map((_, i) => Math.sin(i));
  const multiply = (): Promise<Float32Array> =>
    engine.multiply(values, values, PROBE_SIZE, PROBE_SIZE, PROBE_SIZE, false, false);
  await multiply();
  const started = performance.now();
  await multiply();
  return (2 * PROBE_SIZE ** 3) / ((performance.now() - started) / 1000);
}
