/** Graphs that chance writes, for property tests. */
import fc from "fast-check";
import { product, type Dim } from "../../src/graph/dimensions.js";
import { GraphBuilder, type Graph, type Value } from "../../src/graph/graph.js";
import type { OperatorName } from "../../src/graph/operators.js";
import { tensor } from "../reference/graph-interpreter.js";
import { rounded } from "./graphs.js";

/** One step of a graph of matrices [n, w]: which operator, and which earlier values it reads. */
export interface Step {
  readonly kind: number;
  readonly left: number;
  readonly right: number;
}

export const steps = fc.array(fc.record({ kind: fc.nat(21), left: fc.nat(30), right: fc.nat(30) }), {
  minLength: 1,
  maxLength: 14,
});

/** A graph of these steps; outputs are the values that `kept` says, by their place. */
export function randomGraph(written: readonly Step[], kept: readonly number[]): Graph {
  const builder = new GraphBuilder("random");
  const values: Value[] = [
    builder.input("x", ["n", 4]),
    builder.input("y", ["n", 4]),
    builder.input("w", [4, 4]),
    builder.input("z", [1, 4]),
  ];
  const apply = (operator: OperatorName, inputs: readonly Value[], attributes: object = {}): readonly Value[] =>
    builder.applyAll(operator as "iota", inputs, attributes as { length: Dim });
  for (const { kind, left, right } of written) {
    const a = values[left % values.length] as Value;
    const b = values[right % values.length] as Value;
    const [rows, width] = a.shape as [Dim, number];
    const fits = a.shape[1] === b.shape[1] && (a.shape[0] === b.shape[0] || b.shape[0] === 1);
    const made = ((): readonly Value[] => {
      switch (kind) {
        case 0:
          return fits ? apply("add", [a, b]) : [];
        case 1:
          return fits ? apply("multiply", [a, b]) : [];
        case 2:
          return b.shape[0] === width ? apply("gemm", [a, b]) : [];
        case 3:
          return b.shape[1] === width && typeof b.shape[0] === "number"
            ? apply("gemm", [a, b], { transposeB: true })
            : [];
        case 4:
          return apply("tanh", [a]);
        case 5:
          return width % 2 === 0 ? apply("split", [a], { axis: 1, sizes: [width / 2, width / 2] }) : [];
        case 6:
          return a.shape[0] === b.shape[0] ? apply("concat", [a, b], { axis: 1 }) : [];
        case 7:
          return apply("rmsNorm", [a, builder.floats(new Array<number>(width).fill(1.5), [width])], {
            epsilon: 0.1, // rounder than any that models have: differences of sharp bends say little
          });
        case 8:
          return apply("moments", [a]).map((moment) => builder.apply("reshape", [moment], { shape: [1, width] }));
        case 9:
          return apply("reshape", [a], { shape: [product(rows, width), 1] });
        case 10:
          return apply("gelu", [a], { form: "tanh" });
        case 11:
          return apply("gram", [a], { panels: [{ first: 0, end: width }] });
        case 12:
          return apply("softmax", [a]);
        case 13:
          return fits
            ? apply("divide", [
                a,
                builder.apply("add", [
                  apply("sumSquares", [b], { axes: [-1], keepsAxes: true })[0] as Value,
                  builder.scalar(1),
                ]),
              ])
            : [];
        case 14:
          return apply("logSumExp", [a], { axes: [0], keepsAxes: true });
        case 15:
          return apply("reduceMean", [a], { axes: [0, 1], keepsAxes: true });
        case 16:
          return apply("gather", [a, builder.integers([0, 0, 0])]);
        case 17:
          return typeof rows === "number" ? apply("transpose", [a], { order: [1, 0] }) : [];
        case 18:
          return width > 1 ? apply("slice", [a], { axis: 1, start: 1, end: width }) : [];
        case 19:
          return apply("pad", [a], { axis: 1, after: 2 });
        case 20:
          return a.shape[0] === 1 ? apply("expand", [a], { shape: ["n", width] }) : [];
        default:
          return fits ? apply("gatedActivation", [apply("add", [a, b])[0] as Value, a], { activation: "silu" }) : [];
      }
    })();
    values.push(...made);
  }
  new Set(kept.map((place) => values[place % values.length] as Value)).forEach((value) =>
    builder.output(`y${value.id}`, value),
  );
  return builder.build();
}

export const RANDOM_FEEDS = rounded(
  new Map([
    ["x", tensor([3, 4], (i) => Math.sin(i))],
    ["y", tensor([3, 4], (i) => Math.cos(i * 1.3))],
    ["w", tensor([4, 4], (i) => 0.4 * Math.sin(i * 0.7 + 1))],
    ["z", tensor([1, 4], (i) => 0.5 + i)],
  ]),
);
