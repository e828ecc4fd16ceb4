/** What runs graphs: compiled once for every size that its symbols may take, run as often as wanted. */
import type { Home, NdArray } from "../array.js";
import type { Graph } from "./graph.js";
import type { OperatorName } from "./operators.js";

export interface Executor extends AsyncDisposable {
  /** Where the arrays live that its programs read and make. */
  readonly home: Home;
  /** Whether it runs an operator as it is. Composites that it has not are decomposed. */
  supports(operator: OperatorName): boolean;
  /** @throws InternalError E_OPERATOR naming an operator that it can neither run nor decompose */
  compile(graph: Graph, options?: CompileOptions): Promise<Program>;
  /** Let go of memory that is kept for later outputs, before something else needs much. */
  trim(): void;
}

export interface CompileOptions {
  /**
   * Whether memory of values inside the graph stays the program's between its runs. Worth it where they are large and every
   * run has the same sizes: logits are written to fresh pages otherwise, which takes longer than computing them.
   */
  readonly keepsMemory?: boolean;
}

/** By name of an input or output. */
export type Arrays = ReadonlyMap<string, NdArray>;

export interface Program extends AsyncDisposable {
  /**
   * Run the graph.
   * @param feeds at least every input of the graph, of its type and a shape that fits; others are ignored. They are
   *   borrowed until the promise settles
   * @param into arrays to write outputs to, by name, of the output's shape
   * @returns every output: what `into` names, else an array that is the caller's until it disposes of it; its memory
   *   may then be that of a later output
   */
  run(feeds: Arrays, into?: Arrays): Promise<Arrays>;
}
