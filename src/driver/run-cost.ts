/**
 * What a run is made of, counted before it starts: products, kernels, passes over entries, bytes from and to the disk, and
 * the memory that is alive at its fullest moment. Solvers and allocation rules price themselves; here are the parts that
 * the driver adds: forwards, statistics, reading, writing. Counts only: how fast a machine is, plan.ts measures.
 */
import { allocationCost, needsActivations, weightPasses } from "../allocation/registry.js";
import { elementsOf } from "../array.js";
import type { RunConfig } from "../contract.js";
import { OWN_TEXT } from "../options/values.js";
import { gramPanels } from "../forward/block-graph.js";
import { TILE_ROWS } from "../forward/head.js";
import { sequencesPerRun } from "../forward/weights.js";
import type { Architecture, BlockSpec, InputGroup, LinearSpec } from "../model/architecture.js";
import { inSequence, PASSES, repeated, type SolveCost } from "../solvers/cost.js";
import { gradientsOf, ofModel } from "./gradient-source.js";
import { STATES } from "../training/elsa.js";
import { FULL_PRECISION, type FieldFormats } from "../training/parameter-store.js";
import { STORE_SHARE, WEIGHTS_SHARE } from "./model-training.js";
import { blockPart, PARTS, trainingPart, type BlockStep } from "./parts.js";
import { isRouted, isTaught, type BlockTraining, type ModelTraining } from "./run.js";
import type { LayerSolver, StatisticName } from "../solvers/solver.js";

/** Everything a cost depends on, decided before any work. */
export interface PlannedRun {
  readonly config: RunConfig;
  readonly architecture: Architecture;
  /** The linears that are pruned. */
  readonly selected: ReadonlySet<LinearSpec>;
  readonly solver: LayerSolver<undefined>;
  /** Of every block, once its linears are solved, in order. */
  readonly blockTrainings: readonly BlockTraining[];
  /** Of the whole model, after its last block. */
  readonly trainings: readonly ModelTraining[];
  /** Of the checkpoint's shards, and of the tensors that are written. */
  readonly checkpointBytes: number;
  readonly prunedBytes: number;
}

/** Work by kind; each kind runs at a rate of its own. */
export interface RunWork {
  /** Floating-point operations of products and factorisations; those in f64 count as the many that take as long. */
  readonly products: number;
  /** See `SolveCost`. */
  readonly kernels: number;
  readonly entries: number;
  readonly hostEntries: number;
  /** Bytes read from or written to files. */
  readonly diskBytes: number;
}

/** A part of a run by name: what is told about while it is done, and weighed by its work. */
export interface RunPart {
  readonly name: string;
  readonly work: RunWork;
}

/**
 * All that the run does, in the order in which it does it; a part may come more than once. Where tokens are routed to
 * experts it is an upper bound: all go to all.
 */
export function partsOf(planned: PlannedRun): RunPart[] {
  const { checkpointBytes } = planned;
  return [
    part(PARTS.weights, { diskBytes: checkpointBytes }),
    part(PARTS.text, ownTextWork(planned)),
    part(PARTS.copy, { diskBytes: checkpointBytes }),
    part(PARTS.gradients, gradientWork(planned)),
    ...allocationParts(planned),
    ...planned.architecture.blocks.flatMap((block) => blockParts(planned, block)),
    ...planned.trainings.map((each, index) => part(trainingPart(index), modelTrainingWork(planned, each))),
  ];
}

export function workOf(planned: PlannedRun): RunWork {
  return addWork(...partsOf(planned).map(({ work }) => work));
}

function part(name: string, work: Partial<RunWork>): RunPart {
  return { name, work: addWork(work) };
}

export function addWork(...works: readonly Partial<RunWork>[]): RunWork {
  const sum = (kind: keyof RunWork): number => works.reduce((total, work) => total + (work[kind] ?? 0), 0);
  return {
    products: sum("products"),
    kernels: sum("kernels"),
    entries: sum("entries"),
    hostEntries: sum("hostEntries"),
    diskBytes: sum("diskBytes"),
  };
}

function scaled(factor: number, work: RunWork): RunWork {
  return {
    products: factor * work.products,
    kernels: factor * work.kernels,
    entries: factor * work.entries,
    hostEntries: factor * work.hostEntries,
    diskBytes: factor * work.diskBytes,
  };
}

