/**
 * Gradients of graphs against central differences of the float64 interpreter: every operator, graphs that chance writes,
 * and what a request may ask for.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { InternalError } from "../../src/errors.js";
import { decompose } from "../../src/graph/decompose.js";
import { gradientName, gradientOf } from "../../src/graph/gradient.js";
import { GraphBuilder, type Graph, type Value } from "../../src/graph/graph.js";
import { isComposite, OPERATOR_NAMES } from "../../src/graph/operators.js";
import { PULLBACKS } from "../../src/graph/pullbacks.js";
import { lookUp } from "../../src/look-up.js";
import { canEncode, encodeGraph } from "../../src/onnx/encoder.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { checkGradient, cotangentsOf, floatsOf } from "../helpers/gradients.js";
import { assertAlike, rounded, runOn } from "../helpers/graphs.js";
import { custom, OPERATOR_CASES, wave, type Case } from "../helpers/operator-cases.js";
import { RANDOM_FEEDS, randomGraph, steps } from "../helpers/random-graphs.js";
import { interpret, tensor, type Tensor } from "../reference/graph-interpreter.js";

/** A composite's pullback has constants in float32, off by up to 2⁻²⁴ = 6e-8, and takes differences of them. */
const TOLERANCE = 1e-6;

/** As operators.test.ts, of sums over twice as many terms. */
const ONNX_TOLERANCE = 1e-4;

/** Operators in combinations that only a gradient cares for. */
const MORE_CASES: readonly Case[] = [
  custom("double precision and back", [{ shape: ["n", 3], sizes: [4, 3] }, { shape: [3] }], (graph, [x, y]) => {
    const [a, b] = [x, y].map((value) => graph.apply("cast", [value as Value], { to: "f64" })) as [Value, Value];
    const product = graph.apply("multiply", [graph.apply("subtract", [a, b]), b]);
    return [
      graph.apply(
        "cast",
        [
          graph.apply("divide", [
            product,
            graph.apply("add", [a, graph.apply("cast", [graph.scalar(9)], { to: "f64" })]),
          ]),
        ],
        { to: "f32" },
      ),
    ];
  }),
  custom("a value read by many", [{ shape: [3, 3] }], (graph, [x]) => {
    const value = x as Value;
    const square = graph.apply("multiply", [value, value]);
    return [
      graph.apply("gemm", [square, value, graph.apply("add", [square, value])], { transposeB: true, alpha: 0.5 }),
    ];
  }),
  custom("rows gathered more than once", [{ shape: [3, 2] }], (graph, [x]) => [
    graph.apply("gather", [x as Value, graph.integers([2, 0, 2, 2, 1, 0], [2, 3])]),
  ]),
  custom("entries gathered more than once", [{ shape: ["n", 3], sizes: [2, 3] }], (graph, [x]) => [
    graph.apply("gatherPoints", [x as Value, graph.integers([0, 1, 1, 2, 0, 1, 1, 0], [4, 2])]),
  ]),
  custom("points of sizes that only a run knows", [{ shape: [2, "n", "m"], sizes: [2, 3, 4] }], (graph, [x]) => [
    graph.apply("gatherPoints", [x as Value, graph.integers([0, 1, 3, 1, 2, 0, 1, 2, 0], [3, 3])]),
  ]),
  custom("one part of a split", [{ shape: [4, 6] }], (graph, [x]) => [
    graph.applyAll("split", [x as Value], { axis: 1, sizes: [1, 3, 2] })[1] as Value,
  ]),
  custom("means over sizes that only a run knows", [{ shape: ["n", 3, "m"], sizes: [2, 3, 4] }], (graph, [x]) => [
    graph.apply("reduceMean", [x as Value], { axes: [0, 1, 2] }),
    graph.apply("multiply", [x as Value, graph.apply("size", [x as Value], { axis: 2 })]),
  ]),
  custom("an addend of one entry", [{ shape: [2, 3] }, { shape: [3, 4] }, { shape: [2, 1] }], (graph, values) => [
    graph.apply("gemm", values, { alpha: 2 }),
  ]),
  custom("integers made of floats", [{ shape: [2, 4] }], (graph, [x]) => {
    const largest = graph.apply("argMax", [x as Value], { axis: 1 });
    const index = graph.apply("reshape", [largest], { shape: [2, 1] });
    return [graph.apply("gatherAlong", [x as Value, index], { axis: 1 })];
  }),
];

