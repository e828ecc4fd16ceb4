/**
 * The fitness behind the evolutionary allocation: how far a candidate's model is from the dense one on held-out
 * calibration sequences (mean KL divergence of the next token). Candidates are made without a database of pruned copies:
 * their weights are the dense ones under Wanda's masks, chosen on the spot, because a solver that updates weights would
 * have to run for every linear and level. All candidates of a round pass a block together, so a round reads the model once.
 *
 * The input norms behind the masks come from the other calibration sequences. What the search itself does is
 * sparsity/allocation/evolution.ts.
 */
import { join } from "node:path";
import { MersenneTwister } from "../calibration/random.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { Device } from "../device/device.js";
import { measureDivergence, type EvaluatedModel } from "../evaluation/divergence.js";
import type { BlockSpec, LinearSpec } from "../model/architecture.js";
import { readBlockWeights, sequencesPerRun } from "../model/block-weights.js";
import { embedTokens } from "../model/embedding.js";
import { lookUp, type BlockRunner } from "../model/forward.js";
import { applyFinalNorm, nextTokenStatistics } from "../model/head.js";
import { HiddenStates } from "../model/hidden-states.js";
import { putMatrix, takeMatrix } from "../model/logical-matrix.js";
import type { Model } from "../model/open-model.js";
import { evolve, type EvolutionOptions } from "../sparsity/allocation/evolution.js";
import type { Unit } from "../sparsity/allocation/distribute.js";
import { pruneCount } from "../sparsity/target.js";
import { selectedBlocks, visitInputs } from "./dense-pass.js";

/** Files in `EvolutionInput.directory` that hold what does not fit the memory; gone when the search ends. */
export const SEARCH_SCRATCH = {
  norms: "search-norms.bin",
  embedded: "search-embedded.bin",
  reference: "search-reference.bin",
  candidates: "search-candidates.bin",
} as const;

export interface EvolutionInput {
  readonly options: EvolutionOptions & { readonly heldOut: number };
  readonly target: number;
  readonly model: Model;
  /** Linears to spread the sparsity over, in order. */
  readonly linears: readonly LinearSpec[];
  readonly device: Device;
  readonly runner: BlockRunner;
  /** All calibration sequences; the last `heldOut` measure, the others give the masks. */
  readonly sequences: readonly Int32Array[];
  readonly seed: number;
  /** Budget for each of the search's sets of hidden states; beyond it they go to scratch files in `directory`. */
  readonly memoryBytes: number;
  readonly directory: string;
  readonly context: EngineContext;
  readonly onGeneration: (generation: number, fitness: number) => void;
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
  const heldOut = Math.max(1, Math.min(options.heldOut, Math.floor(sequences.length / 2)));
  const measured = sequences.slice(sequences.length - heldOut);
  const norms = await inputNorms(input, sequences.slice(0, Math.max(1, sequences.length - heldOut)));
  const units: Unit[] = linears.map(({ name, inFeatures, outFeatures }) => ({
    name,
    elements: inFeatures * outFeatures,
  }));
  await using reference = await evaluateDense(input, measured);
  const random = new MersenneTwister(input.seed);
  const { sparsities, ...fitness } = await evolve({
    units,
    target,
    options,
    sequences: heldOut,
    randomInteger: (first, last) => random.randomInteger(first, last),
    onGeneration: input.onGeneration,
    measure: (candidates, chosen) => measureCandidates(input, { norms, reference, measured, candidates, chosen }),
  });
  return { sparsities: new Map(units.map(({ name }, i) => [name, sparsities[i]])), ...fitness };
}

/** Norms of the inputs of every linear, by name, on the dense model. */
async function inputNorms(
  { model, linears, device, runner, context, directory, memoryBytes }: EvolutionInput,
  sequences: readonly Int32Array[],
): Promise<ReadonlyMap<string, Float32Array>> {
  await using states = await createStates(model, sequences, memoryBytes, join(directory, SEARCH_SCRATCH.norms));
  await embedTokens(model, sequences, states);
  const norms = new Map<string, Float32Array>();
  const pass = {
    model,
    device,
    runner,
    states,
    batch: sequencesPerRun(states.tokens),
    onBatch: () => throwIfStopped(context, true),
  };
  const blocks = selectedBlocks(model.architecture.blocks, new Set(linears.map(({ name }) => name)));
  await visitInputs(pass, blocks, (matrices, visited) => {
    visited.forEach(({ name }, i) => norms.set(name, Float32Array.from(matrices[i].norms)));
  });
  return norms;
}

function createStates(
  { architecture: { hiddenSize } }: Model,
  sequences: readonly Int32Array[],
  memoryBytes: number,
  scratchFile: string,
): Promise<HiddenStates> {
  const tokens = sequences[0]?.length ?? 0;
  return HiddenStates.create({ sequences: sequences.length, tokens, hiddenSize, memoryBytes, scratchFile });
}

/** The dense model on the held-out sequences: what enters the first block, and what leaves the last. */
interface DenseReference extends EvaluatedModel, AsyncDisposable {
  readonly states: HiddenStates;
  readonly embedded: HiddenStates;
}

async function evaluateDense(input: EvolutionInput, sequences: readonly Int32Array[]): Promise<DenseReference> {
  const { model, memoryBytes, directory } = input;
  const embedded = await createStates(model, sequences, memoryBytes, join(directory, SEARCH_SCRATCH.embedded));
  const states = await createStates(model, sequences, memoryBytes, join(directory, SEARCH_SCRATCH.reference));
  await embedTokens(model, sequences, embedded);
  await copySequences(
    embedded,
    states,
    sequences.map((_, i) => i),
    0,
  );
  let weights = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    await advance(input, block, weights, states, 0, states.sequences);
  }
  const batch = sequencesPerRun(states.tokens);
  await applyFinalNorm(model, states, batch);
  const { logPartitions } = await nextTokenStatistics(model, states, sequences, batch);
  return {
    model,
    states,
    embedded,
    logPartitions,
    async [Symbol.asyncDispose]() {
      await states[Symbol.asyncDispose]();
      await embedded[Symbol.asyncDispose]();
    },
  };
}

