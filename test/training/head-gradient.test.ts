/**
 * The loss at the end of a model and its gradients, for the heads of stored architectures, of all that do something new (tied, biased, scaled,
 * capped, narrower than the hidden states), against differences of the same loss in float64.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { borrowed } from "../../src/array.js";
import { addTileLogits, buildNormGraph, buildTileGraph } from "../../src/forward/head.js";
import { valuesOf } from "../../src/forward/values.js";
import { GraphBuilder, type Graph } from "../../src/graph/graph.js";
import { lookUp } from "../../src/look-up.js";
import type { Architecture } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { HeadGradient, type HeadTensors } from "../../src/training/head-gradient.js";
import { fixturePath } from "../helpers/architectures.js";
import { norm, scattered } from "../helpers/gradients.js";
import { fixturesByJoins } from "../helpers/graph-joins.js";
import { interpret, type Tensor } from "../reference/graph-interpreter.js";

/** Float32 logits of a hidden size of some tens, and sums over some tens of rows: relative errors below 1e-5. */
const TOLERANCE = 5e-5;

const ROWS = 9;

/** What the loss depends on, by name. */
type Point = ReadonlyMap<string, Tensor>;

interface Problem {
  readonly architecture: Architecture;
  /** hidden, projection, bias, the head's tensors; the teacher's are the same names after "teacher.". */
  readonly point: Point;
  /** -1 where a row predicts nothing. */
  readonly targets: Int32Array;
  readonly distillation: number;
  readonly weight: number;
}

async function problemOf({ architecture, checkpoint }: Model, distillation: number): Promise<Problem> {
  const { head, vocabularySize, state } = architecture;
  const { width } = state;
  const point = new Map<string, Tensor>();
  const put = (name: string, shape: readonly number[], values: Float32Array): void =>
    void point.set(name, { shape, values: Float64Array.from(values) });
  const random = (length: number, salt: number): Float32Array =>
    new Float32Array(length).map((_, index) => scattered(index, salt));
  for (const prefix of ["", "teacher."]) {
    put(`${prefix}hidden`, [ROWS, width], random(ROWS * width, prefix.length));
    put(`${prefix}projection`, [vocabularySize, head.width], await checkpoint.readTensor(head.projection));
    if (head.bias !== undefined) put(`${prefix}bias`, [vocabularySize], await checkpoint.readTensor(head.bias));
    for (const [role, { tensor, shape }] of head.tensors)
      put(`${prefix}${role}`, shape, await checkpoint.readTensor(tensor));
  }
  const targets = Int32Array.from({ length: ROWS }, (_, row) => (row % 4 === 3 ? -1 : (row * 37 + 1) % vocabularySize));
  return { architecture, point, targets, distillation, weight: 0.125 };
}

/** log p of every row, [rows][vocabulary], in float64. */
function logProbabilities(architecture: Architecture, point: Point, prefix: string): Float64Array[] {
  const { head, vocabularySize } = architecture;
  const at = (name: string): Tensor => lookUp(point, `${prefix}${name}`);
  const graph = new GraphBuilder("logits");
  graph.output("logits", addTileLogits(graph, architecture));
  const tensors = [...head.tensors.keys()].map((role) => [role, at(role)] as const);
  const normed = lookUp(
    interpret(buildNormGraph(architecture), new Map([...tensors, ["hidden", at("hidden")]])),
    "normed",
  );
  const feeds = new Map([
    ["hidden", normed],
    ["tile", at("projection")],
    [
      "bias",
      head.bias === undefined ? { shape: [vocabularySize], values: new Float64Array(vocabularySize) } : at("bias"),
    ],
  ]);
  const { values } = lookUp(interpret(graph.build(), feeds), "logits");
  return Array.from({ length: ROWS }, (_, row) => {
    const logits = values.subarray(row * vocabularySize, (row + 1) * vocabularySize);
    const top = logits.reduce((largest, logit) => Math.max(largest, logit), -Infinity);
    const partition = top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
    return logits.map((logit) => logit - partition);
  });
}

function lossAt({ architecture, targets, distillation, weight }: Problem, point: Point): number {
  const own = logProbabilities(architecture, point, "");
  const teacher = distillation === 0 ? [] : logProbabilities(architecture, point, "teacher.");
  let loss = 0;
  targets.forEach((target, row) => {
    if (target < 0) return;
    const logP = own[row] as Float64Array;
    loss -= weight * (1 - distillation) * (logP[target] as number);
    teacher[row]?.forEach((logQ, token) => {
      loss += weight * distillation * Math.exp(logQ) * (logQ - (logP[token] as number));
    });
  });
  return loss;
}

