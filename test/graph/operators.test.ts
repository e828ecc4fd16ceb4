/**
 * Every operator of the table on awkward shapes, in four ways that must agree: the interpreter's formula, the
 * interpreter on its decomposition, and ONNX Runtime on both. The interpreter compares every shape with the inferred one.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { InternalError } from "../../src/errors.js";
import { decompose } from "../../src/graph/decompose.js";
import { GraphBuilder } from "../../src/graph/graph.js";
import { OPERATOR_NAMES } from "../../src/graph/operators.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { assertAlike, isPrimitive, runOn } from "../helpers/graphs.js";
import { ATTENTION, OPERATOR_CASES } from "../helpers/operator-cases.js";
import { interpret } from "../reference/graph-interpreter.js";

/** Sums of at most 40 terms in float32, exponentials of numbers below 10: 40 · 10 · 2⁻²⁴ ≈ 2.4e-5, and room. */
const TOLERANCE = 5e-5;

/** A decomposition's constants are float32: each is off by up to 2⁻²⁴ = 6e-8. */
const CONSTANTS = 5e-7;

for (const { title, graph, feeds } of OPERATOR_CASES) {
  test(`${title}: interpreter, decomposition and ONNX Runtime agree`, async () => {
    const expected = interpret(graph, feeds);
    const primitive = decompose(graph, isPrimitive);
    assert.ok(primitive.nodes.every(({ operator }) => isPrimitive(operator)));
    assertAlike(interpret(primitive, feeds), expected, CONSTANTS, "decomposition");
    await using executor = new OnnxExecutor({ threads: 1 });
    assertAlike(await runOn(executor, graph, feeds), expected, TOLERANCE, "ONNX Runtime");
    assertAlike(await runOn(executor, primitive, feeds), expected, TOLERANCE, "ONNX Runtime on the decomposition");
  });
}

test("every operator is in some case", () => {
  const covered = new Set(OPERATOR_CASES.flatMap(({ operators }) => operators));
  assert.deepEqual(
    OPERATOR_NAMES.filter((name) => !covered.has(name)),
    [],
  );
});

test("what does not fit is refused when it is written", () => {
  const graph = new GraphBuilder("wrong");
  const [a, b] = [graph.input("a", ["n", 3]), graph.input("b", ["m", 3])];
  const refused = (write: () => unknown): void =>
    assert.throws(write, (error) => error instanceof InternalError && error.code === "E_SHAPE");
  refused(() => graph.apply("add", [a, b])); // n and m need not be equal
  refused(() => graph.apply("gemm", [a, b]));
  refused(() => graph.apply("reshape", [a], { shape: ["m", 3] }));
  refused(() => graph.apply("split", [a], { axis: 1, sizes: [1, 1] }));
  refused(() => graph.apply("gather", [a, b]));
  refused(() => graph.apply("attention", [a, a, a], { ...ATTENTION, heads: 1, keyValueHeads: 1 }));
  assert.ok(graph.apply("gemm", [a, b], { transposeB: true }));
});
