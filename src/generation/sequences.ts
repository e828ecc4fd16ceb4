/**
 * Sequences that grow side by side, a token each per pass over the model. One that ends makes room for the next. Each
 * draws by random numbers of its own, in its own order, so which ones grow beside it does not matter to it.
 */
import { MersenneTwister } from "../calibration/random.js";
import { NumericalError } from "../errors.js";
import { areUsable, distributionOf, draw, mostProbable, type Sampling } from "./sampling.js";

/** A model that takes a token for each of some sequences and says what may follow; `StepRunner` is one. */
export interface TokenModel {
  advance(ids: readonly number[], positions: readonly number[], onBlock: () => void): Promise<void>;
  /** [rows, vocabulary] */
  logits(): Promise<Float32Array>;
  move(from: number, to: number): void;
}

/** How much is wanted: so many sequences, or as many as have so many tokens together. */
export type Target = { readonly sequences: number } | { readonly tokens: number };

export interface GrowthOptions {
  readonly sampling: Sampling;
  /** Tokens after the start that are the most probable ones instead of drawn. */
  readonly greedyTokens: number;
  /** Tokens that end a sequence; they are part of it. */
  readonly endTokens: ReadonlySet<number>;
  /** Tokens of the longest sequence, its start included. */
  readonly seqlen: number;
  /** Sequences that grow at a time. */
  readonly rows: number;
  readonly seed: number;
  /** What a sequence begins with: at least one token and at most `seqlen`. */
  start(index: number, random: MersenneTwister): readonly number[];
  readonly target: Target;
  /** Called after every block of a pass; throws to stop. */
  onBlock(): void;
  /** Called after every pass with the lengths so far. */
  onPass(lengths: readonly number[]): void;
}

interface Sequence {
  readonly index: number;
  readonly ids: number[];
  readonly startLength: number;
  readonly random: MersenneTwister;
  /** Tokens that the model was fed. */
  fed: number;
}

export interface Grown {
  /** In the order in which they were begun; where tokens were asked for, the last may be unfinished. */
  readonly sequences: readonly Int32Array[];
  /** Tokens that the model made, also of sequences that were not needed in the end. */
  readonly generated: number;
}

/** @throws NumericalError E_NON_FINITE_LOGITS naming the sequence and the token */
export async function growSequences(model: TokenModel, options: GrowthOptions): Promise<Grown> {
  const { endTokens, seqlen, target, rows, onBlock } = options;
  const seeds = new MersenneTwister(options.seed);
  const begun: Sequence[] = [];
  const lengths = (): number[] => begun.map(({ ids }) => ids.length);
  const isDone = ({ ids, startLength }: Sequence): boolean =>
    ids.length === seqlen || (ids.length > startLength && endTokens.has(ids.at(-1) as number));
  const wantsMore = (): boolean =>
    "tokens" in target ? sumOf(lengths()) < target.tokens : begun.length < target.sequences;
  /** The next sequence that has something to grow. */
  const begin = (): Sequence | undefined => {
    while (wantsMore()) {
      const random = new MersenneTwister(seeds.getRandomBits(32));
      const start = options.start(begun.length, random);
      const sequence = { index: begun.length, ids: [...start], startLength: start.length, random, fed: 0 };
      begun.push(sequence);
      if (!isDone(sequence)) return sequence;
    }
    return undefined;
  };
  /** Those whose place in the result is known: all up to the first that still grows. */
  const settled = (): readonly Sequence[] => {
    const growing = begun.findIndex((sequence) => !isDone(sequence));
    return growing === -1 ? begun : begun.slice(0, growing + 1);
  };
  const isEnough = (): boolean => "tokens" in target && sumOf(settled().map(({ ids }) => ids.length)) >= target.tokens;

  const active: Sequence[] = [];
  for (let next = begin(); next !== undefined; next = active.length < rows ? begin() : undefined) active.push(next);
  while (active.length > 0 && !isEnough()) {
    await model.advance(
      active.map(({ ids, fed }) => ids[fed] as number),
      active.map(({ fed }) => fed),
      onBlock,
    );
    for (const sequence of active) sequence.fed++;
    if (active.some(({ ids, fed }) => fed === ids.length)) choose(active, await model.logits(), options);
    for (let row = active.length - 1; row >= 0; row--) {
      if (!isDone(active[row] as Sequence)) continue;
      const next = begin();
      if (next !== undefined) active[row] = next;
      else leaveRow(active, row, model);
    }
    options.onPass(lengths());
  }
  return {
    sequences: settled().map(({ ids }) => Int32Array.from(ids)),
    generated: sumOf(begun.map(({ ids, startLength }) => ids.length - startLength)),
  };
}

/** The last row takes the place of one that is done and has no successor. */
function leaveRow(active: Sequence[], row: number, model: TokenModel): void {
  const last = active.pop() as Sequence;
  if (row === active.length) return;
  model.move(active.length, row);
  active[row] = last;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** A further token for every sequence whose last one was fed. */
function choose(active: readonly Sequence[], logits: Float32Array, { sampling, greedyTokens }: GrowthOptions): void {
  const vocabulary = logits.length / active.length;
  active.forEach((sequence, row) => {
    const { index, ids, startLength, random, fed } = sequence;
    if (fed < ids.length) return;
    const own = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    if (!areUsable(own)) {
      throw new NumericalError(
        "E_NON_FINITE_LOGITS",
        `sequence ${index}, token ${ids.length}: the model gives logits that are not finite.`,
        {
          hint: "The checkpoint holds non-finite weights or overflows: check it with `prune eval`.",
          details: { sequence: index, token: ids.length },
        },
      );
    }
    const isGreedy = ids.length - startLength < greedyTokens;
    ids.push(isGreedy ? mostProbable(own) : draw(distributionOf(own, sampling), random.random()));
  });
}