const weightsOf = (linears: readonly LinearSpec[]): number =>
  linears.reduce((sum, { inFeatures, outFeatures }) => sum + inFeatures * outFeatures, 0);

const linearsOf = (block: BlockSpec): LinearSpec[] => block.groups.flatMap((group) => group.linears);

function tensorElements({ tensors }: BlockSpec): number {
  return [...tensors.values()].reduce((sum, { shape }) => sum + elementsOf(shape), 0);
}

/** Statistics that the run collects for the method, and those only to measure with. */
export function statisticsOf({ config, solver }: Pick<PlannedRun, "config" | "solver">): {
  readonly needs: readonly StatisticName[];
  readonly isMeasuredApart: boolean;
} {
  return { needs: solver.needs, isMeasuredApart: config.measureLoss && !solver.needs.includes("gram") };
}

/** Reading a block, passing all tokens through it as its propagation asks, solving its linears; what is pruned is written, read back and hashed. */
function blockParts(planned: PlannedRun, block: BlockSpec): RunPart[] {
  const { config, solver, selected, checkpointBytes, prunedBytes, architecture } = planned;
  const { needs, isMeasuredApart } = statisticsOf(planned);
  const isTwinned = needs.includes("inherited-errors");
  const isTrained = planned.blockTrainings.length > 0;
  const isLast = block.index === architecture.blocks.length - 1;
  const isMoving = needs.length > 0 || isMeasuredApart || isTrained;
  const of = (step: BlockStep, work: Partial<RunWork>): RunPart => part(blockPart(block, step), work);
  const stages = [...new Set(block.groups.map((group) => group.stage))];
  const passes = config.propagation === "group" ? stages.map((stage) => [stage]) : [stages];
  const solving = passes.flatMap((some) => {
    const groups = block.groups.filter((group) => some.includes(group.stage));
    const isMovingPast = config.propagation === "dense" && !isRouted(block);
    const until = isMovingPast ? Infinity : Math.max(...some);
    const forward = scaled(isTwinned ? 2 : 1, forwardWork(planned, block, until));
    const measuring = isMeasuredApart ? addWork(forward, statisticsWork(planned, groups, ["gram"])) : {};
    const collecting = addWork(needs.length > 0 ? forward : {}, statisticsWork(planned, groups, needs), measuring);
    const linears = groups.flatMap((group) => group.linears).filter((linear) => selected.has(linear));
    return [
      ...(isMoving ? [of("statistics", collecting)] : []),
      ...linears.map((linear) => part(linear.name, workOfSolve(linear, costOfLinear(solver, config, linear)))),
    ];
  });
  const filesUpTo = (index: number): number =>
    Math.floor((index * (checkpointBytes + 3 * prunedBytes)) / architecture.blocks.length);
  const isMovedApart = config.propagation !== "dense" || isRouted(block);
  const moving = isLast || !isMovedApart || !isMoving ? {} : forwardWork(planned, block, Infinity);
  const past = [of("forward", moving)];
  return [
    of("read", {
      entries: (isTwinned || isTrained ? 2 : 1) * tensorElements(block),
      diskBytes: filesUpTo(block.index + 1) - filesUpTo(block.index),
    }),
    of("regional gradients", regionalWork(planned, block)),
    ...(config.propagation === "dense" ? [...solving.slice(0, 1), ...past, ...solving.slice(1)] : solving),
    of("dense forward", isTwinned ? moving : {}),
    of("training", blockTrainingWork(planned, block)),
    ...(config.propagation === "dense" ? [] : past),
    of("end", {}),
  ];
}

/** A gradient runs the forward again and twice its products; one of four passes over the inputs of each. */
const FORWARDS_PER_GRADIENT = 3;
/** What a step of Adam reads and writes of each entry, and what its gradient takes. */
const PASSES_PER_STEP = 8;

/** Before a step's second gradient and after it: the norm, a copy, a factor, a sum, and the copy back. */
const PASSES_PER_ASCENT = 5;
/** Scores, a selection and the dual step. */
const PASSES_PER_PROJECTION = 2 + PASSES.selection;

