/**
 * Running one block's forward. Weights are inputs of the graph, so one program serves every block of
 * the same shape and a pruned weight is fed without rebuilding anything. What a run returns (hidden states, the inputs
 * of linears, statistics of those inputs) decides which truncation of the graph is compiled.
 */
import type { NdArray } from "../array.js";
import type { GramPanel } from "../graph/composites.js";
import { product, type Dim } from "../graph/dimensions.js";
import type { Executor, Program } from "../graph/executor.js";
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import { maskShape } from "../model/mask.js";
import { lookUp } from "../look-up.js";
import { OnnxExecutor } from "../onnx/executor.js";
import { addBlockInputs } from "./block-inputs.js";
import { PositionFeeds } from "./position-feeds.js";
import { valuesOf } from "./values.js";
import { weightArrays } from "./weights.js";

export type { GramPanel } from "../graph/composites.js";

/** Values of a block's tensors by role, each compact and row-major. */
export type BlockWeights = ReadonlyMap<string, Float32Array>;

/**
 * What to return of a group's input x [tokens, inFeatures]:
 * "inputs" x itself; "column-norms" Σ x² per column; "gram" the lower block triangle of xᵀx (see `gramPanels`).
 */
export type TapKind = "inputs" | "column-norms" | "gram";

export interface BlockRequest {
  readonly hidden: boolean;
  readonly taps:
    | {
        readonly kind: TapKind;
        readonly groups: readonly string[];
        /** Also the first moments of the inputs, see `Tap`. */
        readonly hasMoments?: boolean;
        /** Let every expert see every token. */
        readonly isRoutingBypassed?: boolean;
      }
    | undefined;
}

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
  /** [rows, hidden]; present where asked for. */
  readonly hidden: NdArray | undefined;
  /** By group. */
  readonly taps: ReadonlyMap<string, Tap>;
}

/** Narrower panels skip more of the upper triangle but make thinner products; measured best near this width. */
const GRAM_PANEL_WIDTH = 704;

/**
 * How the Gram matrix of n inputs is cut into panels: their products cost little more than half of the full one.
 * @param near their width, more or less
 */
export function gramPanels(n: number, near = GRAM_PANEL_WIDTH): GramPanel[] {
  const count = Math.max(1, Math.round(n / near));
  const width = Math.ceil(n / count / 16) * 16;
  const panels: GramPanel[] = [];
  for (let first = 0; first < n; first += width) panels.push({ first, end: Math.min(n, first + width) });
  return panels;
}

function tapOutputs(graph: GraphBuilder, kind: TapKind, input: Value, panelWidth: number): readonly Value[] {
  switch (kind) {
    case "inputs":
      return [input];
    case "column-norms":
      return [graph.apply("sumSquares", [input], { axes: [0] })];
    case "gram":
      return graph.applyAll("gram", [input], { panels: gramPanels(input.shape[1] as number, panelWidth) });
    default:
      return kind satisfies never;
  }
}

export interface BlockGraphOptions {
  readonly panelWidth?: number;
  /** Of a sequence, where that is known: a recurrent block's graph is then smaller. */
  readonly tokens?: Dim;
}

/** A block's forward as a graph with the outputs that a request asks for. */
export function buildBlockGraph(
  architecture: Architecture,
  block: BlockSpec,
  request: BlockRequest,
  { panelWidth = GRAM_PANEL_WIDTH, tokens = "tokens" }: BlockGraphOptions = {},
): Graph {
  const graph = new GraphBuilder(block.shapeKey);
  const rows = product("batch", tokens);
  const hidden = graph.input("hidden", [rows, architecture.hiddenSize]);
  const positions = graph.input("positions", ["batch", tokens], "i64");
  const masks = new Map(
    [...architecture.masks].map(([name, { slopes }]) => [name, graph.input(`mask.${name}`, maskShape(slopes, tokens))]),
  );
  const { taps } = request;
  const routed = new Set(block.groups.filter((group) => group.isRouted === true).map((group) => group.name));
  const output = block.build({
    graph,
    hidden,
    rows,
    isRoutingBypassed: taps?.isRoutingBypassed === true,
    ...addBlockInputs(graph, architecture, block, positions),
    attend(query, key, value, { mask, sinks, ...how }) {
      const table = mask === undefined ? [] : [lookUp(masks, mask)];
      const attributes = { ...how, tokens, isCausal: mask === undefined };
      if (sinks === undefined) return graph.apply("attention", [query, key, value, ...table], attributes);
      return graph.apply("sinkAttention", [query, key, value, sinks, ...table], attributes);
    },
    convolve(x, weight, bias) {
      const operands = [x, weight, ...(bias === undefined ? [] : [bias])];
      return graph.apply("convolution", operands, { tokens });
    },
    recur: (operator, operands, how) => graph.apply(operator, operands, { ...how, tokens }),
    isTapped: (group) => taps?.groups.includes(group) === true,
    tap(group, input) {
      if (taps?.groups.includes(group) !== true) return;
      if (routed.has(group)) graph.output(rowsName(group), graph.apply("size", [input], { axis: 0 }));
      tapOutputs(graph, taps.kind, input, panelWidth).forEach((value, part) => {
        graph.output(tapName(group, part), value);
      });
      if (taps.hasMoments !== true) return;
      // An expert's tokens count as one sequence.
      const moments = graph.applyAll("moments", [input], routed.has(group) ? {} : { tokens });
      MOMENTS.forEach((moment, index) => graph.output(momentName(group, moment), moments[index] as Value));
    },
  });
  if (request.hidden) graph.output("output", output);
  return graph.build();
}

const MOMENTS = ["sums", "squaredDeviations"] as const;

function momentName(group: string, moment: (typeof MOMENTS)[number]): string {
  return `${moment}.${group}`;
}

function rowsName(group: string): string {
  return `rows.${group}`;
}

function tapName(group: string, part: number): string {
  return `tap.${group}.${part}`;
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

  /** @param hidden [batch * tokens, hidden], borrowed */
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
