/**
 * Gradients of blocks of stored architectures, of all in which something new meets, end to end: with respect to what enters a block and to its
 * tensors, against differences of the float64 interpreter, and ONNX Runtime against the interpreter on the same graph.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { gradientName, gradientOf } from "../../src/graph/gradient.js";
import { lookUp } from "../../src/look-up.js";
import type { BlockSpec } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { blockFeeds } from "../helpers/block-feeds.js";
import { cotangentsOf, derivativeAlong, norm, scattered } from "../helpers/gradients.js";
import { blockKinds, fixturesByBlockJoins } from "../helpers/graph-joins.js";
import { assertAlike, runOn } from "../helpers/graphs.js";
import { interpret } from "../reference/graph-interpreter.js";

/** Constants of decompositions, epsilons among them, are float32: a relative 6e-8 each. */
const TOLERANCE = 1e-5;

/** Of a gradient's root mean square. */
const ONNX_TOLERANCE = 1e-4;

/** So small that no input of a relu changes its sign on the way. */
const STEP = 1e-7;

/** A gradient this much smaller than the largest is zero but for roundings, as that of a bias of all keys is. */
const VANISHED = 1e-10;

for (const { fixture, own } of await fixturesByBlockJoins()) {
  test(`${fixture.folder}: gradients of its blocks are what differences say, and ONNX Runtime's`, async () => {
    await using model = await openModel(fixture.directory);
    const kinds = blockKinds(model);
    for (const kind of own) await checkBlock(model, kinds[kind] as BlockSpec);
  });
}

async function checkBlock(model: Model, block: BlockSpec): Promise<void> {
  const graph = buildBlockGraph(model.architecture, block, { hidden: true, taps: undefined });
  const feeds = await blockFeeds(model, block);
  const cotangents = cotangentsOf(interpret(graph, feeds));
  const of = ["hidden", ...block.tensors.keys()];
  const gradient = gradientOf(graph, { of, through: ["output"] });
  const all = new Map([...feeds, [gradientName("output"), lookUp(cotangents, "output")]]);
  const gradients = interpret(gradient, all);
  of.forEach((name, salt) => {
    const { values } = lookUp(gradients, gradientName(name));
    const direction = new Float64Array(values.length).map((_, index) => scattered(index, salt));
    const { value, noise } = derivativeAlong(graph, feeds, cotangents, { name, direction, step: STEP });
    const found = values.reduce((sum, each, index) => sum + each * (direction[index] as number), 0);
    const size = rootMeanSquare(values) * norm(direction);
    const off = Math.abs(found - value);
    assert.ok(off <= TOLERANCE * size + noise, `${block.name}.${name}: ${found}, differences say ${value}`);
  });

  await using executor = new OnnxExecutor({ threads: 2 });
  const found = await runOn(executor, gradient, all);
  const largest = Math.max(...[...gradients.values()].map(({ values }) => rootMeanSquare(values)));
  for (const [name, expected] of gradients) {
    const isThere = rootMeanSquare(expected.values) > VANISHED * largest;
    if (isThere)
      assertAlike(new Map([[name, lookUp(found, name)]]), new Map([[name, expected]]), ONNX_TOLERANCE, block.name);
    else assert.ok(rootMeanSquare(lookUp(found, name).values) < ONNX_TOLERANCE * largest, `${block.name}: ${name}`);
  }
}

function rootMeanSquare(values: Float64Array): number {
  return norm(values) / Math.sqrt(values.length);
}