function blockTrainingWork(planned: PlannedRun, block: BlockSpec): RunWork {
  const { blockTrainings, config } = planned;
  const forward = forwardWork(planned, block, Infinity);
  const own = blockTrainings.length === 0 ? {} : forward; // what the dense block gives
  const again = linearsOf(block)
    .filter((linear) => planned.selected.has(linear))
    .map((linear) => repeated(solvesAgainOf(planned), costOfLinear(planned.solver, config, linear)));
  const works = blockTrainings.map((training) => {
    const { measured, gradients, steps, passes } = courseOf(training, config.nsamples);
    return addWork(scaled(measured + FORWARDS_PER_GRADIENT * gradients, forward), {
      entries: passes * steps * tensorElements(block),
    });
  });
  return addWork(own, ...again, ...works);
}

/** Of a block's training: passes of the calibration that measure and that go back, steps, and passes over entries in each. */
interface BlockCourse {
  readonly measured: number;
  readonly gradients: number;
  readonly steps: number;
  readonly passes: number;
}

function courseOf({ name, options }: BlockTraining, nsamples: number): BlockCourse {
  if (name === "wanda++") {
    const steps = options.rounds * Math.min(options.samples, nsamples);
    return { measured: 2, gradients: steps / nsamples, steps, passes: PASSES_PER_STEP };
  }
  const { epochs, batchSize } = options;
  const heldOut = name === "reconstruct" ? options.heldOut : 0;
  const [isClimbing, projections] = name === "reconstruct" ? [false, 0] : [options.rho > 0, 1 / options.interval];
  return {
    measured: 2 + epochs * heldOut, // before, after, and what is held out after every epoch
    gradients: (isClimbing ? 2 : 1) * epochs * (1 - heldOut),
    steps: epochs * Math.ceil(((1 - heldOut) * nsamples) / batchSize),
    passes: PASSES_PER_STEP + (isClimbing ? PASSES_PER_ASCENT : 0) + PASSES_PER_PROJECTION * projections,
  };
}

/** How often the linears of a block are solved once more while it is trained. */
function solvesAgainOf({ blockTrainings }: PlannedRun): number {
  return blockTrainings.reduce((sum, { name, options }) => sum + (name === "wanda++" ? options.rounds : 0), 0);
}

/** Products with the vocabulary in a step: partition functions and logits of both models, and a gradient. */
const VOCABULARY_PRODUCTS = 5;

function modelTrainingWork(planned: PlannedRun, training: ModelTraining): Partial<RunWork> {
  if ("minutes" in training.options && training.options.minutes !== undefined) return {}; // it takes what it was given
  const { config, architecture } = planned;
  const { blocks, head, vocabularySize } = architecture;
  const { steps, batchSize } = training.options;
  const share = (steps * batchSize) / config.nsamples; // what forwardWork counts is a pass of the calibration's sequences
  const forward = addWork(...blocks.map((block) => forwardWork(planned, block, Infinity)));
  const forwards = 1 + FORWARDS_PER_GRADIENT + (isTaught(training) ? 1 : 0);
  const logits = 2 * head.width * vocabularySize * steps * batchSize * config.seqlen;
  return addWork(scaled(share * forwards, forward), {
    products: VOCABULARY_PRODUCTS * logits,
    entries: PASSES_PER_STEP * steps * trainedElements(architecture, training),
  });
}

/** Weights of the blocks, and where they are trained of the embedding and the head. */
export function trainedElements(
  { blocks, embedding, embeddingWidth, head, vocabularySize }: Architecture,
  { options }: ModelTraining,
): number {
  const elements = blocks.reduce((sum, block) => sum + tensorElements(block), 0);
  if (options.train === "blocks") return elements;
  const isTied = embedding === head.projection;
  return elements + vocabularySize * (embeddingWidth + (isTied ? 0 : head.width));
}

/** Products with the vocabulary of a token whose loss is gone back through: the partition function, logits, a gradient. */
const VOCABULARY_PRODUCTS_OF_LOSS = 3;
/** States in front of a block that do not fit into memory: written, and read on the way forward and back. */
const TRANSFERS_OF_STATE = 3;

/** Every sequence through some blocks and back by itself. */
function backWork(planned: PlannedRun, blocks: readonly BlockSpec[], summed: number): RunWork {
  const forward = addWork(...blocks.map((block) => forwardWork(planned, block, Infinity)));
  const elements = blocks.reduce((sum, block) => sum + tensorElements(block), 0);
  return addWork(scaled(1 + FORWARDS_PER_GRADIENT, forward), {
    entries: planned.config.nsamples * (elements + summed),
  });
}

