/**
 * Running one block's forward in ONNX Runtime. Weights are inputs of the graph, so one session serves every block of
 * the same shape and a pruned weight is fed without rebuilding anything. What a run returns (hidden states, the inputs
 * of linears, statistics of those inputs) decides which truncation of the graph is compiled.
 */
import { GraphBuilder, type BuiltGraph, type Value } from "../onnx/graph.js";
import { createSession, type Feed, type Session } from "../onnx/session.js";
import { ELEMENT_TYPES } from "../onnx/encode.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import { unflatten } from "../model/pieces.js";
import { maskShape, maskValues } from "../model/mask.js";
import { lookUp } from "../look-up.js";
import { rotaryAngles } from "../model/rotary.js";

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

/** What a group's tap returned. */
export interface Tap {
  /** One array, or one per panel of the Gram matrix. */
  readonly parts: readonly Float32Array[];
  /** Σ x and Σ (x - mean of its sequence)², per channel, where asked for. An expert's tokens count as one sequence. */
  readonly moments: { readonly sums: Float32Array; readonly squaredDeviations: Float32Array } | undefined;
  /** Tokens that reached the group: all of the run, or those routed to an expert. */
  readonly rows: number;
}

export interface BlockResult {
  /** [batch, tokens, hidden]; present where asked for. */
  readonly hidden: Float32Array | undefined;
  /** By group. */
  readonly taps: ReadonlyMap<string, Tap>;
}

/** Rows [first, end) of the lower block triangle: columns [0, end). */
export interface GramPanel {
  readonly first: number;
  readonly end: number;
}

/** Narrower panels skip more of the upper triangle but make thinner products; measured best near this width. */
const GRAM_PANEL_WIDTH = 704;

/** How the Gram matrix of n inputs is cut into panels: their products cost little more than half of the full one. */
export function gramPanels(n: number): GramPanel[] {
  const count = Math.max(1, Math.round(n / GRAM_PANEL_WIDTH));
  const width = Math.ceil(n / count / 16) * 16;
  const panels: GramPanel[] = [];
  for (let first = 0; first < n; first += width) panels.push({ first, end: Math.min(n, first + width) });
  return panels;
}

function tapOutputs(
  graph: GraphBuilder,
  kind: TapKind,
  input: Value,
  width: number,
): { value: Value; shape: (number | string)[] }[] {
  switch (kind) {
    case "inputs":
      return [{ value: input, shape: ["rows", width] }];
    case "column-norms":
      return [{ value: graph.node("ReduceSumSquare", [input, graph.integers([0])], { keepdims: 0 }), shape: [width] }];
    case "gram":
      return gramPanels(width).map(({ first, end }) => {
        const columns = (from: number, to: number): Value =>
          from === 0 && to === width
            ? input
            : graph.node("Slice", [input, graph.integers([from]), graph.integers([to]), graph.integers([1])]);
        return {
          value: graph.node("Gemm", [columns(first, end), columns(0, end)], { transA: 1 }),
          shape: [end - first, end],
        };
      });
    default:
      return kind satisfies never;
  }
}

