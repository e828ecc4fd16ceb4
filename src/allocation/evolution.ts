/**
 * Evolutionary search for an allocation (EvoPress, Sieberling et al. 2024, arXiv:2410.14649). Pure: what a candidate is
 * worth is asked of the caller.
 *
 * A candidate gives every linear an integer level; a level is the same number of weights for all linears, so a swap
 * (one linear some levels down, another as many up) keeps the number of zeros of the model to the weight. One parent, mutated by few
 * swaps; offspring are measured on few sequences first and the best of them on more, the last round with the parent.
 */
import type { Unit } from "./distribute.js";
import type { SearchOptions } from "./rule.js";

/** Level of every unit, 0 being the request. */
export type Levels = Int32Array;

export type EvolutionOptions = Omit<SearchOptions, "heldOut" | "proxy">;

export interface Evolution {
  readonly units: readonly Unit[];
  readonly target: number;
  readonly options: EvolutionOptions;
  /** Sequences that fitness may be measured on. */
  readonly sequences: number;
  /** Fitness of candidates, given by the sparsity of every unit, on some sequences: smaller is better. */
  measure(candidates: readonly (readonly number[])[], sequences: readonly number[]): Promise<readonly number[]>;
  /** A uniform integer in [first, last], both inclusive. */
  randomInteger(first: number, last: number): number;
  onGeneration(generation: number, fitness: number): void;
}

export interface Evolved {
  readonly sparsities: readonly number[];
  /** Of the result, and of the uniform allocation that the search began with, on all sequences. */
  readonly fitness: number;
  readonly uniformFitness: number;
}

/** Survivors of the rounds before the last, as shares of the offspring, and the share of the sequences each is measured on. */
const ROUNDS = [
  { survivors: 1 / 4, sequences: 1 / 8 },
  { survivors: 1 / 16, sequences: 1 / 2 },
] as const;
const MOST_SWAPS = 3;
/** EvoPress moves one level at a time; on the demo model the search gets as far in two thirds of the generations with up to three. */
const MOST_LEVELS = 3;
/** Draws of a swap before giving up: only models with one linear, or with no room left, ever need so many. */
const MOST_DRAWS = 1000;

/** How many of all sequences measure candidates. */
export function heldOutOf({ heldOut }: Pick<SearchOptions, "heldOut">, sequences: number): number {
  return Math.max(1, Math.min(heldOut, Math.floor(sequences / 2)));
}

/** How often `measure` is called. */
export function measurements({ generations }: Pick<EvolutionOptions, "generations">): number {
  return 1 + generations * (ROUNDS.length + 1);
}

/** How many sequences of `sequences` are measured over all candidates: what a search costs, in forwards. */
export function measuredSequences(
  { generations, offspring }: Pick<EvolutionOptions, "generations" | "offspring">,
  sequences: number,
): number {
  let candidates = offspring;
  let perGeneration = 0;
  for (const round of ROUNDS) {
    const survivors = survivorsOf(round, offspring);
    if (candidates <= survivors) continue;
    perGeneration += candidates * sampleSize(round, sequences);
    candidates = survivors;
  }
  return sequences + generations * (perGeneration + candidates * sequences);
}

/** Sequences of candidates that are measured in one call, at most. */
export function measuredAtOnce({ offspring }: Pick<EvolutionOptions, "offspring">, sequences: number): number {
  let candidates = offspring;
  let most = sequences;
  for (const round of ROUNDS) {
    const survivors = survivorsOf(round, offspring);
    if (candidates <= survivors) continue;
    most = Math.max(most, candidates * sampleSize(round, sequences));
    candidates = survivors;
  }
  return Math.max(most, candidates * sequences);
}

type Round = (typeof ROUNDS)[number];

const survivorsOf = ({ survivors }: Round, offspring: number): number => Math.max(1, Math.ceil(offspring * survivors));
const sampleSize = (round: Round, sequences: number): number => Math.max(1, Math.floor(sequences * round.sequences));

