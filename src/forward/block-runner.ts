/**
 * Running one block's forward. Weights are inputs of the graph, so one program serves every block of
 * the same shape and a pruned weight is fed without rebuilding anything. What a run returns (hidden states, the inputs
 * of linears, statistics of those inputs) decides which truncation of the graph is compiled.
 */
import type { NdArray } from "../array.js";
import type { Executor, Program } from "../graph/executor.js";
import type { Architecture, BlockSpec, StateSpec } from "../model/architecture.js";
import { OnnxExecutor } from "../onnx/executor.js";
import {
  buildBlockGraph,
  GRAM_PANEL_WIDTH,
  momentName,
  MOMENTS,
  rowsName,
  tapName,
  type BlockRequest,
} from "./block-graph.js";
import { PositionFeeds } from "./position-feeds.js";
import { valuesOf } from "./values.js";
import { weightArrays } from "./weights.js";

/** Values of a block's tensors by role, each compact and row-major. */
export type BlockWeights = ReadonlyMap<string, Float32Array>;

/** What a group's tap returned, where the executor made it. */
export interface Tap {
  /** x [rows, inFeatures], its column norms [inFeatures], or panels [end - first, end] of its Gram matrix. */
  readonly parts: readonly NdArray[];
  /** Σ x and Σ (x - mean of its sequence)², per channel, where asked for. An expert's tokens count as one sequence. */
  readonly moments: { readonly sums: NdArray; readonly squaredDeviations: NdArray } | undefined;
  /** Tokens that reached the group: all of the run, or those routed to an expert. */
  readonly rows: number;
}

/** The caller's until it disposes of it, and of all arrays with it: their memory is then that of later results. */
export interface BlockResult extends Disposable {
  /** The state behind the block, [rows, state.width]; present where asked for. */
  readonly hidden: NdArray | undefined;
  /** By group. */
  readonly taps: ReadonlyMap<string, Tap>;
}

export interface BlockRunnerOptions {
  /** Of the executor that is opened where none is given. */
  readonly threads?: number;
  /** What runs the blocks; it stays the caller's. Default: ONNX Runtime on the host. */
  readonly executor?: Executor;
  /** About how wide a panel of a Gram matrix is. */
  readonly gramPanelWidth?: number;
}

/** Programs of one architecture, compiled when first needed. */
export class BlockRunner implements AsyncDisposable {
  readonly #architecture: Architecture;
  readonly #executor: Executor;
  readonly #isExecutorOwn: boolean;
  readonly #panelWidth: number;
  readonly #programs = new Map<string, Program>();
  /** Which experts starve differs from block to block, so programs that bypass the router are not worth keeping. */
  #bypassing: { readonly key: string; readonly program: Program } | undefined;
  #sessionsCompiled = 0;
  /** What goes by positions, for whoever runs graphs of the same blocks. */
  readonly positions: PositionFeeds;

  constructor(architecture: Architecture, options: BlockRunnerOptions = {}) {
    const { threads, executor, gramPanelWidth = GRAM_PANEL_WIDTH } = options;
    this.#architecture = architecture;
    this.positions = new PositionFeeds(architecture);
    this.#executor = executor ?? new OnnxExecutor(threads === undefined ? {} : { threads });
    this.#isExecutorOwn = executor === undefined;
    this.#panelWidth = gramPanelWidth;
  }

  /** How many graphs were compiled so far: it must not grow with a model's depth. */
  get sessionsCompiled(): number {
    return this.#sessionsCompiled;
  }

  /** What a token's row is made of. */
  get state(): StateSpec {
    return this.#architecture.state;
  }

  /** What runs the blocks. */
  get executor(): Executor {
    return this.#executor;
  }

  /** Where the arrays live that it reads and makes. */
  get home(): Executor["home"] {
    return this.#executor.home;
  }

  /** About how wide a panel of a Gram matrix is, see `gramPanels`. */
  get gramPanelWidth(): number {
    return this.#panelWidth;
  }

  /** Let go of memory that is kept for results of later runs. */
  trim(): void {
    this.#executor.trim();
  }

  /** @param hidden the state in front of the block, [batch * tokens, state.width], borrowed */
  async run(
    block: BlockSpec,
    weights: BlockWeights,
    hidden: NdArray,
    { batch, tokens }: { readonly batch: number; readonly tokens: number },
    request: BlockRequest,
  ): Promise<BlockResult> {
    const program = await this.#program(block, request, tokens);
    const tensors = weightArrays(block, weights);
    const results = await program.run(
      new Map<string, NdArray>([...this.positions.of(batch, tokens), ...tensors, ["hidden", hidden]]),
    );
    const taps = new Map<string, Tap>();
    for (const group of request.taps?.groups ?? []) {
      const parts: NdArray[] = [];
      for (let part = results.get(tapName(group, 0)); part !== undefined;) {
        parts.push(part);
        part = results.get(tapName(group, parts.length));
      }
      const [sums, squaredDeviations] = MOMENTS.map((moment) => results.get(momentName(group, moment)));
      const moments = sums === undefined || squaredDeviations === undefined ? undefined : { sums, squaredDeviations };
      const rows = results.get(rowsName(group));
      taps.set(group, { parts, moments, rows: rows === undefined ? batch * tokens : (valuesOf(rows)[0] as number) });
    }
    return {
      hidden: results.get("output"),
      taps,
      [Symbol.dispose]: () => results.forEach((array) => array[Symbol.dispose]()),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.#programs.values()) await program[Symbol.asyncDispose]();
    this.#programs.clear();
    await this.#bypassing?.program[Symbol.asyncDispose]();
    this.#bypassing = undefined;
    if (this.#isExecutorOwn) await this.#executor[Symbol.asyncDispose]();
  }

  async #program(block: BlockSpec, request: BlockRequest, tokens: number): Promise<Program> {
    const sizes = block.isRecurrent === true ? { tokens } : {};
    const key = JSON.stringify([block.shapeKey, request, sizes]);
    const known = this.#programs.get(key) ?? (this.#bypassing?.key === key ? this.#bypassing.program : undefined);
    if (known !== undefined) return known;
    const graph = buildBlockGraph(this.#architecture, block, request, { panelWidth: this.#panelWidth, ...sizes });
    const program = await this.#executor.compile(graph);
    this.#sessionsCompiled++;
    if (request.taps?.isRoutingBypassed !== true) {
      this.#programs.set(key, program);
      return program;
    }
    await this.#bypassing?.program[Symbol.asyncDispose]();
    this.#bypassing = { key, program };
    return program;
  }
}
