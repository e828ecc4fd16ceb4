/** `--dry-run`: what a run would prune, read, write, need and take. Nothing is written and no block is loaded. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { openModel, type Model } from "../model/open-model.js";
import { sequencesPerRun } from "../model/block-weights.js";
import { gramPanels } from "../model/forward.js";
import { requireUsableSelection, selectLinears } from "../model/selection.js";
import { tensorOf, type BlockSpec, type LinearSpec } from "../model/architecture.js";
import { createMatmulEngine } from "../onnx/matmul.js";
import { composeSteps } from "../solvers/steps.js";
import { stepsOf } from "./prune-model.js";
import type { StatisticName } from "../solvers/solver.js";
import { formatPattern } from "../sparsity/pattern.js";
import type { EngineContext } from "../context.js";
import type { PlanReport, RunConfig } from "../contract.js";
import { openDevice } from "./devices.js";

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
  const solver = composeSteps(stepsOf(config));
  const selection = selectLinears(model.architecture, config.ignore);
  requireUsableSelection({ ...selection, unmatchedPatterns: [] }, config.pattern);
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
  const operations = floatingPointOperations(config, model, needs);
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
    zerosToMake: Math.floor(elements * config.sparsity + 1e-6),
    bytesToRead: 2 * checkpointBytes, // once for the clone, once for the forward
    bytesToWrite: checkpointBytes + prunedBytes,
    peakMemoryBytes: estimateMemory(config, model, needs),
    estimatedSeconds:
      operations / ((await measureRate()) * RUN_EFFICIENCY) + (3 * checkpointBytes + prunedBytes) / DISK_RATE,
    ignored: selection.ignored.map(({ name }) => name),
    unmatchedPatterns: selection.unmatchedPatterns,
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

function linearsOf(block: BlockSpec): LinearSpec[] {
  return block.groups.flatMap((group) => group.linears);
}

function weightsOf(linears: readonly LinearSpec[]): number {
  return sumOf(linears, ({ inFeatures, outFeatures }) => inFeatures * outFeatures);
}

/** Forwards over the calibration tokens, the statistics, and the solves. An upper bound where tokens are routed. */
function floatingPointOperations(config: RunConfig, model: Model, needs: readonly StatisticName[]): number {
  if (needs.length === 0) return 0;
  const tokens = config.nsamples * config.seqlen;
  return sumOf(model.architecture.blocks, (block) => {
    const { groups } = block;
    const stagesCount = new Set(groups.map((group) => group.stage)).size;
    const passes = { block: 2, dense: 1, group: 1 + stagesCount }[config.propagation];
    const gram = sumOf(groups, ({ inFeatures: n }) =>
      sumOf(gramPanels(n), ({ first, end }) => 2 * tokens * (end - first) * end),
    );
    const solve = sumOf(linearsOf(block), ({ inFeatures: n, outFeatures }) => n ** 3 / 3 + outFeatures * n ** 2);
    return passes * 2 * tokens * weightsOf(linearsOf(block)) + (needs.includes("gram") ? gram + solve : 0);
  });
}

/** One block in f32, activations of one run, the widest statistic and weight while they are solved, hidden states. */
function estimateMemory(config: RunConfig, model: Model, needs: readonly StatisticName[]): number {
  const { blocks } = model.architecture;
  const linears = blocks.flatMap(linearsOf);
  const block = largestOf(blocks, (each) => weightsOf(linearsOf(each))) * 4;
  const largestLinear = largestOf(linears, ({ inFeatures, outFeatures }) => inFeatures * outFeatures) * 4;
  const widest = largestOf(linears, ({ inFeatures }) => inFeatures);
  const runTokens = sequencesPerRun(config.seqlen) * config.seqlen;
  const activations = needs.length === 0 ? 0 : runTokens * (4 * model.architecture.hiddenSize + 4 * widest) * 4;
  const grams = needs.includes("gram") ? 3 * widest ** 2 * 4 : 0;
  const hidden = needs.length === 0 ? 0 : config.nsamples * config.seqlen * model.architecture.hiddenSize * 4;
  return FIXED_BYTES + block + 3 * largestLinear + activations + grams + Math.min(hidden, config.memoryBytes);
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