interface Found {
  readonly loss: number;
  /** By the names of the point. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** @param rows which of the problem's rows are given to the head, at once */
async function run(
  executor: OnnxExecutor,
  problem: Problem,
  tileRows: number,
  rows: readonly (readonly [first: number, end: number])[],
): Promise<Found> {
  const { architecture, point, targets, distillation, weight } = problem;
  const { head, state } = architecture;
  const { width } = state;
  const floats = (name: string): Float32Array => Float32Array.from(lookUp(point, name).values);
  const tensorsOf = (prefix: string): HeadTensors => ({
    tensors: new Map(
      [...head.tensors].map(([role, { shape }]) => [role, borrowed(role, floats(`${prefix}${role}`), shape)]),
    ),
    projection: floats(`${prefix}projection`),
    ...(head.bias === undefined ? {} : { bias: floats(`${prefix}bias`) }),
  });
  const states = (name: string, first: number, end: number) =>
    borrowed(name, floats(name).subarray(first * width, end * width), [end - first, width]);
  const zeros = (name: string): Float32Array => new Float32Array(lookUp(point, name).values.length);
  const sinks = {
    tensors: new Map([...head.tensors.keys()].map((role) => [role, zeros(role)])),
    projection: zeros("projection"),
    ...(head.bias === undefined ? {} : { bias: zeros("bias") }),
  };
  const isDistilled = distillation > 0;
  await using gradient = await HeadGradient.compile(executor, architecture, {
    ...{ isProjectionTrained: true, isDistilled, tileRows },
  });
  const ofHidden = zeros("hidden");
  let loss = 0;
  for (const [first, end] of rows) {
    const result = await gradient.run(
      tensorsOf(""),
      {
        ...{ hidden: states("hidden", first, end), targets: targets.subarray(first, end), weight, distillation },
        ...(isDistilled
          ? { teacher: { head: tensorsOf("teacher."), hidden: states("teacher.hidden", first, end) } }
          : {}),
      },
      sinks,
    );
    loss += result.loss;
    using own = result.gradient;
    ofHidden.set(valuesOf(own), first * width);
  }
  const gradients = new Map([["hidden", ofHidden], ["projection", sinks.projection], ...sinks.tensors]);
  if (sinks.bias !== undefined) gradients.set("bias", sinks.bias);
  return { loss, gradients };
}

function along(problem: Problem, name: string, direction: Float64Array): number {
  const step = 1e-4;
  const moved = (at: number): number => {
    const { shape, values } = lookUp(problem.point, name);
    const values_ = values.map((value, index) => value + at * step * (direction[index] as number));
    return lossAt(problem, new Map([...problem.point, [name, { shape, values: values_ }]]));
  };
  return (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step);
}

function headOf({ architecture }: Model): Graph[] {
  return [buildNormGraph(architecture), buildTileGraph(architecture, "losses")];
}

for (const { fixture } of await fixturesByJoins(headOf)) {
  test(`${fixture.folder}: loss and gradients of its head are what differences in float64 say`, async () => {
    await using model = await openModel(fixture.directory);
    await using executor = new OnnxExecutor({ threads: 2 });
    for (const distillation of [0, 0.3]) {
      const problem = await problemOf(model, distillation);
      const { loss, gradients } = await run(executor, problem, 17, [[0, ROWS]]);
      const expected = lossAt(problem, problem.point);
      assert.ok(Math.abs(loss - expected) <= 1e-5 * Math.abs(expected), `${loss}, in float64 ${expected}`);
      for (const [name, values] of gradients) {
        const direction = new Float64Array(values.length).map((_, index) => scattered(index, name.length));
        const found = values.reduce((sum, value, index) => sum + value * (direction[index] as number), 0);
        const size = norm(Float64Array.from(values)) * (norm(direction) / Math.sqrt(values.length));
        const off = Math.abs(found - along(problem, name, direction));
        assert.ok(off <= TOLERANCE * size, `${name} at ${distillation}: off by ${off} of ${size}`);
      }
    }
  });
}

for (const folder of ["gemma2", "phi", "opt_350m_style"]) {
  test(`${folder}: however the vocabulary and the rows are cut, the gradients are the same`, async () => {
    await using model = await openModel(fixturePath(folder));
    await using executor = new OnnxExecutor({ threads: 2 });
    const problem = await problemOf(model, 0.3);
    const whole = await run(executor, problem, model.architecture.vocabularySize, [[0, ROWS]]);
    const halves: readonly [number, number][] = [
      [0, 4],
      [4, ROWS],
    ];
    for (const [tileRows, rows] of [
      [1000, halves],
      [7, [[0, ROWS]]],
      [13, halves],
    ] as const) {
      const { loss, gradients } = await run(executor, problem, tileRows, rows);
      assert.ok(Math.abs(loss - whole.loss) <= 1e-6 * whole.loss, `loss in tiles of ${tileRows}`);
      for (const [name, values] of gradients) {
        const expected = lookUp(whole.gradients, name);
        const size = norm(Float64Array.from(expected));
        const off = norm(Float64Array.from(values, (value, index) => value - (expected[index] as number)));
        assert.ok(off <= 1e-6 * size, `${name} in tiles of ${tileRows}: ${off / size}`);
      }
    }
  });
}
