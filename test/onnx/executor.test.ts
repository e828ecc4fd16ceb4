/** Programs on ONNX Runtime: whose memory an output is, and for how long; what is refused before anything runs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { borrowed, type HostArray, type NdArray } from "../../src/array.js";
import { InternalError } from "../../src/errors.js";
import type { Arrays } from "../../src/graph/executor.js";
import { GraphBuilder, type Graph, type Value } from "../../src/graph/graph.js";
import { encodeGraph } from "../../src/onnx/encoder.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";

/** y = 2x, and the places of x's entries that are 1: how many only a run knows. */
function doubling(): Graph {
  const graph = new GraphBuilder("doubling");
  const x = graph.input("x", ["rows", 3]);
  graph.output("y", graph.apply("add", [x, x]));
  graph.output("ones", graph.apply("nonZero", [graph.apply("equal", [x, graph.scalar(1)])]));
  return graph.build();
}

function fed(rows: number, value: number): ReadonlyMap<string, NdArray> {
  return new Map([["x", borrowed("x", new Float32Array(rows * 3).fill(value), [rows, 3])]]);
}

function outputOf(results: Arrays, name = "y"): HostArray {
  return results.get(name) as HostArray;
}

function isError(code: string): (error: unknown) => boolean {
  return (error) => error instanceof InternalError && error.code === code;
}

test("an output keeps its numbers until it is disposed of, and then its memory is used again", async () => {
  await using executor = new OnnxExecutor({ threads: 1 });
  const program = await executor.compile(doubling());
  const first = outputOf(await program.run(fed(4, 1)));
  const memory = first.values.buffer;
  const second = outputOf(await program.run(fed(4, 5)));
  assert.ok(first.values.every((value) => value === 2));
  assert.notEqual(second.values.buffer, memory);
  first[Symbol.dispose]();
  assert.throws(() => first.values, isError("E_DISPOSED"));
  const other = outputOf(await program.run(fed(2, 9)));
  assert.notEqual(other.values.buffer, memory, "another size");
  const third = outputOf(await program.run(fed(4, 7)));
  assert.equal(third.values.buffer, memory);
  first[Symbol.dispose](); // once is enough
  const fourth = outputOf(await program.run(fed(4, 8)));
  assert.notEqual(fourth.values.buffer, memory);
  for (const [array, value] of [
    [second, 10],
    [other, 18],
    [third, 14],
    [fourth, 16],
  ] as const)
    assert.ok(array.values.every((found) => found === value));
  assert.deepEqual(third.shape, [4, 3]);
});

test("whatever is run, kept and disposed of in whatever order, live outputs keep their numbers", async () => {
  const actions = fc.array(
    fc.record({ rows: fc.integer({ min: 0, max: 3 }), value: fc.integer({ min: 2, max: 99 }), drop: fc.nat(5) }),
    { maxLength: 25 },
  );
  await using executor = new OnnxExecutor({ threads: 1 });
  const [one, other] = [await executor.compile(doubling()), await executor.compile(doubling())];
  await fc.assert(
    fc.asyncProperty(actions, async (list) => {
      const live: { array: HostArray; value: number }[] = [];
      for (const { rows, value, drop } of list) {
        const program = drop % 2 === 0 ? one : other;
        live.push({ array: outputOf(await program.run(fed(rows, value))), value: 2 * value });
        if (drop < live.length) live.splice(drop, 1).forEach(({ array }) => array[Symbol.dispose]());
        for (const { array, value: expected } of live) assert.ok(array.values.every((found) => found === expected));
      }
      live.forEach(({ array }) => array[Symbol.dispose]());
    }),
    { numRuns: 40 },
  );
});

test("outputs whose size only a run knows are there too", async () => {
  await using executor = new OnnxExecutor({ threads: 1 });
  const program = await executor.compile(doubling());
  const ones = outputOf(await program.run(fed(2, 1)), "ones");
  assert.deepEqual([ones.dtype, ones.shape], ["i64", [2, 6]]);
  assert.deepEqual([...ones.values].map(Number), [0, 0, 0, 1, 1, 1, 0, 1, 2, 0, 1, 2]);
  assert.deepEqual(outputOf(await program.run(fed(2, 3)), "ones").shape, [2, 0]);
});

test("an output is written where the caller says", async () => {
  await using executor = new OnnxExecutor({ threads: 1 });
  const program = await executor.compile(doubling());
  const mine = borrowed("mine", new Float32Array(6), [2, 3]);
  const results = await program.run(fed(2, 4), new Map([["y", mine]]));
  assert.equal(results.get("y"), mine);
  assert.ok(mine.values.every((value) => value === 8));
  const wrong = borrowed("wrong", new Float32Array(6), [3, 2]);
  await assert.rejects(program.run(fed(2, 4), new Map([["y", wrong]])), isError("E_SHAPE"));
});