/** In each block when its turn comes. */
function regionalWork(planned: PlannedRun, block: BlockSpec): Partial<RunWork> {
  if (!gradientsOf(planned.solver).includes("regional-gradients")) return {};
  return backWork(planned, [block], weightsOf(linearsOf(block).filter((linear) => planned.selected.has(linear))));
}

/** In a pass over the dense model. */
function gradientWork(planned: PlannedRun): Partial<RunWork> {
  const { solver, config, architecture, selected, checkpointBytes } = planned;
  const { blocks, head, vocabularySize } = architecture;
  const summed = ofModel(gradientsOf(solver)).length * weightsOf([...selected]);
  if (summed === 0) return {};
  const spilled = Math.max(0, gradientStateBytes(planned) - config.memoryBytes);
  const ends = {
    products: VOCABULARY_PRODUCTS_OF_LOSS * 2 * head.width * vocabularySize * tokensOf(config),
    diskBytes: 2 * checkpointBytes + 2 * 4 * summed + TRANSFERS_OF_STATE * spilled,
  };
  return addWork(backWork(planned, blocks, summed), ends);
}

/** What enters every block, and what leaves the last, of all sequences. */
export function gradientStateBytes({
  config,
  architecture: { blocks, state },
}: Pick<PlannedRun, "config" | "architecture">): number {
  return 4 * tokensOf(config) * state.width * (blocks.length + 1);
}

/** A block, its gradients and their sums, or the head as it is stored, with what a sequence keeps on its way. */
function gradientBytes(planned: PlannedRun, tokens: number): number {
  const { solver, config, architecture } = planned;
  if (ofModel(gradientsOf(solver)).length === 0) return 0;
  const { blocks, head, vocabularySize } = architecture;
  const block = largestOf(
    blocks,
    (each) => 4 * tensorElements(each) + summedBytes(planned, each) + backBytes(planned, each, tokens),
  );
  const whole = 4 * head.width * vocabularySize + 4 * 4 * tokens * Math.min(vocabularySize, TILE_ROWS);
  return Math.min(gradientStateBytes(planned), config.memoryBytes) + Math.max(block, whole);
}

/** What a sequence on its way back through a block holds besides: gradients of all its tensors, and activations. */
function backBytes({ architecture }: PlannedRun, block: BlockSpec, tokens: number): number {
  return 4 * tensorElements(block) + ACTIVATIONS_OF_GRADIENT * activationBytes(architecture, block, tokens, false);
}

/** Statistics of the gradients of a block's pruned weights. */
export function summedBytes({ solver, selected }: Pick<PlannedRun, "solver" | "selected">, block: BlockSpec): number {
  return 4 * gradientsOf(solver).length * weightsOf(linearsOf(block).filter((linear) => selected.has(linear)));
}

export function costOfLinear(
  solver: LayerSolver<undefined>,
  { pattern, sparsity }: RunConfig,
  { name, inFeatures, outFeatures }: LinearSpec,
): SolveCost {
  return solver.cost({ name, inFeatures, outFeatures, pattern, sparsity }, undefined);
}

/** Passes over a linear's weight around its solve: taken out, uploaded, downloaded, put back, rounded, widened, counted, hashed. */
const PASSES_AROUND_SOLVE = 8;

function workOfSolve(linear: LinearSpec, cost: SolveCost): Partial<RunWork> {
  return { ...cost, entries: cost.entries + PASSES_AROUND_SOLVE * weightsOf([linear]) };
}

const tokensOf = ({ nsamples, seqlen }: RunConfig): number => nsamples * seqlen;

/**
 * Passes over the hidden state, and over what goes into and comes out of a linear, that a block makes beside its products,
 * for each token. There are more of them, but ONNX Runtime makes them in vectors, threads and memory that is warm.
 */
const HIDDEN_PASSES = 2;
const INPUT_PASSES = 0.5;

/**
 * All tokens through a block.
 * @param until what is asked for is the input of the groups of this stage; Infinity: the block's output
 */
