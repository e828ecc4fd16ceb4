/**
 * The fitness behind the evolutionary allocation: how far a candidate's model is from the dense one on held-out
 * calibration sequences (mean KL divergence of the next token). A candidate's linears are pruned by the run's own method,
 * given the dense model's statistics on the other calibration sequences, or by Wanda. All candidates of a round pass a block
 * together, so a round reads the model once. What the search itself does is src/allocation/evolution.ts.
 */
import { mkdir, rm } from "../../files/output-files.js";
import { join } from "node:path";
import { MersenneTwister } from "../../calibration/random.js";
import { throwIfStopped, type EngineContext } from "../../context.js";
import type { Device } from "../../device/device.js";
import { measureDivergence } from "../../evaluation/divergence.js";
import type { BlockSpec, InputGroup, LinearSpec } from "../../model/architecture.js";
import { readBlockWeights } from "../../forward/weights.js";
import { embedTokens } from "../../forward/embedding.js";
import { type BlockRunner } from "../../forward/block-runner.js";
import { Stream } from "../../forward/stream.js";
import { lookUp } from "../../look-up.js";
import { applyFinalNorm } from "../../forward/head.js";
import { putMatrix, takeMatrix } from "../../model/logical-matrix.js";
import type { Model } from "../../model/open-model.js";
import type { LayerSolver } from "../../solvers/solver.js";
import { evolve, heldOutOf } from "../../allocation/evolution.js";
import type { Unit } from "../../allocation/distribute.js";
import type { SearchOptions } from "../../allocation/rule.js";
import { createStates, evaluateDense, repeatReference, type DenseReference } from "../dense-reference.js";
import { selectedBlocks } from "./dense-pass.js";
import { boundSolver } from "../solve-linear.js";
import { SolvedLinears } from "./solved-linears.js";

export interface EvolutionInput {
  readonly options: SearchOptions;
  /** The run's method and further steps. */
  readonly solver: LayerSolver<undefined>;
  readonly target: number;
  readonly model: Model;
  /** Linears to spread the sparsity over, in order. */
  readonly linears: readonly LinearSpec[];
  readonly device: Device;
  readonly runner: BlockRunner;
  /** All calibration sequences; the last `heldOut` measure, the others give the statistics. */
  readonly sequences: readonly Int32Array[];
  readonly seed: number;
  /** Budget for each of the search's sets of hidden states; beyond it they go to scratch files in `directory`. */
  readonly memoryBytes: number;
  /** For the search alone: created, and removed with all its files when the search ends. */
  readonly directory: string;
  readonly context: EngineContext;
  readonly onGeneration: (progress: {
    readonly generation: number;
    readonly generations: number;
    readonly fitness: number;
  }) => void;
  /** While candidates for linears are solved. */
  readonly onBatch: (block: BlockSpec, done: number, total: number) => void;
}

export interface EvolvedSparsities {
  /** Of every given linear, by name; the parameter-weighted mean is the target. */
  readonly sparsities: ReadonlyMap<string, number>;
  /** Mean KL divergence from the dense model on the held-out sequences, nats per token; also of the uniform allocation. */
  readonly fitness: number;
  readonly uniformFitness: number;
}

export async function evolveSparsities(input: EvolutionInput): Promise<EvolvedSparsities> {
  const { options, target, linears, sequences } = input;
  const heldOut = heldOutOf(options, sequences.length);
  const measured = sequences.slice(sequences.length - heldOut);
  await mkdir(input.directory, { recursive: true });
  await using _files = { [Symbol.asyncDispose]: () => rm(input.directory, { recursive: true, force: true }) };
  await using solved = await solveLinears(input, sequences.slice(0, Math.max(1, sequences.length - heldOut)));
  const units: Unit[] = linears.map(({ name, inFeatures, outFeatures }) => ({
    name,
    elements: inFeatures * outFeatures,
  }));
  const onBatch = (): void => throwIfStopped(input.context, true);
  await using reference = await evaluateDense({ ...input, onBatch }, measured);
  const random = new MersenneTwister(input.seed);
  const { sparsities, ...fitness } = await evolve({
    units,
    target,
    options,
    sequences: heldOut,
    randomInteger: (first, last) => random.randomInteger(first, last),
    onGeneration: (generation, reached) =>
      input.onGeneration({ generation, generations: options.generations, fitness: reached }),
    measure: (candidates, chosen) => measureCandidates(input, { solved, reference, measured, candidates, chosen }),
  });
  return { sparsities: new Map(units.map(({ name }, i) => [name, sparsities[i]])), ...fitness };
}