/** Search from the uniform allocation; the result is at least as fit on all sequences. */
export async function evolve(evolution: Evolution): Promise<Evolved> {
  const { units, target, options, sequences } = evolution;
  const all = Array.from({ length: sequences }, (_, i) => i);
  const sparsitiesOf = sparsitiesOfLevels(units, target, options.step);
  const measure = (candidates: readonly Levels[], some: readonly number[]): Promise<readonly number[]> =>
    evolution.measure(candidates.map(sparsitiesOf), some);
  let parent: Levels = new Int32Array(units.length);
  const [uniformFitness = Infinity] = await measure([parent], all);
  let fitness = uniformFitness;
  for (let generation = 0; generation < options.generations; generation++) {
    let candidates = distinctOffspring(evolution, parent);
    for (const round of ROUNDS) {
      const survivors = survivorsOf(round, options.offspring);
      if (candidates.length <= survivors) continue;
      const some = drawSequences(sequences, sampleSize(round, sequences), evolution);
      const values = await measure(candidates, some);
      candidates = candidates
        .map((candidate, i) => ({ candidate, value: values[i] }))
        .sort((a, b) => a.value - b.value)
        .slice(0, survivors)
        .map(({ candidate }) => candidate);
    }
    const values = await measure(candidates, all);
    values.forEach((value, i) => {
      if (!(value < fitness)) return;
      fitness = value;
      parent = candidates[i];
    });
    evolution.onGeneration(generation + 1, fitness);
  }
  return { sparsities: sparsitiesOf(parent), fitness, uniformFitness };
}

/** How levels become sparsities: the same weights per level for every unit. */
export function sparsitiesOfLevels(
  units: readonly Unit[],
  target: number,
  step: number,
): (levels: Levels) => readonly number[] {
  const mean = units.reduce((sum, { elements }) => sum + elements, 0) / units.length;
  return (levels) => units.map(({ elements }, i) => target + (levels[i] * step * mean) / elements);
}

/** Mutations of the parent, each different from it and from the others as far as there are any. */
function distinctOffspring(evolution: Evolution, parent: Levels): Levels[] {
  const seen = new Set([parent.join()]);
  const offspring: Levels[] = [];
  for (let draw = 0; draw < MOST_DRAWS && offspring.length < evolution.options.offspring; draw++) {
    const child = mutate(evolution, parent);
    if (seen.has(child.join())) continue;
    seen.add(child.join());
    offspring.push(child);
  }
  return offspring;
}

function mutate({ units, target, options, randomInteger }: Evolution, parent: Levels): Levels {
  const child = parent.slice();
  if (units.length < 2) return child;
  const sparsitiesOf = sparsitiesOfLevels(units, target, options.step);
  const isInBounds = (levels: Levels): boolean =>
    sparsitiesOf(levels).every((sparsity) => sparsity >= options.smallest && sparsity <= options.largest);
  const swaps = Math.min(randomInteger(1, MOST_SWAPS), randomInteger(1, MOST_SWAPS));
  for (let swap = 0, draw = 0; swap < swaps && draw < MOST_DRAWS; draw++) {
    const lower = randomInteger(0, units.length - 1);
    const raise = randomInteger(0, units.length - 2);
    const other = raise + Number(raise >= lower);
    const moved = randomInteger(1, MOST_LEVELS);
    child[lower] -= moved;
    child[other] += moved;
    if (isInBounds(child)) {
      swap++;
      continue;
    }
    child[lower] += moved;
    child[other] -= moved;
  }
  return child;
}

/** `count` different sequences, drawn at random. */
function drawSequences(sequences: number, count: number, { randomInteger }: Evolution): number[] {
  const rest = Array.from({ length: sequences }, (_, i) => i);
  return Array.from({ length: count }, () => rest.splice(randomInteger(0, rest.length - 1), 1)[0]);
}