function forwardWork(
  { config, architecture }: Pick<PlannedRun, "config" | "architecture">,
  block: BlockSpec,
  until: number,
): RunWork {
  const tokens = tokensOf(config);
  const groups = block.groups.filter((group) => group.stage < until);
  const [first] = block.groups;
  const attends = until > (first?.stage ?? 0);
  const linears = groups.flatMap((group) => group.linears);
  const attention = attends ? 4 * config.seqlen * architecture.hiddenSize : 0;
  const inputs = groups.reduce((sum, { inFeatures }) => sum + inFeatures, 0);
  const outputs = linears.reduce((sum, { outFeatures }) => sum + outFeatures, 0);
  return addWork({
    products: tokens * (2 * weightsOf(linears) + attention),
    entries: tokens * (HIDDEN_PASSES * architecture.state.width + INPUT_PASSES * (inputs + outputs)),
  });
}

/** How much longer a pass takes that has one token of each sequence, whose weights are read anew for every product. */
const SINGLE_TOKEN_SLOWNESS = 4;

/** Text that the model samples itself, token by token. */
function ownTextWork({ config, architecture }: PlannedRun): Partial<RunWork> {
  if (config.calibration?.set !== OWN_TEXT) return {};
  const forward = addWork(
    ...architecture.blocks.map((block) => forwardWork({ config, architecture }, block, Infinity)),
  );
  const logits = 2 * architecture.head.width * architecture.vocabularySize * tokensOf(config);
  return scaled(SINGLE_TOKEN_SLOWNESS, addWork(forward, { products: logits }));
}

/** A model over windows of a text: every token through the blocks and the head, the weights read once. */
export function evaluationWork(
  { architecture, checkpointBytes, config }: PlannedRun,
  { windows, tokens }: { readonly windows: number; readonly tokens: number },
): RunWork {
  const evaluated = { architecture, config: { ...config, nsamples: windows, seqlen: tokens } };
  const forward = architecture.blocks.map((block) => forwardWork(evaluated, block, Infinity));
  const logits = 2 * architecture.head.width * architecture.vocabularySize * windows * tokens;
  return addWork(...forward, { products: logits, diskBytes: checkpointBytes });
}

/** What is made of the inputs of some groups on the way. */
function statisticsWork(
  { config }: PlannedRun,
  groups: readonly InputGroup[],
  needs: readonly StatisticName[],
): RunWork {
  const tokens = tokensOf(config);
  const runs = Math.ceil(config.nsamples / sequencesPerRun(config.seqlen));
  return addWork(
    ...groups.map(({ inFeatures: n }): Partial<RunWork> => {
      if (needs.length === 0) return {};
      if (!needs.includes("gram")) return { entries: tokens * n };
      const gram = gramPanels(n).reduce((sum, { first, end }) => sum + 2 * (end - first) * end, 0);
      const errors = needs.includes("inherited-errors") ? 2 * n ** 2 : 0;
      return { products: tokens * (gram + errors), entries: (runs + 3) * n ** 2 };
    }),
  );
}

/** The dense model's passes before anything is pruned and what a rule does besides; and the search for what is best. */
function allocationParts(planned: PlannedRun): RunPart[] {
  const { config, architecture, solver, selected, checkpointBytes } = planned;
  const { allocation, seqlen, nsamples } = config;
  const linears = [...selected];
  const size = { linears, sequences: nsamples };
  const { doubleOperations = 0, measuredSequences = 0, solvedLinears = 0, solvedBy } = allocationCost(allocation, size);
  const forward = addWork(...architecture.blocks.map((block) => forwardWork(planned, block, Infinity)));
  const passes = weightPasses(allocation);
  const logits = 4 * architecture.head.width * architecture.vocabularySize; // of the dense model and of the candidate
  const elements = weightsOf(linears);
  const searched = scaled(measuredSequences / nsamples, forward);
  const solves = inSequence(...linears.map((linear) => costOfLinear(solver, config, linear)));
  const solved = solvedLinears / Math.max(1, linears.length);
  const statistics = addWork(
    ...architecture.blocks.map((block) => statisticsWork(planned, block.groups, solver.needs)),
  );
  return [
    part(
      PARTS.allocation,
      addWork(
        {
          products: DOUBLE_SLOWNESS * doubleOperations,
          entries: (passes > 0 ? PASSES_OF_SCORES : 0) * passes * elements + PASSES_AROUND_SOLVE * solved * elements,
          diskBytes: passes * checkpointBytes,
        },
        needsActivations(allocation) ? forward : {},
        solvedBy === "method" ? addWork(repeated(solved, solves), statistics) : {},
      ),
    ),
    part(PARTS.search, addWork({ products: measuredSequences * seqlen * logits }, searched)),
  ];
}

