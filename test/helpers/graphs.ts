/** Running one graph in several ways, for tests that compare them. */
import assert from "node:assert/strict";
import { borrowed, type HostArray } from "../../src/array.js";
import type { Executor } from "../../src/graph/executor.js";
import type { Graph } from "../../src/graph/graph.js";
import { isComposite } from "../../src/graph/operators.js";
import type { OperatorName } from "../../src/graph/operators.js";
import type { Tensor } from "../reference/graph-interpreter.js";
import { relativeError } from "./tensors.js";

export const isPrimitive = (operator: OperatorName): boolean => !isComposite(operator);

/** Feeds that every executor sees alike: rounded to what its arrays can hold. */
export function rounded(feeds: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  return new Map(
    [...feeds].map(([name, { shape, values }]) => [name, { shape, values: values.map((value) => Math.fround(value)) }]),
  );
}

/** Compile and run a graph once. */
export async function runOn(
  executor: Executor,
  graph: Graph,
  feeds: ReadonlyMap<string, Tensor>,
): Promise<Map<string, Tensor>> {
  await using program = await executor.compile(graph);
  const arrays = graph.inputs.map(({ name, value }) => {
    const { shape, values } = feeds.get(name) as Tensor;
    const data = value.dtype === "i64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
    return [name, borrowed(name, data, shape)] as const;
  });
  const results = await program.run(new Map(arrays));
  return new Map(
    [...results].map(([name, array]) => {
      const { shape, values } = array as HostArray;
      return [name, { shape, values: Float64Array.from(values, Number) }];
    }),
  );
}

/** All outputs have the expected shapes, and values within a tolerance of the expected ones' root mean square. */
export function assertAlike(
  found: ReadonlyMap<string, Tensor>,
  expected: ReadonlyMap<string, Tensor>,
  tolerance: number,
  label: string,
): void {
  assert.deepEqual([...found.keys()], [...expected.keys()], label);
  for (const [name, { shape, values }] of expected) {
    const output = found.get(name) as Tensor;
    assert.deepEqual([...output.shape], [...shape], `${label}: shape of ${name}`);
    if (values.length === 0) continue;
    const error = values.every((value) => value === 0)
      ? Math.max(...output.values.map(Math.abs))
      : relativeError(output.values, values);
    assert.ok(error <= tolerance, `${label}: ${name} is off by ${error}`);
  }
}
