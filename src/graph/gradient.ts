/**
 * Reverse mode on graphs as data: the gradient of a graph is a graph, so every executor runs it. It computes the forward
 * again from the same inputs and goes back through it, node by node; what an operator does to a gradient is in
 * pullbacks.ts, and a composite that has nothing there goes back through what it is made of.
 */
import { InternalError } from "../errors.js";
import { decompose } from "./decompose.js";
import { GraphBuilder, isFresh, type Graph, type NamedValue, type Node, type Value } from "./graph.js";
import type { AnyOperator } from "./operator.js";
import { isComposite, OPERATORS, type OperatorName } from "./operators.js";
import type { NormAttributes } from "./composites.js";
import { LEAN_FORMS, RUN_AGAIN } from "./composite-pullbacks.js";
import type { AnyPullback, Contribution, Pullbacks } from "./pullback.js";
import { PULLBACKS } from "./pullbacks.js";

export interface GradientRequest {
  /** Names of f32 inputs; each becomes an output "gradient.<name>" of the input's shape. */
  readonly of: readonly string[];
  /** Names of f32 outputs the gradient flows through; each becomes an input "gradient.<name>" of the output's shape. */
  readonly through: readonly string[];
  /** Names of outputs that stay outputs beside the gradients. */
  readonly keep?: readonly string[];
}

/** The output, or input, that is the gradient with respect to an input, or output, of the forward. */
export function gradientName(name: string): string {
  return `gradient.${name}`;
}

/**
 * The graph that computes Σ over `through` of ⟨gradient.<output>, output⟩ differentiated by each of `of`. Integers and
 * conditions carry no gradient, and what nothing in `through` depends on has one of zeros.
 * @param pullbacks what operators do to a gradient
 * @throws InternalError E_GRADIENT naming an operator through which no gradient flows, or a name that the graph has not
 */
export function gradientOf(
  whole: Graph,
  { of, through, keep = [] }: GradientRequest,
  pullbacks: Pullbacks = PULLBACKS,
): Graph {
  const graph = inLeanForms(withoutInnerSizes(whole));
  const wanted = of.map((name) => differentiable(graph, "inputs", name));
  const builder = new GraphBuilder(`${graph.name} gradient`);
  const inputs = graph.inputs.map(({ name, value }) => builder.input(name, value.shape, value.dtype));
  const { result: values, nodes } = builder.record(() => builder.inline(graph, inputs));
  const here = ({ value }: NamedValue): Value => values.get(value.id) as Value;

  const gradients = new Gradients(builder, pullbacks, wanted.map(here));
  for (const name of through) {
    const output = differentiable(graph, "outputs", name);
    gradients.add(here(output), () => builder.input(gradientName(name), output.value.shape));
  }
  gradients.goBack(nodes);

  for (const name of keep) builder.output(name, here(named(graph, "outputs", name)));
  for (const input of wanted) {
    const { shape } = input.value;
    const gradient = gradients.of(here(input)) ?? builder.apply("fill", [], { shape, value: 0 });
    builder.output(gradientName(input.name), gradient);
  }
  return { ...builder.build(), isOrdered: true };
}

/**
 * The graph with composites decomposed that have outputs whose size only they know: what they are made of would call it
 * something else, and a gradient has one shape.
 */
function withoutInnerSizes(graph: Graph): Graph {
  const sized = graph.nodes.filter(({ outputs }) => outputs.some(({ shape }) => shape.some(isFresh)));
  const operators = new Set(sized.map(({ operator }) => operator).filter(isComposite));
  return operators.size === 0 ? graph : decompose(graph, (operator) => !operators.has(operator));
}

/** Composites in the forms that a forward has which is gone back through. */
function inLeanForms(graph: Graph): Graph {
  const formOf = (operator: OperatorName): OperatorName =>
    (LEAN_FORMS as { readonly [Name in OperatorName]?: OperatorName })[operator] ?? operator;
  const nodes = graph.nodes.map((node) => ({ ...node, operator: formOf(node.operator) }) as Node);
  return { ...graph, nodes };
}

function refuse({ name }: Graph, problem: string): InternalError {
  return new InternalError("E_GRADIENT", `graph ${name}: ${problem}`);
}