async function copySequences(
  from: HiddenStates,
  to: HiddenStates,
  chosen: readonly number[],
  first: number,
): Promise<void> {
  for (const [i, sequence] of chosen.entries()) await to.write(first + i, await from.read(sequence, 1));
}

/** Sequences [first, end) through one block. */
async function advance(
  { runner, context }: EvolutionInput,
  block: BlockSpec,
  weights: ReadonlyMap<string, Float32Array>,
  states: HiddenStates,
  first: number,
  end: number,
): Promise<void> {
  const batch = sequencesPerRun(states.tokens);
  for (let start = first; start < end; start += batch) {
    const count = Math.min(batch, end - start);
    const hidden = await states.read(start, count);
    const result = await runner.run(block, weights, hidden, count, states.tokens, { hidden: true, taps: undefined });
    if (result.hidden !== undefined) await states.write(start, result.hidden);
    throwIfStopped(context, true);
  }
}

interface Measurement {
  readonly norms: ReadonlyMap<string, Float32Array>;
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
  await using states = await createStates(model, sequences, memoryBytes, join(directory, SEARCH_SCRATCH.candidates));
  for (const index of candidates.keys()) await copySequences(reference.embedded, states, chosen, index * chosen.length);
  let dense = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    dense = await readBlockWeights(model.checkpoint, block, dense);
    const masked = new MaskedBlock(input, block, dense, measurement.norms);
    for (const [index, sparsities] of candidates.entries()) {
      await masked.prune(sparsities);
      await advance(input, block, masked.weights, states, index * chosen.length, (index + 1) * chosen.length);
    }
  }
  const batch = sequencesPerRun(states.tokens);
  await applyFinalNorm(model, states, batch);
  const repeated = repeatReference(reference, chosen, candidates.length);
  const { klDivergences } = await measureDivergence(repeated, { model, states }, batch);
  return candidates.map((_, index) => {
    const own = klDivergences.subarray(index * chosen.length, (index + 1) * chosen.length);
    return own.reduce((sum, value) => sum + value, 0) / chosen.length;
  });
}

/** The chosen sequences of a reference, `times` over, without copying them. */
function repeatReference(reference: DenseReference, chosen: readonly number[], times: number): EvaluatedModel {
  const { model, states, logPartitions } = reference;
  const { tokens, sequenceLength } = states;
  const partitions = new Float64Array(times * chosen.length * tokens);
  for (let i = 0; i < times * chosen.length; i++) {
    const from = chosen[i % chosen.length] * tokens;
    partitions.set(logPartitions.subarray(from, from + tokens), i * tokens);
  }
  return {
    model,
    logPartitions: partitions,
    states: {
      sequences: times * chosen.length,
      tokens,
      async read(first, count) {
        const values = new Float32Array(count * sequenceLength);
        for (let i = 0; i < count; i++)
          values.set(await states.read(chosen[(first + i) % chosen.length], 1), i * sequenceLength);
        return values;
      },
    },
  };
}

/** A block's weights under Wanda's masks. Going from one candidate to the next touches only linears that differ. */
class MaskedBlock {
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly #input: EvolutionInput;
  readonly #block: BlockSpec;
  readonly #dense: ReadonlyMap<string, Float32Array>;
  readonly #norms: ReadonlyMap<string, Float32Array>;
  /** This block's linears and their places in the input's. */
  readonly #linears: readonly { readonly linear: LinearSpec; readonly index: number }[];
  /** Zeros per row that a linear has at the moment. */
  readonly #counts = new Map<string, number>();

  constructor(
    input: EvolutionInput,
    block: BlockSpec,
    dense: ReadonlyMap<string, Float32Array>,
    norms: ReadonlyMap<string, Float32Array>,
  ) {
    this.#input = input;
    this.#block = block;
    this.#dense = dense;
    this.#norms = norms;
    const own = new Set(block.groups.flatMap((group) => group.linears));
    this.#linears = input.linears.flatMap((linear, index) => (own.has(linear) ? [{ linear, index }] : []));
    const changing = new Set(this.#linears.map(({ linear }) => linear.role));
    this.weights = new Map([...dense].map(([role, values]) => [role, changing.has(role) ? values.slice() : values]));
  }

  /** @param sparsities of the input's linears, in order */
  async prune(sparsities: readonly number[]): Promise<void> {
    const { device } = this.#input;
    for (const { linear, index } of this.#linears) {
      const { name, role, inFeatures, outFeatures } = linear;
      const count = pruneCount(inFeatures, sparsities[index]);
      if (this.#counts.get(name) === count) continue;
      const { shape } = lookUp(this.#block.tensors, role);
      const values = takeMatrix(lookUp(this.#dense, role), shape, linear);
      using weight = device.uploadMatrix(values, outFeatures, inFeatures, `${name}: candidate`);
      using scale = device.uploadMatrix(lookUp(this.#norms, name), 1, inFeatures, `${name}: input norms`);
      using mask = device.createMask(outFeatures, inFeatures, `${name}: candidate mask`);
      device.selectRows(weight, scale, count, mask);
      device.applyMask(weight, mask);
      putMatrix(await device.download({ matrix: weight }), lookUp(this.weights, role), shape, linear);
      this.#counts.set(name, count);
    }
  }
}
