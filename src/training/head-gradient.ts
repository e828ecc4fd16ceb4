/**
 * The loss at the end of a model and its gradients: next-token cross-entropy, the divergence from a teacher's logits, or a mixture,
 * through the final norm and the projection. Logits exist a tile of the vocabulary at a time: a first pass over the tiles
 * finds the partition functions, a second one the gradients.
 */
import { addArray, borrowed, type NdArray } from "../array.js";
import {
  addLogSumExp,
  addTileLogits,
  buildNormGraph,
  createLogSum,
  vocabularyTiles,
  type TileOptions,
  type VocabularyTile,
} from "../forward/head.js";
import { valuesOf } from "../forward/values.js";
import { readArrays } from "../forward/weights.js";
import type { Arrays, Executor, Program } from "../graph/executor.js";
import { gradientName, gradientOf } from "../graph/gradient.js";
import { GraphBuilder, type Graph, type NamedValue, type Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";

/** What a head computes with, on the host. */
export interface HeadTensors {
  /** By role of the architecture's head: the final norm and what else precedes the projection. */
  readonly tensors: Arrays;
  /** [vocabulary, width] */
  readonly projection: Float32Array;
  /** [vocabulary], where the head has one. */
  readonly bias?: Float32Array;
}

/** A model's own, as it is stored. */
export async function readHead({
  checkpoint,
  architecture: { head },
}: Pick<Model, "checkpoint" | "architecture">): Promise<HeadTensors> {
  const tensors = await readArrays(checkpoint, head.tensors);
  const projection = await checkpoint.readTensor(head.projection);
  return { tensors, projection, ...(head.bias === undefined ? {} : { bias: await checkpoint.readTensor(head.bias) }) };
}

/** The token that follows each one of some sequences of one length, -1 after their last. */
export function nextTokens(sequences: readonly Int32Array[]): Int32Array {
  const tokens = sequences[0]?.length ?? 0;
  const targets = new Int32Array(sequences.length * tokens).fill(-1);
  sequences.forEach((ids, i) => targets.set(ids.subarray(1), i * tokens));
  return targets;
}

/** Where gradients are added to; absent ones are not computed. */
export interface HeadSinks {
  readonly tensors?: ReadonlyMap<string, Float32Array>;
  readonly projection?: Float32Array;
  readonly bias?: Float32Array;
}

export interface Teacher {
  readonly head: HeadTensors;
  /** What leaves the teacher's last block for the same tokens, [rows, state.width]. */
  readonly hidden: NdArray;
}

export interface HeadBatch {
  /** What leaves the last block, [rows, state.width]. */
  readonly hidden: NdArray;
  /** The token that follows each row's; -1 where a row predicts nothing. */
  readonly targets: Int32Array;
  /** Factor on the losses of each predicting row. */
  readonly weight: number;
  readonly teacher?: Teacher;
  /** Share of the divergence from the teacher in the loss; the rest is cross-entropy. 0 without a teacher. */
  readonly distillation: number;
}

export interface HeadResult {
  /** weight · Σ over predicting rows. */
  readonly loss: number;
  /** With respect to `hidden`; the caller's. */
  readonly gradient: NdArray;
}

export interface HeadGradientOptions extends TileOptions {
  readonly isProjectionTrained: boolean;
  readonly isDistilled: boolean;
}

const TILE_INPUTS = ["hidden", "tile", "bias"] as const;

/** Log-sum-exp of a tile's logits, [tokens]. */
function buildPartitionGraph(architecture: Architecture): Graph {
  const graph = new GraphBuilder("head-partition");
  graph.output("logSumExp", addLogSumExp(graph, addTileLogits(graph, architecture)));
  return graph.build();
}

/**
 * A tile's part of the loss and of the gradients. Inputs: those of the tile's logits, twice with a teacher, and columns [tokens, 1]:
 * `target` (the target's row of the tile, or any where it is in none), and the factors `own` on p, `hit` on the target's p
 * and `taught` on the teacher's q. Outputs: gradients of `hidden`, `tile` and `bias`, and columns `targetLogits` and, with a
 * teacher, `divergences`: Σ q (log q - log p) over the tile.
 *
 * A vocabulary of one tile needs no pass before: `partition` is an output, of one of several it is an input.
 */
export function buildTileGradientGraph(architecture: Architecture, options: TileGraphOptions): Graph {
  const plain = new GraphBuilder("head-logits");
  plain.output("logits", addTileLogits(plain, architecture));
  const forward = plain.build();
  const names = forward.inputs.map(({ name }) => name);
  const of = names.filter((name) => name === "hidden" || options.isProjectionTrained);
  const backward = gradientOf(forward, { of, through: ["logits"] });

  const graph = new GraphBuilder("head-gradient");
  const inputs = new Map(forward.inputs.map(({ name, value }) => [name, graph.input(name, value.shape)]));
  const logits = lookUp(graph.inline(forward, [...inputs.values()]), (forward.outputs[0] as NamedValue).value.id);
  const column = (name: string, dtype?: "i64"): Value => graph.input(name, ["tokens", 1], dtype);
  const apply = (operator: "add" | "subtract" | "multiply", a: Value, b: Value): Value => graph.apply(operator, [a, b]);
  const largest = (value: Value): Value => graph.apply("reduceMax", [value], { axes: [1], keepsAxes: true });
  /** Shares of all rows of the vocabulary, and log Σ exp. */
  const sharesOf = (value: Value, prefix: string): { readonly shares: Value; readonly partition: Value } => {
    const name = `${prefix}partition`;
    if (!options.isWhole) {
      const partition = column(name);
      return { partition, shares: graph.apply("exp", [apply("subtract", value, partition)]) };
    }
    const shares = graph.apply("softmax", [value]);
    // The largest share is at least one over the vocabulary: its logarithm is exact enough.
    const partition = apply("subtract", largest(value), graph.apply("log", [largest(shares)]));
    graph.output(name, partition);
    return { shares, partition };
  };
  const p = sharesOf(logits, "");
  const target = column("target", "i64");
  graph.output("targetLogits", graph.apply("gatherAlong", [logits, target], { axis: 1 }));
  let pull = apply("multiply", p.shares, column("own"));
  if (options.isDistilled) {
    const said = addTileLogits(graph, architecture, "teacher.");
    const q = sharesOf(said, "teacher.");
    pull = apply("subtract", pull, apply("multiply", q.shares, column("taught")));
    const between = apply("subtract", apply("subtract", said, logits), apply("subtract", q.partition, p.partition));
    const sum = { axes: [1], keepsAxes: true };
    graph.output("divergences", graph.apply("reduceSum", [apply("multiply", q.shares, between)], sum));
  }
  const hit = apply("subtract", graph.scalar(0), column("hit"));
  pull = graph.apply("scatterAlong", [pull, target, hit], { axis: 1, adds: true });
  const feeds = backward.inputs.map(({ name }) => (name === gradientName("logits") ? pull : lookUp(inputs, name)));
  const values = graph.inline(backward, feeds);
  for (const { name, value } of backward.outputs) graph.output(name, lookUp(values, value.id));
  return graph.build();
}

export interface TileGraphOptions extends HeadGradientOptions {
  /** Whether the tile is the whole vocabulary. */
  readonly isWhole: boolean;
}

type HeadPrograms = Readonly<Record<"norm" | "normBack" | "tile", Program>> & { readonly partition?: Program };

export class HeadGradient implements AsyncDisposable {
  readonly #architecture: Architecture;
  readonly #tiles: readonly VocabularyTile[];
  readonly #programs: HeadPrograms;

  private constructor(architecture: Architecture, tiles: readonly VocabularyTile[], programs: HeadPrograms) {
    this.#architecture = architecture;
    this.#tiles = tiles;
    this.#programs = programs;
  }

  static async compile(
    executor: Executor,
    architecture: Architecture,
    options: HeadGradientOptions,
  ): Promise<HeadGradient> {
    const norm = buildNormGraph(architecture);
    const of = ["hidden", ...architecture.head.tensors.keys()].filter((name) =>
      norm.inputs.some((input) => input.name === name),
    );
    const tiles = vocabularyTiles(architecture.vocabularySize, options);
    return new HeadGradient(architecture, tiles, {
      norm: await executor.compile(norm),
      normBack: await executor.compile(gradientOf(norm, { of, through: ["normed"] })),
      // A vocabulary of one tile needs no pass before.
      ...(tiles.length > 1 && {
        partition: await executor.compile(buildPartitionGraph(architecture), { keepsMemory: true }),
      }),
      tile: await executor.compile(buildTileGradientGraph(architecture, { ...options, isWhole: tiles.length === 1 }), {
        keepsMemory: true,
      }),
    });
  }

  /** @param sinks gradients of the head's tensors are added to them */
  async run(head: HeadTensors, batch: HeadBatch, sinks: HeadSinks): Promise<HeadResult> {
    const { hidden, targets, weight, teacher, distillation } = batch;
    const rows = targets.length;
    using normed = await this.#normed(head, hidden);
    using teacherNormed = teacher && (await this.#normed(teacher.head, teacher.hidden));
    const partition = await this.#partition(head, normed);
    const teacherPartition = teacher && teacherNormed && (await this.#partition(teacher.head, teacherNormed));
    const column = (name: string, values: Float32Array | BigInt64Array): [string, NdArray] => [
      name,
      borrowed(name, values, [rows, 1]),
    ];
    const factor = (share: number): Float32Array =>
      Float32Array.from(targets, (target) => (target < 0 ? 0 : share * weight));
    const [crossEntropy, divergence, own] = [factor(1 - distillation), factor(distillation), factor(1)];
    const { width } = this.#architecture.state;
    const sum = new Float32Array(rows * width);
    let loss = 0;
    partition?.forEach((value, row) => (loss += (crossEntropy[row] as number) * value));
    for (const tile of this.#tiles) {
      const isHit = (target: number): boolean => target >= tile.first && target < tile.first + tile.rows;
      const feeds = new Map<string, NdArray>([
        ...this.#tileFeeds(head, normed, tile, ""),
        ...(teacher && teacherNormed ? this.#tileFeeds(teacher.head, teacherNormed, tile, "teacher.") : []),
        ...(partition ? [column("partition", Float32Array.from(partition))] : []),
        ...(teacherPartition ? [column("teacher.partition", Float32Array.from(teacherPartition))] : []),
        column(
          "target",
          BigInt64Array.from(targets, (target) => BigInt(isHit(target) ? target - tile.first : 0)),
        ),
        column("own", own),
        column(
          "hit",
          crossEntropy.map((value, row) => (isHit(targets[row] as number) ? value : 0)),
        ),
        column("taught", divergence),
      ]);
      const results = await this.#programs.tile.run(feeds);
      const values = (name: string): Float32Array | undefined => {
        const found = results.get(name);
        return found && valuesOf(found);
      };
      values("partition")?.forEach((value, row) => (loss += (crossEntropy[row] as number) * value));
      values("targetLogits")?.forEach((logit, row) => {
        if (isHit(targets[row] as number)) loss -= (crossEntropy[row] as number) * logit;
      });
      values("divergences")?.forEach((part, row) => (loss += (divergence[row] as number) * part));
      const add = (name: string, target: Float32Array | undefined): void => {
        const found = values(gradientName(name));
        if (found !== undefined && target !== undefined) addArray(found, target);
      };
      add("hidden", sum);
      add("tile", sinks.projection?.subarray(tile.first * this.#width, (tile.first + tile.rows) * this.#width));
      add("bias", sinks.bias?.subarray(tile.first, tile.first + tile.rows));
      for (const array of results.values()) array[Symbol.dispose]();
    }
    const back = await this.#programs.normBack.run(
      new Map([
        ...head.tensors,
        ["hidden", hidden],
        [gradientName("normed"), borrowed("normed gradient", sum, [rows, width])],
      ]),
    );
    for (const [role, sink] of sinks.tensors ?? []) {
      const found = back.get(gradientName(role));
      if (found !== undefined) addArray(valuesOf(found), sink);
    }
    const gradient = lookUp(back, gradientName("hidden"));
    for (const array of back.values()) if (array !== gradient) array[Symbol.dispose]();
    return { loss, gradient };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of Object.values(this.#programs)) await program[Symbol.asyncDispose]();
  }

  get #width(): number {
    return this.#architecture.head.width;
  }

  async #normed({ tensors }: HeadTensors, hidden: NdArray): Promise<NdArray> {
    return lookUp(await this.#programs.norm.run(new Map([...tensors, ["hidden", hidden]])), "normed");
  }

  /** Of every row; undefined where one tile says it itself. */
  async #partition(head: HeadTensors, normed: NdArray): Promise<Float64Array | undefined> {
    const { partition } = this.#programs;
    if (partition === undefined) return undefined;
    const sum = createLogSum(normed.shape[0] as number);
    for (const tile of this.#tiles) {
      const results = await partition.run(new Map(this.#tileFeeds(head, normed, tile, "")));
      using found = lookUp(results, "logSumExp");
      sum.add(valuesOf(found), 0);
    }
    return sum.value();
  }

  #tileFeeds(
    { projection, bias }: HeadTensors,
    normed: NdArray,
    { first, rows }: VocabularyTile,
    prefix: string,
  ): [string, NdArray][] {
    const width = this.#width;
    const weights = projection.subarray(first * width, (first + rows) * width);
    const [hidden, tile, added] = TILE_INPUTS.map((name) => `${prefix}${name}`) as [string, string, string];
    return [
      [hidden, normed],
      [tile, borrowed(tile, weights, [rows, width])],
      [added, borrowed(added, bias?.subarray(first, first + rows) ?? new Float32Array(rows), [rows])],
    ];
  }
}