function named(graph: Graph, kind: "inputs" | "outputs", name: string): NamedValue {
  const found = graph[kind].find((each) => each.name === name);
  if (found !== undefined) return found;
  throw refuse(graph, `nothing is named "${name}" among its ${kind}`);
}

function differentiable(graph: Graph, kind: "inputs" | "outputs", name: string): NamedValue {
  const found = named(graph, kind, name);
  if (found.value.dtype === "f32") return found;
  throw refuse(graph, `"${name}" holds ${found.value.dtype}, which has no gradient`);
}

/** Sums of what comes back to each value from all that read it. */
class Gradients {
  readonly #builder: GraphBuilder;
  readonly #pullbacks: Pullbacks;
  /** Ids of the values that depend on an input whose gradient is asked for. */
  readonly #reached: Set<number>;
  readonly #sums = new Map<number, Value>();
  /** Nodes whose results are made again where they are read on the way back, by the results. */
  readonly #repeatable = new Map<number, Node>();
  readonly #again = new Map<number, Value>();

  constructor(builder: GraphBuilder, pullbacks: Pullbacks, wanted: readonly Value[]) {
    this.#builder = builder;
    this.#pullbacks = pullbacks;
    this.#reached = new Set(wanted.map(({ id }) => id));
  }

  of({ id }: Value): Value | undefined {
    return this.#sums.get(id);
  }

  add({ id }: Value, contribution: Contribution): void {
    const sum = this.#sums.get(id);
    if (typeof contribution !== "function") this.#sums.set(id, contribution.onto(sum));
    else {
      const own = contribution();
      this.#sums.set(id, sum === undefined ? own : this.#builder.apply("add", [sum, own]));
    }
  }

  /** @param nodes of the builder's graph, in its order; all that reads what they make has been gone back through */
  goBack(nodes: readonly Node[]): void {
    for (const node of nodes) {
      const { operator, inputs, outputs } = node;
      if (inputs.some((value) => this.#isReached(value))) outputs.forEach(({ id }) => this.#reached.add(id));
      if (RUN_AGAIN.has(operator)) outputs.forEach(({ id }) => this.#repeatable.set(id, node));
    }
    for (const node of nodes.toReversed()) this.#goBackThrough(node);
  }

  #isReached({ id, dtype }: Value): boolean {
    return this.#reached.has(id) && (dtype === "f32" || dtype === "f64");
  }

  #goBackThrough(node: Node): void {
    const { operator, outputs, attributes } = node;
    const gradients = outputs.map((value) => this.of(value));
    const isWanted = node.inputs.map((value) => this.#isReached(value));
    if (gradients.every((gradient) => gradient === undefined) || !isWanted.includes(true)) return;
    const pullback = this.#pullbacks[operator] as AnyPullback | undefined;
    const graph = this.#builder;
    const inputs = node.inputs.map((value) => this.#repeated(value));
    const contributions = pullback?.({ graph, inputs, outputs, attributes, gradients, isWanted });
    if (contributions === undefined) return this.#goBackInside(node, gradients);
    node.inputs.forEach((value, index) => {
      const contribution = contributions[index];
      if (isWanted[index] === true && contribution !== undefined) this.add(value, contribution);
    });
  }

  /** The value, or the same made again so that the first need not be kept. */
  #repeated(value: Value): Value {
    const node = this.#repeatable.get(value.id);
    const known = this.#again.get(value.id);
    if (node === undefined || known !== undefined) return known ?? value;
    const { operator, inputs, attributes } = node;
    const again = this.#builder.apply(operator as "rmsNorm", inputs, attributes as NormAttributes);
    this.#again.set(value.id, again);
    return again;
  }

  /** Compute a composite once more in simpler operators, and go back through those. */
  #goBackInside({ operator, inputs, attributes }: Node, gradients: readonly (Value | undefined)[]): void {
    const { decompose: write } = OPERATORS[operator] as AnyOperator;
    if (write === undefined)
      throw new InternalError("E_GRADIENT", `no gradient flows through the operator "${operator}"`);
    const { result, nodes } = this.#builder.record(() => write(this.#builder, inputs, attributes));
    result.forEach((value, index) => {
      const gradient = gradients[index];
      if (gradient !== undefined) this.add(value, () => gradient);
    });
    this.goBack(nodes);
  }
}
