/**
 * The only importer of onnxruntime-node. A session runs one graph; `run` blocks the calling JavaScript thread
 * (the native call is synchronous), which is why the engine lives in a worker thread.
 */
import { availableParallelism } from "node:os";
import { createRequire } from "node:module";
import { InferenceSession, Tensor, env, listSupportedBackends } from "onnxruntime-node";
import { InternalError } from "../errors.js";
import type { EncodedGraph } from "./encoder.js";

export type TensorValues = Float32Array | Float64Array | BigInt64Array | Int32Array | Uint16Array;

/** A tensor as fed: values are borrowed for the duration of the run and not copied. */
export interface Feed {
  readonly values: TensorValues;
  readonly shape: readonly number[];
}

export type Feeds = Readonly<Record<string, Feed>>;

export interface SessionOptions {
  /** Threads of one operator; default: all cores. Sums of narrow products may depend on it, so a run's device names it. */
  readonly threads?: number;
  /** Whether memory that a run took stays the session's; default: it goes back. */
  readonly keepsMemory?: boolean;
}

export interface Session extends AsyncDisposable {
  /**
   * Run the graph.
   * @param feeds at least every input of the graph; surplus feeds are ignored
   * @param into where to write outputs, by name; of the output's exact shape
   * @returns every output: what `into` names, else freshly allocated, owned by the caller
   */
  run(feeds: Feeds, into?: Feeds): Promise<Feeds>;
}

const ELEMENT_NAMES = new Map<string, "float32" | "float64" | "int64" | "int32" | "uint16">([
  ["Float32Array", "float32"],
  ["Float64Array", "float64"],
  ["BigInt64Array", "int64"],
  ["Int32Array", "int32"],
  ["Uint16Array", "uint16"],
]);

function toTensor(name: string, feed: Feed | undefined): Tensor {
  if (feed === undefined) throw new InternalError("E_FEED", `graph input "${name}" was not fed`);
  const type = ELEMENT_NAMES.get(feed.values.constructor.name);
  if (type === undefined) throw new InternalError("E_FEED", `${name}: cannot feed a ${feed.values.constructor.name}`);
  return new Tensor(type, feed.values as Float32Array, feed.shape);
}

/** The runtime's pass that computes equal nodes once. */
const MERGING = "CommonSubexpressionElimination";

/** Compile an encoded graph. */
export async function createSession(graph: EncodedGraph, options: SessionOptions = {}): Promise<Session> {
  env.logLevel = "fatal"; // the runtime writes to fd 2 by itself, even for errors that are caught
  const session = await InferenceSession.create(graph.model, {
    intraOpNumThreads: options.threads ?? availableParallelism(),
    interOpNumThreads: 1,
    executionMode: "sequential",
    graphOptimizationLevel: "all",
    // The arena never returns memory; blocks differ in size over a run and the peak would stay for good.
    enableCpuMemArena: options.keepsMemory ?? false,
    enableMemPattern: false,
    logSeverityLevel: 4,
    extra: {
      session: { intra_op: { allow_spinning: "0" } }, // spinning threads would starve our own kernels
      // Merging what is computed twice would keep it in between.
      ...(graph.isOrdered === true ? { optimization: { disable_specified_optimizers: MERGING } } : {}),
    },
  });
  return {
    async run(feeds, into = {}) {
      const results = await session.run(
        Object.fromEntries([...graph.inputs].map(([name, own]) => [own, toTensor(name, feeds[name])])),
        Object.fromEntries(
          [...graph.outputs].map(([name, own]) => [own, name in into ? toTensor(name, into[name]) : null]),
        ),
      );
      return Object.fromEntries(
        [...graph.outputs].map(([name, own]) => {
          const result = results[own];
          if (result === undefined) throw new InternalError("E_OUTPUT", `graph output "${name}" was not made`);
          return [name, { values: result.data as TensorValues, shape: result.dims }];
        }),
      );
    },
    async [Symbol.asyncDispose]() {
      await session.release();
    },
  };
}

/** Version and execution providers of the installed runtime, for `prune devices`. */
export function describeRuntime(): { readonly version: string; readonly providers: readonly string[] } {
  const manifest = createRequire(import.meta.url)("onnxruntime-node/package.json") as { version: string };
  return { version: manifest.version, providers: listSupportedBackends().map((backend) => backend.name) };
}
