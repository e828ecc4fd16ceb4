/** Graphs run by ONNX Runtime on the host. */
import { borrowed, isHostArray, type ElementType, type HostArray, type NdArray } from "../array.js";
import { InternalError } from "../errors.js";
import { decompose } from "../graph/decompose.js";
import { bindShape, evaluate, symbolsOf, type Bindings } from "../graph/dimensions.js";
import type { Arrays, CompileOptions, Executor, Program } from "../graph/executor.js";
import type { Graph, NamedValue } from "../graph/graph.js";
import { ArrayPool } from "../array-pool.js";
import { canEncode, encodeGraph } from "./encoder.js";
import { createSession, type Feeds, type Session, type SessionOptions } from "./session.js";

export class OnnxExecutor implements Executor {
  readonly home = "host";
  readonly supports = canEncode;
  readonly #options: SessionOptions;
  readonly #pool = new ArrayPool();
  readonly #programs = new Set<Program>();

  constructor(options: SessionOptions = {}) {
    this.#options = options;
  }

  async compile(graph: Graph, options: CompileOptions = {}): Promise<Program> {
    const encodable = decompose(graph, this.supports);
    const session = await createSession(encodeGraph(encodable), { ...this.#options, ...options });
    const program = new OnnxProgram(graph, session, this.#pool, () => this.#programs.delete(program));
    this.#programs.add(program);
    return program;
  }

  trim(): void {
    this.#pool.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of [...this.#programs]) await program[Symbol.asyncDispose]();
    this.#pool.clear();
  }
}

class OnnxProgram implements Program {
  readonly #graph: Graph;
  readonly #pool: ArrayPool;
  readonly #onDispose: () => void;
  #session: Session | undefined;
  /** Symbols first, then products of them, which say less. */
  readonly #inputs: readonly NamedValue[];

  constructor(graph: Graph, session: Session, pool: ArrayPool, onDispose: () => void) {
    this.#graph = graph;
    this.#session = session;
    this.#pool = pool;
    this.#onDispose = onDispose;
    const products = ({ value }: NamedValue): number => value.shape.filter((dim) => symbolsOf(dim).length > 1).length;
    this.#inputs = graph.inputs.toSorted((a, b) => products(a) - products(b));
  }

  async run(feeds: Arrays, into: Arrays = new Map()): Promise<Arrays> {
    if (this.#session === undefined)
      throw new InternalError("E_DISPOSED", `graph ${this.#graph.name}: no longer there`);
    const bindings: Bindings = new Map();
    const inputs = this.#inputs.map(({ name, value }) => {
      const array = hostArray(name, feeds.get(name), value.dtype);
      bindShape(`graph input "${name}"`, value.shape, array.shape, bindings);
      return [name, array] as const;
    });
    const targets = new Map(this.#graph.outputs.flatMap((output) => this.#target(output, into, bindings)));
    try {
      const results = await this.#session.run(feedsOf(inputs), feedsOf([...targets]));
      return new Map(
        this.#graph.outputs.map(({ name }) => {
          const { values, shape } = results[name] as Feeds[string];
          return [name, targets.get(name) ?? borrowed(name, values as Float32Array, shape)];
        }),
      );
    } catch (error) {
      for (const [name, array] of targets) if (!into.has(name)) array[Symbol.dispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session?.[Symbol.asyncDispose]();
    this.#session = undefined;
    this.#onDispose();
  }

  /** Where an output goes: what the caller gave, or an array of the pool where its size is known before the run. */
  #target({ name, value }: NamedValue, into: Arrays, bindings: Bindings): readonly [string, HostArray][] {
    const given = into.get(name);
    if (given !== undefined) {
      const array = hostArray(name, given, value.dtype);
      bindShape(`array for output "${name}"`, value.shape, array.shape, bindings);
      return [[name, array]];
    }
    const shape = value.shape.map((dim) => evaluate(dim, bindings));
    if (shape.includes(undefined)) return [];
    return [[name, this.#pool.take(name, shape as number[], value.dtype as ElementType)]];
  }
}

function hostArray(name: string, array: NdArray | undefined, dtype: string): HostArray {
  if (array === undefined) throw new InternalError("E_FEED", `graph input "${name}" was not fed`);
  if (!isHostArray(array)) throw new InternalError("E_FEED", `${name}: lives on ${array.home}; expected the host`);
  if (array.dtype !== dtype) throw new InternalError("E_FEED", `${name}: holds ${array.dtype}; expected ${dtype}`);
  return array;
}

function feedsOf(arrays: readonly (readonly [string, HostArray])[]): Feeds {
  return Object.fromEntries(arrays.map(([name, { values, shape }]) => [name, { values, shape }]));
}
