/** One block's forward as a graph, with the outputs that somebody wants of it. */
import type { GramPanel } from "../graph/composites.js";
import { product, type Dim } from "../graph/dimensions.js";
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import { maskShape } from "../model/mask.js";
import { addBlockInputs, addStateInput } from "./block-inputs.js";

export type { GramPanel } from "../graph/composites.js";

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

/** Narrower panels skip more of the upper triangle but make thinner products; measured best near this width. */
export const GRAM_PANEL_WIDTH = 704;

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
  const state = addStateInput(graph, architecture, rows);
  const positions = graph.input("positions", ["batch", tokens], "i64");
  const masks = new Map(
    [...architecture.masks].map(([name, { slopes }]) => [name, graph.input(`mask.${name}`, maskShape(slopes, tokens))]),
  );
  const { taps } = request;
  const routed = new Set(block.groups.filter((group) => group.isRouted === true).map((group) => group.name));
  const output = block.build({
    graph,
    hidden: state.hidden,
    carried: state.carried,
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
  if (request.hidden) graph.output("output", state.leave(output));
  return graph.build();
}

export const MOMENTS = ["sums", "squaredDeviations"] as const;

export function momentName(group: string, moment: (typeof MOMENTS)[number]): string {
  return `${moment}.${group}`;
}

export function rowsName(group: string): string {
  return `rows.${group}`;
}

export function tapName(group: string, part: number): string {
  return `tap.${group}.${part}`;
}
