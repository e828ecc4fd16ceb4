/** How large an expert's outputs are, from what its down projection reads: Σ y² and max y² of every row. */
import { borrowed, type NdArray } from "../array.js";
import type { Executor, Program } from "../graph/executor.js";
import { GraphBuilder } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import { valuesOf } from "./values.js";

export class ExpertOutputs implements AsyncDisposable {
  readonly #program: Program;
  readonly #inFeatures: number;
  readonly #outFeatures: number;

  private constructor(program: Program, inFeatures: number, outFeatures: number) {
    this.#program = program;
    this.#inFeatures = inFeatures;
    this.#outFeatures = outFeatures;
  }

  static async open(executor: Executor, inFeatures: number, outFeatures: number): Promise<ExpertOutputs> {
    const graph = new GraphBuilder("expert outputs");
    const x = graph.input("activated", ["rows", inFeatures]);
    const matrix = graph.input("down", [outFeatures, inFeatures]);
    const bias = graph.input("bias", [outFeatures]);
    const output = graph.apply("gemm", [x, matrix, bias], { transposeB: true });
    const squares = graph.apply("multiply", [output, output]);
    graph.output("squares", graph.apply("reduceSum", [squares], { axes: [1] }));
    graph.output("tops", graph.apply("reduceMax", [squares], { axes: [1] }));
    return new ExpertOutputs(await executor.compile(graph.build()), inFeatures, outFeatures);
  }

  /**
   * @param activated [rows, inFeatures], borrowed
   * @param down      [outFeatures, inFeatures]
   * @param bias      [outFeatures]; zeros where absent
   */
  async of(
    activated: NdArray,
    down: Float32Array,
    bias: Float32Array = new Float32Array(this.#outFeatures),
  ): Promise<{ readonly squares: Float32Array; readonly tops: Float32Array }> {
    const results = await this.#program.run(
      new Map([
        ["activated", activated],
        ["down", borrowed("down", down, [this.#outFeatures, this.#inFeatures])],
        ["bias", borrowed("bias", bias, [this.#outFeatures])],
      ]),
    );
    const read = (name: string): Float32Array => valuesOf(lookUp(results, name)).slice();
    const outputs = { squares: read("squares"), tops: read("tops") };
    results.forEach((array) => array[Symbol.dispose]());
    return outputs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program[Symbol.asyncDispose]();
  }
}