test("one value may be several outputs, and an input may be one", async () => {
  const graph = new GraphBuilder("twice");
  const x = graph.input("x", ["rows", 3]);
  const y = graph.apply("add", [x, x]);
  graph.output("x", x);
  graph.output("y", y);
  graph.output("z", y);
  await using executor = new OnnxExecutor({ threads: 1 });
  const program = await executor.compile(graph.build());
  const results = await program.run(fed(2, 4));
  for (const [name, value] of [
    ["x", 4],
    ["y", 8],
    ["z", 8],
  ] as const)
    assert.ok(
      outputOf(results, name).values.every((found) => found === value),
      name,
    );
  assert.equal(new Set([...results.values()].map((array) => (array as HostArray).values.buffer)).size, 3);
});

test("feeds that are missing, elsewhere, of another type or shape are refused by name", async () => {
  await using executor = new OnnxExecutor({ threads: 1 });
  const program = await executor.compile(doubling());
  const elsewhere: NdArray = {
    label: "x",
    shape: [1, 3],
    dtype: "f32",
    home: "webgpu",
    [Symbol.dispose]: () => undefined,
  };
  const refuses = async (array: NdArray | undefined, code: string): Promise<void> =>
    assert.rejects(program.run(new Map(array === undefined ? [] : [["x", array]])), (error) => {
      assert.ok(error instanceof InternalError);
      assert.equal(error.code, code);
      assert.match(error.message, /x/);
      return true;
    });
  await refuses(undefined, "E_FEED");
  await refuses(elsewhere, "E_FEED");
  await refuses(borrowed("x", new BigInt64Array(3), [1, 3]), "E_FEED");
  await refuses(borrowed("x", new Float32Array(4), [1, 4]), "E_SHAPE");
});

test("memory goes with the executor, and sooner where it is told so", async () => {
  const executor = new OnnxExecutor({ threads: 1 });
  const program = await executor.compile(doubling());
  const [first, second] = [outputOf(await program.run(fed(4, 1))), outputOf(await program.run(fed(4, 1)))];
  const memory = [first.values.buffer, second.values.buffer];
  first[Symbol.dispose]();
  executor.trim();
  second[Symbol.dispose]();
  for (const value of [2, 3]) {
    const array = outputOf(await program.run(fed(4, value)));
    assert.ok(!memory.includes(array.values.buffer));
  }
  await executor[Symbol.asyncDispose]();
  await assert.rejects(program.run(fed(4, 1)), isError("E_DISPOSED"));
});

test("updates of one row are all added, however many threads there are", async () => {
  const graph = new GraphBuilder("counting");
  const updates = graph.input("updates", ["n", 64]);
  const rows = graph.input("rows", ["n"], "i64");
  graph.output("y", graph.apply("scatterAdd", [graph.input("sum", [3, 64]), rows, updates]));
  const built = graph.build();
  // Which operator it is decides; threads do not always meet.
  const model = Buffer.from(encodeGraph(built).model).toString("latin1");
  assert.ok(model.includes("ScatterElements") && !model.includes("ScatterND"));
  await using executor = new OnnxExecutor({ threads: 2 });
  const program = await executor.compile(built);
  const count = 18000;
  const feeds = new Map([
    ["sum", borrowed("sum", new Float32Array(3 * 64), [3, 64])],
    [
      "rows",
      borrowed(
        "rows",
        new BigInt64Array(count).map((_, index) => BigInt(index % 3)),
        [count],
      ),
    ],
    ["updates", borrowed("updates", new Float32Array(count * 64).fill(1), [count, 64])],
  ]);
  for (let round = 0; round < 5; round++) {
    const results = await program.run(feeds);
    assert.ok(outputOf(results).values.every((value) => value === count / 3));
    outputOf(results)[Symbol.dispose]();
  }
});

test("composites that ONNX lacks are decomposed, those that it has are not", () => {
  const executor = new OnnxExecutor();
  for (const operator of ["attention", "rotary", "rmsNorm", "logSumExp"] as const)
    assert.ok(executor.supports(operator));
  for (const operator of ["experts", "router", "gram", "gatedActivation"] as const)
    assert.ok(!executor.supports(operator));
  const graph = new GraphBuilder("unused");
  const [x] = [graph.input("x", [2, 2]) as Value];
  graph.output("y", graph.apply("gatedActivation", [x, x], { activation: "silu" }));
  return executor.compile(graph.build()).then(() => executor[Symbol.asyncDispose]());
});
