/**
 * How far a block's outputs are from given ones, and the gradients of that with respect to the block's tensors: one program
 * per kind of block.
 */
import { borrowed, type NdArray } from "../array.js";
import { gradientName, gradientOf } from "../graph/gradient.js";
import type { Arrays, Program } from "../graph/executor.js";
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import { buildBlockGraph } from "../forward/block-graph.js";
import type { BlockRunner } from "../forward/block-runner.js";
import type { PositionFeeds } from "../forward/position-feeds.js";
import { valuesOf } from "../forward/values.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";

const LOSS = "loss";
const TARGET = "target";
const WEIGHT = "weight";

/**
 * `loss` = weight · Σ (block(hidden) - target)² over hidden states, a scalar; what is carried beside them does not count.
 * Inputs: the block graph's, `target` [rows, state.width] and `weight`, [].
 */
export function buildBlockLossGraph(architecture: Architecture, block: BlockSpec): Graph {
  const forward = buildBlockGraph(architecture, block, { hidden: true, taps: undefined });
  const graph = new GraphBuilder(`${block.shapeKey} loss`);
  const inputs = forward.inputs.map(({ name, value }) => graph.input(name, value.shape, value.dtype));
  const values = graph.inline(forward, inputs);
  const output = lookUp(values, (forward.outputs[0] as { readonly value: Value }).value.id);
  const apart = graph.apply("subtract", [output, graph.input(TARGET, output.shape)]);
  const { hidden, carried } = architecture.state;
  const difference = carried.length === 0 ? apart : graph.apply("slice", [apart], { axis: 1, start: 0, end: hidden });
  const sum = graph.apply("sumSquares", [difference], { axes: [0, 1] });
  graph.output(LOSS, graph.apply("multiply", [sum, graph.input(WEIGHT, [])]));
  return graph.build();
}

export interface LossBatch {
  /** [batch * tokens, state.width], both. */
  readonly hidden: NdArray;
  readonly target: NdArray;
  readonly batch: number;
  readonly tokens: number;
  /** Factor on the sum of squares. */
  readonly weight: number;
}

/** Programs of one kind of block; blocks of the same shape key may share it. */
export class BlockLoss implements AsyncDisposable {
  readonly architecture: Architecture;
  readonly #loss: Program;
  readonly #gradients: Program;
  readonly #positions: PositionFeeds;

  private constructor(architecture: Architecture, loss: Program, gradients: Program, positions: PositionFeeds) {
    this.architecture = architecture;
    this.#loss = loss;
    this.#gradients = gradients;
    this.#positions = positions;
  }

  /** @param trained names of the tensors that gradients are taken of */
  static async compile(
    { executor, positions }: Pick<BlockRunner, "executor" | "positions">,
    architecture: Architecture,
    block: BlockSpec,
    trained: readonly string[],
  ): Promise<BlockLoss> {
    const graph = buildBlockLossGraph(architecture, block);
    const loss = await executor.compile(graph);
    const gradients = await executor.compile(gradientOf(graph, { of: trained, through: [LOSS], keep: [LOSS] }));
    return new BlockLoss(architecture, loss, gradients, positions);
  }

  async loss(tensors: Arrays, batch: LossBatch): Promise<number> {
    const results = await this.#loss.run(this.#feeds(tensors, batch));
    return takeLoss(results);
  }

  /**
   * The loss, and its gradients as `gradientName` names them.
   * @param into where to write gradients; others are the caller's to dispose of
   */
  async gradients(
    tensors: Arrays,
    batch: LossBatch,
    into: Arrays = new Map(),
  ): Promise<{ readonly loss: number; readonly gradients: Arrays }> {
    const feeds = this.#feeds(tensors, batch);
    feeds.set(gradientName(LOSS), borrowed("one", Float32Array.of(1), []));
    const gradients = await this.#gradients.run(feeds, into);
    return { loss: takeLoss(gradients), gradients };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#loss[Symbol.asyncDispose]();
    await this.#gradients[Symbol.asyncDispose]();
  }

  #feeds(tensors: Arrays, { hidden, target, batch, tokens, weight }: LossBatch): Map<string, NdArray> {
    return new Map<string, NdArray>([
      ...this.#positions.of(batch, tokens),
      ...tensors,
      ["hidden", hidden],
      [TARGET, target],
      [WEIGHT, borrowed(WEIGHT, Float32Array.of(weight), [])],
    ]);
  }
}

function takeLoss(results: Arrays): number {
  using loss = lookUp(results, LOSS);
  return valuesOf(loss)[0] as number;
}
