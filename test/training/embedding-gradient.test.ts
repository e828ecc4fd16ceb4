/** Gradients of embeddings and of what stands before the first block, against differences in float64, for stored architectures, all that do something new. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { borrowed } from "../../src/array.js";
import { buildPrologueGraph, fillFromSideTables } from "../../src/forward/embedding.js";
import type { Graph } from "../../src/graph/graph.js";
import { lookUp } from "../../src/look-up.js";
import type { Architecture } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { EmbeddingGradient } from "../../src/training/embedding-gradient.js";
import { fixtures } from "../helpers/architectures.js";
import { norm, scattered } from "../helpers/gradients.js";
import { fixturesByJoins } from "../helpers/graph-joins.js";
import { interpret, tensor, type Tensor } from "../reference/graph-interpreter.js";

/** Float32 sums of at most a dozen rows. */
const TOLERANCE = 1e-5;

/** Some ids more than once, within a sequence and in both. */
const SEQUENCES = [Int32Array.of(3, 1, 3, 4, 1), Int32Array.of(5, 9, 3, 3, 0)];
const TOKENS = 5;

type Point = ReadonlyMap<string, Tensor>;

async function pointOf({ architecture, checkpoint }: Model): Promise<Point> {
  const { embedding, embeddingWidth, vocabularySize, prologue } = architecture;
  const point = new Map<string, Tensor>();
  const put = (name: string, shape: readonly number[], values: Float32Array): void =>
    void point.set(name, { shape, values: Float64Array.from(values) });
  put("table", [vocabularySize, embeddingWidth], await checkpoint.readTensor(embedding));
  for (const [role, { tensor: name, shape }] of prologue?.tensors ?? [])
    put(role, shape, await checkpoint.readTensor(name));
  return point;
}

const IDS = SEQUENCES.flatMap((sequence) => [...sequence]);

/** What the side tables have of the tokens; the front of each slot is left to the embeddings. */
async function sidesOf(model: Model): Promise<Float32Array> {
  const slots = new Float32Array(IDS.length * model.architecture.state.width);
  await fillFromSideTables(model, IDS, slots);
  return slots;
}

/** Σ ⟨cotangent, what enters the first block⟩ */
function objective(architecture: Architecture, sides: Float32Array, point: Point, cotangent: Tensor): number {
  const { embeddingWidth, prologue, state } = architecture;
  const { values: table } = lookUp(point, "table");
  const slots = tensor([IDS.length, state.width], (index) => {
    const [row, column] = [Math.floor(index / state.width), index % state.width];
    if (column >= embeddingWidth) return sides[index] as number;
    return table[(IDS[row] as number) * embeddingWidth + column] as number;
  });
  const positions = tensor([IDS.length], (row) => row % TOKENS);
  const hidden =
    prologue === undefined
      ? slots
      : lookUp(
          interpret(
            buildPrologueGraph(architecture, prologue),
            new Map([...point, ["slots", slots], ["positions", positions]]),
          ),
          "hidden",
        );
  return hidden.values.reduce((sum, value, index) => sum + value * (cotangent.values[index] as number), 0);
}

/** @param batches sequences that are given together */
async function gradientsOf(
  model: Model,
  point: Point,
  cotangent: Tensor,
  batches: readonly (readonly [first: number, end: number])[],
): Promise<Map<string, Float32Array>> {
  const { architecture } = model;
  await using executor = new OnnxExecutor({ threads: 2 });
  await using gradient = await EmbeddingGradient.compile(executor, model);
  const roles = [...(architecture.prologue?.tensors.keys() ?? [])];
  const floats = (name: string): Float32Array => Float32Array.from(lookUp(point, name).values);
  const tensors = new Map(roles.map((role) => [role, borrowed(role, floats(role), lookUp(point, role).shape)]));
  const zeros = (name: string) => [name, new Float32Array(lookUp(point, name).values.length)] as const;
  const sinks = new Map([zeros("table"), ...roles.map(zeros)]);
  const { width } = architecture.state;
  for (const [first, end] of batches) {
    const rows = (end - first) * TOKENS;
    const values = Float32Array.from(cotangent.values).subarray(first * TOKENS * width, end * TOKENS * width);
    await gradient.run(
      { table: floats("table"), tensors },
      SEQUENCES.slice(first, end),
      borrowed("gradient", values, [rows, width]),
      { table: lookUp(sinks, "table"), tensors: new Map(roles.map((role) => [role, lookUp(sinks, role)])) },
    );
  }
  return sinks;
}

function prologueOf({ architecture }: Model): Graph[] {
  const { prologue } = architecture;
  return prologue === undefined ? [] : [buildPrologueGraph(architecture, prologue)];
}

const PLAIN = fixtures().filter(({ folder }) => folder === "llama"); // embeddings that enter block 0 as they are
for (const { folder, directory } of [...PLAIN, ...(await fixturesByJoins(prologueOf)).map(({ fixture }) => fixture)]) {
  test(`${folder}: gradients of its embeddings are what differences say, in one batch or several`, async () => {
    await using model = await openModel(directory);
    const { architecture } = model;
    const point = await pointOf(model);
    const rows = SEQUENCES.length * TOKENS;
    const sides = await sidesOf(model);
    const cotangent = tensor([rows, architecture.state.width], (index) => Math.fround(scattered(index, 3)));
    const whole = await gradientsOf(model, point, cotangent, [[0, 2]]);
    const cut = await gradientsOf(model, point, cotangent, [
      [0, 1],
      [1, 2],
    ]);
    for (const [name, found] of whole) {
      const values = Float64Array.from(found);
      const others = lookUp(cut, name);
      const off = norm(values.map((value, index) => value - (others[index] as number)));
      assert.ok(off <= 1e-6 * norm(values), `${name}: ${off} between batches`);
      const direction = new Float64Array(values.length).map((_, index) => scattered(index, name.length));
      const step = 1e-4;
      const at = (shift: number): number => {
        const { shape, values: before } = lookUp(point, name);
        const moved = before.map((value, index) => value + shift * step * (direction[index] as number));
        return objective(architecture, sides, new Map([...point, [name, { shape, values: moved }]]), cotangent);
      };
      const expected = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step);
      const along = values.reduce((sum, value, index) => sum + value * (direction[index] as number), 0);
      const size = (norm(values) * norm(direction)) / Math.sqrt(values.length);
      assert.ok(Math.abs(along - expected) <= TOLERANCE * size, `${name}: ${along}, differences say ${expected}`);
    }
  });
}