for (const { title, graph, feeds } of [...OPERATOR_CASES, ...MORE_CASES]) {
  if (floatsOf(graph.inputs).length === 0 || floatsOf(graph.outputs).length === 0) continue;
  if (title.endsWith("the first of equals")) continue; // there is no derivative
  test(`${title}: its gradient is what differences say, and ONNX Runtime computes the same`, async () => {
    const expected = checkGradient(graph, feeds, { tolerance: TOLERANCE });
    const through = floatsOf(graph.outputs);
    const gradient = gradientOf(graph, { of: floatsOf(graph.inputs), through });
    await using executor = new OnnxExecutor({ threads: 2 });
    const all = withCotangents(graph, feeds, through);
    assertAlike(await runOn(executor, gradient, all), expected, ONNX_TOLERANCE, "ONNX Runtime");
  });
}

function withCotangents(graph: Graph, feeds: ReadonlyMap<string, Tensor>, through: readonly string[]) {
  const outputs = interpret(graph, feeds);
  const cotangents = cotangentsOf(new Map(through.map((name) => [name, lookUp(outputs, name)])));
  return new Map([...feeds, ...[...cotangents].map(([name, each]) => [gradientName(name), each] as const)]);
}

test("gradients of graphs that chance writes are what differences say", () => {
  fc.assert(
    fc.property(steps, fc.array(fc.nat(40), { minLength: 1, maxLength: 3 }), (written, kept) => {
      const graph = randomGraph(written, kept);
      checkGradient(graph, RANDOM_FEEDS, { tolerance: 1e-5, floor: 1e-8 });
    }),
    { numRuns: 120 },
  );
});

test("every primitive has an entry, so that no gradient is lost on the way", () => {
  const missing = OPERATOR_NAMES.filter((name) => !isComposite(name) && PULLBACKS[name] === undefined);
  assert.deepEqual(missing, []);
});

/** y = tanh(x w) and z = x. */
function layer(): Graph {
  const graph = new GraphBuilder("layer");
  const x = graph.input("x", ["n", 3]);
  const product = graph.apply("gemm", [x, graph.input("w", [3, 2])]);
  graph.output("y", graph.apply("tanh", [product]));
  graph.output("z", x);
  graph.output("product", product);
  return graph.build();
}

const LAYER_FEEDS = rounded(
  new Map([
    ["x", tensor([4, 3], wave)],
    ["w", tensor([3, 2], (index) => wave(index + 20))],
    [gradientName("y"), tensor([4, 2], (index) => wave(index + 40))],
    [gradientName("z"), tensor([4, 3], (index) => wave(index + 60))],
  ]),
);

test("only what is asked for is computed", () => {
  const gradient = gradientOf(layer(), { of: ["w"], through: ["y"] });
  assert.deepEqual(
    gradient.inputs.map(({ name }) => name),
    ["x", "w", gradientName("y")],
  );
  assert.deepEqual(
    gradient.outputs.map(({ name }) => name),
    [gradientName("w")],
  );
  const products = gradient.nodes.filter(({ operator }) => operator === "gemm");
  assert.equal(products.length, 2, "forward and the weight's gradient, not the input's");
});