function buildBlockGraph(architecture: Architecture, block: BlockSpec, request: BlockRequest): BuiltGraph {
  const graph = new GraphBuilder(block.shapeKey);
  const hidden = graph.input("hidden", ["batch", "tokens", architecture.hiddenSize]);
  const positions = graph.input("positions", ["batch", "tokens"], "int64");
  const tensors = new Map([...block.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const tables = new Map(
    [...architecture.rotaryTables].map(([name, { dimensions }]) => {
      const shape = ["table", dimensions / 2];
      return [name, { cos: graph.input(`cos.${name}`, shape), sin: graph.input(`sin.${name}`, shape), positions }];
    }),
  );
  const widths = new Map(block.groups.map((group) => [group.name, group.inFeatures]));
  const masks = new Map(
    [...architecture.masks].map(([name, { slopes }]) => [
      name,
      graph.input(`mask.${name}`, maskShape(slopes, "tokens")),
    ]),
  );
  const routed = new Set(block.groups.filter((group) => group.isRouted === true).map((group) => group.name));
  const output = block.build({
    graph,
    hidden,
    isRoutingBypassed: request.taps?.isRoutingBypassed === true,
    tensor: (role) => lookUp(tensors, role),
    rotary: (name) => lookUp(tables, name),
    mask: (name) => lookUp(masks, name),
    tap(group, input) {
      if (request.taps?.groups.includes(group) !== true) return;
      if (routed.has(group)) graph.output(countRows(graph, input), rowsName(group), [1]);
      tapOutputs(graph, request.taps.kind, input, lookUp(widths, group)).forEach(({ value, shape }, part) => {
        graph.output(value, tapName(group, part), shape);
      });
      if (request.taps.hasMoments !== true) return;
      const width = lookUp(widths, group);
      const { sums, squaredDeviations } = addMoments(graph, routed.has(group) ? undefined : hidden, input, width);
      graph.output(sums, momentName(group, "sums"), [width]);
      graph.output(squaredDeviations, momentName(group, "squaredDeviations"), [width]);
    },
  });
  if (request.hidden) graph.output(output, "output", ["batch", "tokens", architecture.hiddenSize]);
  return graph.build();
}

/** @param like [batch, tokens, …]: how the rows fall into sequences; absent: they are one sequence */
function addMoments(
  graph: GraphBuilder,
  like: Value | undefined,
  input: Value,
  width: number,
): { readonly sums: Value; readonly squaredDeviations: Value } {
  const sequences =
    like === undefined
      ? graph.node("Reshape", [input, graph.integers([1, -1, width])])
      : unflatten(graph, input, like, width);
  const mean = graph.node("ReduceMean", [sequences, graph.integers([1])], { keepdims: 1 });
  const deviations = graph.node("Sub", [sequences, mean]);
  const overAll = graph.integers([0, 1]);
  return {
    sums: graph.node("ReduceSum", [sequences, overAll], { keepdims: 0 }),
    squaredDeviations: graph.node("ReduceSumSquare", [deviations, overAll], { keepdims: 0 }),
  };
}

function momentName(group: string, moment: "sums" | "squaredDeviations"): string {
  return `${moment}.${group}`;
}

function countRows(graph: GraphBuilder, input: Value): Value {
  return graph.node("Cast", [graph.node("Shape", [input], { start: 0, end: 1 })], { to: ELEMENT_TYPES.float32 });
}

function rowsName(group: string): string {
  return `rows.${group}`;
}

function tapName(group: string, part: number): string {
  return `tap.${group}.${part}`;
}

/** Sessions of one architecture, compiled when first needed. */
export class BlockRunner implements AsyncDisposable {
  readonly #architecture: Architecture;
  readonly #threads: number | undefined;
  readonly #sessions = new Map<string, Session>();
  /** Which experts starve differs from block to block, so sessions that bypass the router are not worth keeping. */
  #bypassing: { readonly key: string; readonly session: Session } | undefined;
  #sessionsCompiled = 0;
  #positions: { readonly key: string; readonly feeds: Record<string, Feed> } | undefined;

  constructor(architecture: Architecture, options: { readonly threads?: number } = {}) {
    this.#architecture = architecture;
    this.#threads = options.threads;
  }

  /** How many graphs were compiled so far: it must not grow with a model's depth. */
  get sessionsCompiled(): number {
    return this.#sessionsCompiled;
  }

  /** @param hidden [batch, tokens, hidden] */
  async run(
    block: BlockSpec,
    weights: BlockWeights,
    hidden: Float32Array,
    batch: number,
    tokens: number,
    request: BlockRequest,
  ): Promise<BlockResult> {
    const session = await this.#session(block, request);
    const feeds: Record<string, Feed> = {
      ...this.#positionFeeds(batch, tokens),
      hidden: { values: hidden, shape: [batch, tokens, this.#architecture.hiddenSize] },
    };
    for (const [role, { shape }] of block.tensors) feeds[role] = { values: lookUp(weights, role), shape };
    const results = await session.run(feeds);
    const taps = new Map<string, Tap>();
    for (const group of request.taps?.groups ?? []) {
      const parts: Float32Array[] = [];
      for (let part = 0; results[tapName(group, part)] !== undefined; part++)
        parts.push(results[tapName(group, part)] as Float32Array);
      const sums = results[momentName(group, "sums")];
      const squaredDeviations = results[momentName(group, "squaredDeviations")];
      const moments = sums === undefined ? undefined : { sums, squaredDeviations };
      taps.set(group, { parts, moments, rows: results[rowsName(group)]?.[0] ?? batch * tokens });
    }
    return { hidden: results["output"], taps };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions.values()) await session[Symbol.asyncDispose]();
    this.#sessions.clear();
    await this.#bypassing?.session[Symbol.asyncDispose]();
    this.#bypassing = undefined;
  }

  async #session(block: BlockSpec, request: BlockRequest): Promise<Session> {
    const key = JSON.stringify([block.shapeKey, request]);
    const known = this.#sessions.get(key) ?? (this.#bypassing?.key === key ? this.#bypassing.session : undefined);
    if (known !== undefined) return known;
    const options = this.#threads === undefined ? {} : { threads: this.#threads };
    const session = await createSession(buildBlockGraph(this.#architecture, block, request), options);
    this.#sessionsCompiled++;
    if (request.taps?.isRoutingBypassed !== true) {
      this.#sessions.set(key, session);
      return session;
    }
    await this.#bypassing?.session[Symbol.asyncDispose]();
    this.#bypassing = { key, session };
    return session;
  }

  #positionFeeds(batch: number, tokens: number): Record<string, Feed> {
    const key = `${batch}x${tokens}`;
    if (this.#positions?.key === key) return this.#positions.feeds;
    const values = BigInt64Array.from({ length: batch * tokens }, (_, i) => BigInt(i % tokens));
    const feeds: Record<string, Feed> = { positions: { values, shape: [batch, tokens] } };
    for (const [name, table] of this.#architecture.rotaryTables) {
      const { cos, sin } = rotaryAngles(table, tokens);
      const shape = [tokens, table.dimensions / 2];
      feeds[`cos.${name}`] = { values: cos, shape };
      feeds[`sin.${name}`] = { values: sin, shape };
    }
    for (const [name, mask] of this.#architecture.masks) {
      feeds[`mask.${name}`] = { values: maskValues(mask, tokens), shape: maskShape(mask.slopes, tokens) };
    }
    this.#positions = { key, feeds };
    return feeds;
  }
}