/** Operations in f64, and the loops that go with them, against products in f32. */
const DOUBLE_SLOWNESS = 5;

/** What rules make of a weight in one pass: scores, histograms. */
const PASSES_OF_SCORES = 4;

/** Not Math.max: a model of many experts has more linears than a call may have arguments. */
function largestOf<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return items.reduce((largest, item) => Math.max(largest, value(item)), 0);
}

/** Whether tokens go through the model while it is pruned, or for its allocation. */
export function isForwarded(planned: Pick<PlannedRun, "config" | "solver" | "blockTrainings">): boolean {
  const { needs, isMeasuredApart } = statisticsOf(planned);
  const isAsked = needs.length > 0 || isMeasuredApart || planned.blockTrainings.length > 0;
  return isAsked || needsActivations(planned.config.allocation);
}

/** Most bytes alive at once, beyond what the program itself takes. */
export function memoryOf(planned: PlannedRun): number {
  const { config, architecture, selected } = planned;
  const { needs, isMeasuredApart } = statisticsOf(planned);
  const { blocks, state } = architecture;
  const isTwinned = needs.includes("inherited-errors");
  const hasDense = isTwinned || planned.blockTrainings.length > 0;
  const block = largestOf(blocks, (each) => 4 * (hasDense ? 2 : 1) * tensorElements(each) + summedBytes(planned, each));
  const states = 4 * tokensOf(config) * state.width * (hasDense ? 2 : 1);
  const hidden = isForwarded(planned) ? Math.min(states, config.memoryBytes) : 0;
  const runTokens = Math.min(sequencesPerRun(config.seqlen), config.nsamples) * config.seqlen;
  const phases = blocks.map((each) => {
    const grams = isMeasuredApart || needs.includes("gram");
    const statistics = grams ? statisticsBytes(each, isTwinned, config.propagation === "group") : 0;
    const forward = isForwarded(planned) ? activationBytes(architecture, each, runTokens, isTwinned) : 0;
    const solving = largestOf(
      linearsOf(each).filter((linear) => selected.has(linear)),
      (linear) => solvingBytes(planned, linear),
    );
    const isRegional = gradientsOf(planned.solver).includes("regional-gradients");
    const regional = isRegional ? backBytes(planned, each, config.seqlen) : 0;
    return Math.max(statistics + Math.max(forward, solving), regional, trainingBytes(planned, each, runTokens));
  });
  const { bytes = 0 } = allocationCost(config.allocation, { linears: [...selected], sequences: config.nsamples });
  const pruning = Math.max(
    bytes,
    largestOf(phases, (phase) => phase),
  );
  const trained = planned.trainings.map((each) => modelTrainingBytes(planned, each));
  return Math.max(hidden + block + pruning, gradientBytes(planned, runTokens), ...trained);
}

/** What a training keeps of every weight, and how much of it lies in files. */
export function storeBytes(
  { architecture, config }: Pick<PlannedRun, "architecture" | "config">,
  training: ModelTraining,
): { readonly bytes: number; readonly fileBytes: number } {
  const perWeight = bytesPerWeight(training);
  const bytes = perWeight * trainedElements(architecture, training);
  return { bytes, fileBytes: Math.max(0, bytes - STORE_SHARE * config.memoryBytes) };
}

function formatsOf(training: ModelTraining): FieldFormats {
  return training.name === "elsa" ? STATES[training.options.state] : FULL_PRECISION;
}

function fieldsOf(training: ModelTraining): readonly (keyof FieldFormats)[] {
  return ["values", "gradient", "first", "second", ...(training.name === "elsa" ? (["split", "dual"] as const) : [])];
}

function bytesPerWeight(training: ModelTraining): number {
  const formats = formatsOf(training);
  return fieldsOf(training).reduce((sum, field) => sum + formats[field].bytesFor(2 ** 16) / 2 ** 16, 0);
}

/**
 * What a training keeps of every weight, up to its share of --memory and a group on its way; what a step keeps in front of
 * each block, a block's activations and a tile of both models' logits; what is not trained of the ends, and the teacher.
 */
