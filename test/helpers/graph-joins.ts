/**
 * Which stored architectures have graphs in which something meets that meets in none before them. Tests of what follows
 * from operators and how they are joined (gradients, executors, memory) look at these: families that differ in names,
 * sizes, constants and order add nothing to them.
 */
import { decompose } from "../../src/graph/decompose.js";
import type { Graph } from "../../src/graph/graph.js";
import type { BlockSpec } from "../../src/model/architecture.js";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { fixtures, type Fixture } from "./architectures.js";
import { isPrimitive } from "./graphs.js";

/** Operators with as many inputs as there are experts, and those whose parts do not depend on a family. */
const KEPT = new Set(["experts", "expert", "attention"]);

/** Pairs of an operator and what makes one of its inputs, each with its attributes but for sizes and constants. */
export function joinsOf(graph: Graph): Set<string> {
  const { inputs, constants, nodes } = decompose(graph, (operator) => KEPT.has(operator) || isPrimitive(operator));
  const made = new Map<number, string>();
  for (const { value } of inputs) made.set(value.id, `input of rank ${value.shape.length}`);
  for (const { value } of constants) made.set(value.id, "constant");
  const joins = new Set<string>();
  for (const { operator, inputs: operands, outputs, attributes } of nodes) {
    const how = JSON.stringify(attributes, (_, each: unknown) => (typeof each === "number" ? 0 : each));
    const name = `${operator}${how.replaceAll(/0(?:,0)+/g, "0")}`;
    const isOfMany = KEPT.has(operator); // as many inputs as there are experts
    operands.forEach(({ id }, index) => joins.add(`${made.get(id)} → ${name} ${isOfMany ? "" : index}`));
    outputs.forEach(({ id }, index) => made.set(id, `${name} ${index}`));
  }
  return joins;
}

export interface OwnForms {
  readonly fixture: Fixture;
  /** Places, among the graphs of this fixture, of those with a join that none before has. */
  readonly own: readonly number[];
}

/** Fixtures with graphs that join what none before them joins. */
export async function fixturesByJoins(graphsOf: (model: Model) => readonly Graph[]): Promise<OwnForms[]> {
  const seen = new Set<string>();
  const found: OwnForms[] = [];
  for (const fixture of fixtures()) {
    if (fixture.skip !== false) continue;
    await using model = await openModel(fixture.directory);
    const own = graphsOf(model).flatMap((graph, index) => {
      const joins = [...joinsOf(graph)];
      const isNew = joins.some((join) => !seen.has(join));
      for (const join of joins) seen.add(join);
      return isNew ? [index] : [];
    });
    if (own.length > 0) found.push({ fixture, own });
  }
  return found;
}

/** Each kind of a model's blocks once. */
export function blockKinds({ architecture }: Model): BlockSpec[] {
  return [...new Map(architecture.blocks.map((block) => [block.shapeKey, block])).values()];
}

/** Fixtures with kinds of blocks that join what none before them joins. */
export function fixturesByBlockJoins(): Promise<OwnForms[]> {
  const graphOf = (model: Model, block: BlockSpec): Graph =>
    buildBlockGraph(model.architecture, block, { hidden: true, taps: undefined });
  return fixturesByJoins((model) => blockKinds(model).map((block) => graphOf(model, block)));
}
