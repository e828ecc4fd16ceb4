/** Sizes of values, what is left of a graph, and rewriting it: on graphs that chance writes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { InternalError } from "../../src/errors.js";
import { decompose } from "../../src/graph/decompose.js";
import {
  bindShape,
  evaluate,
  product,
  quotient,
  substitute,
  type Bindings,
  type Dim,
} from "../../src/graph/dimensions.js";
import { GraphBuilder, type Value } from "../../src/graph/graph.js";
import { assertAlike, isPrimitive } from "../helpers/graphs.js";
import { RANDOM_FEEDS, randomGraph, steps } from "../helpers/random-graphs.js";
import { interpret, tensor } from "../reference/graph-interpreter.js";

const dims = fc
  .tuple(fc.integer({ min: 1, max: 12 }), fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 3 }))
  .map(([factor, symbols]): Dim => product(factor, ...symbols));
const VALUES = new Map([
  ["a", 3],
  ["b", 5],
  ["c", 7],
]);

test("products and quotients of sizes are those of their values, in one form", () => {
  fc.assert(
    fc.property(dims, dims, dims, (a, b, c) => {
      const value = (dim: Dim): number => evaluate(dim, VALUES) as number;
      assert.equal(value(product(a, b)), value(a) * value(b));
      assert.equal(product(a, product(b, c)), product(c, b, a));
      assert.equal(quotient(product(a, b), b), a);
      const divided = quotient(a, b);
      if (divided !== undefined) assert.equal(product(divided, b), a);
      assert.equal(value(substitute(a, new Map([["a", "c"]]))), evaluate(a, new Map([...VALUES, ["a", 7]])));
    }),
  );
  assert.equal(product(0, "a"), 0);
  assert.equal(quotient("a*b", "c"), undefined);
  assert.equal(quotient("2*a", 4), undefined);
});

test("a run's sizes say what symbols are, and must agree", () => {
  const bindings: Bindings = new Map();
  bindShape("x", ["batch", "tokens", 8], [2, 5, 8], bindings);
  assert.equal(evaluate("4*batch*tokens", bindings), 40);
  const refused = (shape: readonly Dim[], sizes: readonly number[]): void =>
    assert.throws(
      () => bindShape("y", shape, sizes, bindings),
      (error) => error instanceof InternalError && error.code === "E_SHAPE",
    );
  refused(["batch*tokens", 8], [11, 8]);
  refused(["tokens"], [2]);
  refused(["other", 8], [3, 9]);
  refused(["other"], [3, 1]);
  const whole: Bindings = new Map();
  bindShape("z", ["3*batch*tokens"], [30], whole);
  assert.equal(evaluate("batch*tokens", whole), 10);
  assert.equal(evaluate("tokens", whole), undefined);
});

test("inferred shapes are those of a run, whatever the graph (the interpreter compares each)", () => {
  fc.assert(
    fc.property(steps, fc.array(fc.nat(40), { minLength: 1, maxLength: 4 }), (written, kept) => {
      const graph = randomGraph(written, kept);
      const outputs = interpret(graph, RANDOM_FEEDS);
      assert.equal(outputs.size, graph.outputs.length);
    }),
    { numRuns: 300 },
  );
});

test("what is left of a graph is what its outputs depend on, and gives the same", () => {
  fc.assert(
    fc.property(steps, fc.array(fc.nat(40), { minLength: 1, maxLength: 3 }), (written, kept) => {
      const everything = randomGraph(
        written,
        Array.from({ length: 60 }, (_, place) => place),
      );
      const graph = randomGraph(written, kept);
      const expected = interpret(everything, RANDOM_FEEDS);
      const found = interpret(graph, RANDOM_FEEDS);
      for (const [name, { values }] of found) assert.deepEqual(values, expected.get(name)?.values, name);
      const read = new Set([
        ...graph.nodes.flatMap(({ inputs }) => inputs),
        ...graph.outputs.map(({ value }) => value),
      ]);
      const ids = new Set([...read].map(({ id }) => id));
      for (const { outputs, operator } of graph.nodes)
        assert.ok(
          outputs.some(({ id }) => ids.has(id)),
          `${operator} is not read`,
        );
      for (const { value } of graph.constants) assert.ok(ids.has(value.id));
    }),
    { numRuns: 200 },
  );
});

test("decomposing changes no shape and no more than the roundings of its constants", () => {
  fc.assert(
    fc.property(steps, fc.array(fc.nat(40), { minLength: 1, maxLength: 3 }), (written, kept) => {
      const graph = randomGraph(written, kept);
      const primitive = decompose(graph, isPrimitive);
      assert.deepEqual(
        primitive.outputs.map(({ name, value }) => [name, value.shape]),
        graph.outputs.map(({ name, value }) => [name, value.shape]),
      );
      assertAlike(interpret(primitive, RANDOM_FEEDS), interpret(graph, RANDOM_FEEDS), 1e-4, "decomposed");
    }),
    { numRuns: 100 },
  );
});

test("an input that nobody reads stays where it alone says what a symbol is", () => {
  const builder = new GraphBuilder("symbols");
  const x = builder.input("x", ["batch*tokens", 4]);
  builder.input("positions", ["batch", "tokens"], "i64");
  builder.input("unread", ["table", 4]);
  builder.output(
    "y",
    builder.apply("attention", [x, x, x], { heads: 1, keyValueHeads: 1, tokens: "tokens", scale: 1, isCausal: true }),
  );
  assert.deepEqual(
    builder.build().inputs.map(({ name }) => name),
    ["x", "positions"],
  );
});

test("an operator that can neither be run nor decomposed is named before any work", () => {
  const builder = new GraphBuilder("tangent");
  builder.output("y", builder.apply("tanh", [builder.input("x", [2])]));
  assert.throws(
    () => decompose(builder.build(), (operator) => operator !== "tanh"),
    (error) => error instanceof InternalError && error.code === "E_OPERATOR" && error.message.includes('"tanh"'),
  );
});

test("sizes that only a run knows keep their meaning when a graph is written again", () => {
  const builder = new GraphBuilder("routed");
  const x = builder.input("x", ["n", 2], "i64");
  const rowsOf = (wanted: number): Value =>
    builder.apply("nonZero", [builder.apply("equal", [x, builder.integers([wanted], [])])]);
  const [, second] = [rowsOf(1), rowsOf(2)];
  const size = (second as Value).shape[1] as Dim;
  builder.output("y", builder.apply("reshape", [second as Value], { shape: [product(2, size)] }));
  const again = decompose(builder.build(), () => true);
  const feeds = new Map([["x", tensor([4, 2], (i) => i % 3)]]);
  assert.deepEqual(interpret(again, feeds), interpret(builder.build(), feeds));
});