function modelTrainingBytes({ architecture, config }: PlannedRun, training: ModelTraining): number {
  const { blocks, state, vocabularySize, embeddingWidth, head, embedding } = architecture;
  const { batchSize, train, squareHead } = training.options;
  const [formats, fields, perWeight] = [formatsOf(training), fieldsOf(training), bytesPerWeight(training)];
  const elements = trainedElements(architecture, training);
  const inMemory = Math.min(perWeight * elements, STORE_SHARE * config.memoryBytes);
  const isPacked = perWeight * elements > inMemory || formats !== FULL_PRECISION;
  const table = vocabularySize * Math.max(embeddingWidth, head.width);
  const largest = Math.max(largestOf(blocks, tensorElements), train === "all" ? table : 0);
  const onTheWay = isPacked ? 4 * fields.length * largest : 0;
  const ends = 4 * vocabularySize * (embeddingWidth + (embedding === head.projection ? 0 : head.width));
  const dense = Math.min(4 * elements, WEIGHTS_SHARE * config.memoryBytes - inMemory);
  const kept = (train === "all" && !isTaught(training) ? 0 : ends) + (isTaught(training) ? dense : 0);
  const ofTeacher = (isTaught(training) ? 1 : 0) + (squareHead > 0 ? blocks.length : 0);
  const states = 4 * batchSize * config.seqlen * state.width * (blocks.length + 1 + ofTeacher);
  const tokens = Math.min(sequencesPerRun(config.seqlen), batchSize) * config.seqlen;
  const activations = largestOf(blocks, (block) => activationBytes(architecture, block, tokens, false));
  const logits = 4 * 4 * tokens * Math.min(vocabularySize, TILE_ROWS);
  const working = ACTIVATIONS_OF_GRADIENT * activations + logits;
  return inMemory + onTheWay + kept + Math.min(states, config.memoryBytes / 2) + working;
}

/**
 * Arrays of a weight's size around its solve: out of its tensor, on the device, the result, and one of the linear before
 * that nobody has collected yet.
 */
const WEIGHTS_AROUND_SOLVE = 4;

/** Values, gradients, two moments, and of reconstruct the best values so far, of safe z, u and x before the ascent. */
const ARRAYS_OF_TRAINING = { reconstruct: 5, safe: 7, "safe+": 7, "wanda++": 4 } as const;
/** What a gradient holds of a block's inputs and outputs, times the forward's. */
const ACTIVATIONS_OF_GRADIENT = 2;

/** The inputs and targets of a step, and its gradient's activations, beside what is kept of every weight. */
function trainingBytes({ blockTrainings, architecture }: PlannedRun, block: BlockSpec, tokens: number): number {
  if (blockTrainings.length === 0) return 0;
  const arrays = Math.max(...blockTrainings.map(({ name }) => ARRAYS_OF_TRAINING[name]));
  const activations = ACTIVATIONS_OF_GRADIENT * activationBytes(architecture, block, tokens, false);
  return 4 * arrays * tensorElements(block) + 4 * 2 * tokens * architecture.state.width + activations;
}

/** The weight on its way, and what the method works with. */
function solvingBytes({ config, solver }: PlannedRun, linear: LinearSpec): number {
  return 4 * WEIGHTS_AROUND_SOLVE * weightsOf([linear]) + costOfLinear(solver, config, linear).bytes;
}

/** Gram matrices of all groups of a pass: as the forward returns them, and whole. */
function statisticsBytes({ groups }: BlockSpec, isTwinned: boolean, isByStage: boolean): number {
  const panels = (n: number): number => gramPanels(n).reduce((sum, { first, end }) => sum + (end - first) * end, 0);
  const stages = isByStage ? [...new Set(groups.map((group) => group.stage))] : [undefined];
  return largestOf(stages, (stage) => {
    const some = groups.filter((group) => stage === undefined || group.stage === stage);
    const all = some.reduce((sum, { inFeatures: n }) => sum + (isTwinned ? 2 * n ** 2 : panels(n)), 0);
    return 4 * (all + largestOf(some, ({ inFeatures: n }) => n ** 2));
  });
}

/**
 * What a run of a block holds while its widest part is computed. With the dense model beside it both hand over the widest
 * inputs, as arrays and on the device.
 */
function activationBytes({ state }: Architecture, block: BlockSpec, tokens: number, isTwinned: boolean): number {
  const widest = largestOf(block.groups, ({ inFeatures }) => inFeatures);
  return 4 * tokens * (2 * state.width + (isTwinned ? 7 : 3) * widest);
}