async function solveLinears(
  { options, solver, model, linears, device, runner, directory, memoryBytes, onBatch }: EvolutionInput,
  sequences: readonly Int32Array[],
): Promise<SolvedLinears> {
  const proxy = options.proxy === "method" ? solver : WANDA;
  const blocks = selectedBlocks(model.architecture.blocks, new Set(linears.map(({ name }) => name)));
  await using states = await createStates(model, sequences, memoryBytes, join(directory, "statistics-states.bin"));
  await embedTokens(model, sequences, states);
  const stream = new Stream(runner, states);
  const pass = { model, device, stream, onBatch };
  return await SolvedLinears.collect(pass, blocks, proxy, join(directory, "solved"));
}

const WANDA = boundSolver("wanda");

interface Measurement {
  readonly solved: SolvedLinears;
  readonly reference: DenseReference;
  /** Held-out sequences. */
  readonly measured: readonly Int32Array[];
  /** Sparsity of every linear, per candidate. */
  readonly candidates: readonly (readonly number[])[];
  /** Indices into `measured`. */
  readonly chosen: readonly number[];
}

/** Mean KL divergence of every candidate from the dense model over the chosen sequences, nats per token. */
async function measureCandidates(input: EvolutionInput, measurement: Measurement): Promise<number[]> {
  const { model, memoryBytes, directory } = input;
  const { reference, measured, candidates, chosen } = measurement;
  const sequences = candidates.flatMap(() => chosen.map((i) => measured[i]));
  await using states = await createStates(model, sequences, memoryBytes, join(directory, "candidates.bin"));
  for (const index of candidates.keys()) await reference.embedded.copyTo(states, chosen, index * chosen.length);
  const stream = new Stream(input.runner, states);
  const onBatch = (): void => throwIfStopped(input.context, true);
  let dense = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    dense = await readBlockWeights(model.checkpoint, block, dense);
    const candidate = new CandidateBlock(input.linears, block, dense, measurement.solved);
    for (const [index, sparsities] of candidates.entries()) {
      await candidate.prune(sparsities);
      const range = { first: index * chosen.length, end: (index + 1) * chosen.length };
      await stream.pass(block, candidate.weights, { moves: true, range, onBatch });
    }
  }
  await applyFinalNorm(model, states);
  const repeated = repeatReference(reference, chosen, candidates.length);
  const { klDivergences } = await measureDivergence(repeated, { model, states });
  return candidates.map((_, index) => {
    const own = klDivergences.subarray(index * chosen.length, (index + 1) * chosen.length);
    return own.reduce((sum, value) => sum + value, 0) / chosen.length;
  });
}

/** A block's weights as a candidate has them. Going from one candidate to the next touches only linears that differ. */
class CandidateBlock {
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly #block: BlockSpec;
  readonly #dense: ReadonlyMap<string, Float32Array>;
  readonly #solved: SolvedLinears;
  /** This block's linears, their groups, and their places in the input's. */
  readonly #linears: readonly { readonly linear: LinearSpec; readonly group: InputGroup; readonly index: number }[];
  /** Sparsity that a linear has at the moment. */
  readonly #sparsities = new Map<string, number>();

  constructor(
    linears: readonly LinearSpec[],
    block: BlockSpec,
    dense: ReadonlyMap<string, Float32Array>,
    solved: SolvedLinears,
  ) {
    this.#block = block;
    this.#dense = dense;
    this.#solved = solved;
    this.#linears = linears.flatMap((linear, index) => {
      const group = block.groups.find((candidate) => candidate.linears.includes(linear));
      return group === undefined ? [] : [{ linear, group, index }];
    });
    const changing = new Set(this.#linears.map(({ linear }) => linear.role));
    this.weights = new Map([...dense].map(([role, values]) => [role, changing.has(role) ? values.slice() : values]));
  }

  /** @param sparsities of the input's linears, in order */
  async prune(sparsities: readonly number[]): Promise<void> {
    for (const { linear, group, index } of this.#linears) {
      const sparsity = sparsities[index];
      if (this.#sparsities.get(linear.name) === sparsity) continue;
      const { shape } = lookUp(this.#block.tensors, linear.role);
      const dense = takeMatrix(lookUp(this.#dense, linear.role), shape, linear);
      const pruned = await this.#solved.solve(this.#block, group, linear, dense, sparsity);
      putMatrix(pruned, lookUp(this.weights, linear.role), shape, linear);
      this.#sparsities.set(linear.name, sparsity);
    }
  }
}