test("a gradient asks to be run in its order, and is: what executors make of it, and the model for ONNX Runtime, keep it", () => {
  const gradient = gradientOf(layer(), { of: ["w"], through: ["y"] });
  const written = decompose(gradient, canEncode);
  assert.deepEqual([gradient.isOrdered, written.isOrdered], [true, true]);
  const encoded = encodeGraph(written);
  assert.equal(encoded.isOrdered, true);
  assert.ok(Buffer.from(encoded.model).toString("latin1").includes("pin.0"));
  assert.deepEqual([...encoded.outputs.keys()], [gradientName("w")]);
  const forward = encodeGraph(layer());
  assert.equal(forward.isOrdered, undefined);
  assert.ok(!Buffer.from(forward.model).toString("latin1").includes("pin."));
});

test("outputs are kept, and several may carry the gradient", () => {
  const gradient = gradientOf(layer(), { of: ["x", "w"], through: ["y", "z"], keep: ["y"] });
  const found = interpret(gradient, LAYER_FEEDS);
  const one = interpret(gradientOf(layer(), { of: ["x", "w"], through: ["y"] }), LAYER_FEEDS);
  const added = lookUp(LAYER_FEEDS, gradientName("z")).values;
  assert.deepEqual([...found.keys()], ["y", gradientName("x"), gradientName("w")]);
  assert.deepEqual(lookUp(found, "y"), lookUp(interpret(layer(), LAYER_FEEDS), "y"));
  assert.deepEqual(lookUp(found, gradientName("w")), lookUp(one, gradientName("w")));
  lookUp(found, gradientName("x")).values.forEach((value, index) => {
    const expected = (lookUp(one, gradientName("x")).values[index] as number) + (added[index] as number);
    assert.ok(Math.abs(value - expected) < 1e-14);
  });
});

test("what nothing depends on has a gradient of zeros", () => {
  const gradient = gradientOf(layer(), { of: ["w"], through: ["z"] });
  const zeros = lookUp(interpret(gradient, LAYER_FEEDS), gradientName("w"));
  assert.deepEqual(
    [zeros.shape, [...zeros.values]],
    [
      [3, 2],
      [0, 0, 0, 0, 0, 0],
    ],
  );
});

test("equal largest entries share the gradient", () => {
  const builder = new GraphBuilder("largest");
  builder.output("y", builder.apply("reduceMax", [builder.input("x", [5])], { axes: [0] }));
  const gradient = gradientOf(builder.build(), { of: ["x"], through: ["y"] });
  const feeds = new Map([
    ["x", tensor([5], (index) => [1, 3, 2, 3, 3][index] as number)],
    [gradientName("y"), tensor([], () => 6)],
  ]);
  assert.deepEqual([...lookUp(interpret(gradient, feeds), gradientName("x")).values], [0, 2, 0, 2, 2]);
});

test("a request that cannot be met is refused by name", () => {
  const refuses = (write: () => unknown, name: RegExp): void =>
    assert.throws(write, (error) => {
      assert.ok(error instanceof InternalError);
      assert.equal(error.code, "E_GRADIENT");
      assert.match(error.message, name);
      return true;
    });
  const graph = layer();
  const { tanh: _, ...rest } = PULLBACKS;
  refuses(() => gradientOf(graph, { of: ["w"], through: ["y"] }, rest), /operator "tanh"/);
  assert.ok(gradientOf(graph, { of: ["w"], through: ["product"] }, rest), "the way does not go through it");
  refuses(() => gradientOf(graph, { of: ["v"], through: ["y"] }), /"v"/);
  refuses(() => gradientOf(graph, { of: ["w"], through: ["x"] }), /"x"/);
  refuses(() => gradientOf(graph, { of: ["w"], through: ["y"], keep: ["v"] }), /"v"/);
  const builder = new GraphBuilder("integers");
  builder.output("y", builder.apply("gather", [builder.input("x", [3, 2]), builder.input("places", [2], "i64")]));
  refuses(() => gradientOf(builder.build(), { of: ["places"], through: ["y"] }), /"places" holds i64/);
});
