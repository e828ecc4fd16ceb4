/** Matrix products on the CPU: one-node graphs, one per combination of transposes, sign and addition; and products in f64. */
import { GraphBuilder } from "../graph/graph.js";
import { encodeGraph, type EncodedGraph } from "./encoder.js";
import { createSession, type Session, type SessionOptions } from "./session.js";

/** Where a product goes. */
export interface ProductTarget {
  /** [m, n], not overlapping the factors. */
  readonly values: Float32Array;
  readonly sign: 1 | -1;
  /** Add to `values` instead of overwriting them. */
  readonly add: boolean;
}

export interface MatmulEngine extends AsyncDisposable {
  /**
   * op(a)·op(b), all compact and row-major.
   * @param a [m, k], or [k, m] with `transposeA`
   * @param b [k, n], or [n, k] with `transposeB`
   * @returns [m, n]: `into.values`, or freshly allocated
   */
  multiply(
    a: Float32Array,
    b: Float32Array,
    m: number,
    n: number,
    k: number,
    transposeA: boolean,
    transposeB: boolean,
    into?: ProductTarget,
  ): Promise<Float32Array>;
}

interface ProductKind {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly sign: 1 | -1;
  readonly add: boolean;
}

function productModel({ transposeA, transposeB, sign, add }: ProductKind): EncodedGraph {
  const graph = new GraphBuilder("product");
  const a = graph.input("a", transposeA ? ["k", "m"] : ["m", "k"]);
  const b = graph.input("b", transposeB ? ["n", "k"] : ["k", "n"]);
  const inputs = add ? [a, b, graph.input("before", ["m", "n"])] : [a, b];
  graph.output("c", graph.apply("gemm", inputs, { transposeA, transposeB, alpha: sign }));
  return encodeGraph(graph.build());
}

/** Sessions are created when first needed. */
export function createMatmulEngine(options: SessionOptions = {}): Promise<MatmulEngine> {
  const sessions = new Map<number, Promise<Session>>();
  const sessionFor = (kind: ProductKind): Promise<Session> => {
    const { transposeA, transposeB, sign, add } = kind;
    const key = Number(transposeA) + 2 * Number(transposeB) + 4 * Number(sign < 0) + 8 * Number(add);
    let session = sessions.get(key);
    if (session === undefined) {
      session = createSession(productModel(kind), options);
      sessions.set(key, session);
    }
    return session;
  };
  return Promise.resolve({
    async multiply(a, b, m, n, k, transposeA, transposeB, into) {
      const session = await sessionFor({ transposeA, transposeB, sign: into?.sign ?? 1, add: into?.add ?? false });
      const target = into === undefined ? undefined : { values: into.values.subarray(0, m * n), shape: [m, n] };
      const { c } = await session.run(
        {
          a: { values: a.subarray(0, m * k), shape: transposeA ? [k, m] : [m, k] },
          b: { values: b.subarray(0, k * n), shape: transposeB ? [n, k] : [k, n] },
          // Read and written entry by entry: the runtime may be given one array for both.
          ...(target !== undefined && { before: target }),
        },
        target === undefined ? {} : { c: target },
      );
      return c?.values as Float32Array;
    },
    async [Symbol.asyncDispose]() {
      for (const session of sessions.values()) await (await session)[Symbol.asyncDispose]();
      sessions.clear();
    },
  });
}

/** Products in f64, for the few places where f32 loses the answer. */
export interface DoubleEngine extends AsyncDisposable {
  /**
   * c + sign·op(a)·op(b), all compact and row-major; one of the operands may be transposed.
   * @param a [m, k], or [k, m] with `transpose` "a"
   * @param b [k, n], or [n, k] with `transpose` "b"
   * @param c [m, n]
   * @returns [m, n], freshly allocated
   */
  multiplyAdd(
    a: Float64Array,
    b: Float64Array,
    c: Float64Array,
    size: { readonly m: number; readonly n: number; readonly k: number },
    form: { readonly transpose: "a" | "b"; readonly sign: 1 | -1 },
  ): Promise<Float64Array>;
  /** a·b with a [m, k] and b [k, n]; freshly allocated. */
  multiply(a: Float64Array, b: Float64Array, m: number, n: number, k: number): Promise<Float64Array>;
}

function doubleModel(transpose: "a" | "b" | "", sign: 1 | -1): EncodedGraph {
  const graph = new GraphBuilder("double product");
  const [transposeA, transposeB] = [transpose === "a", transpose === "b"];
  const a = graph.input("a", transposeA ? ["k", "m"] : ["m", "k"], "f64");
  const b = graph.input("b", transposeB ? ["n", "k"] : ["k", "n"], "f64");
  const c = transpose === "" ? [] : [graph.input("c", ["m", "n"], "f64")];
  graph.output("y", graph.apply("gemm", [a, b, ...c], { transposeA, transposeB, alpha: sign }));
  return encodeGraph(graph.build());
}

/** Sessions are created when first needed. */
export function createDoubleEngine(options: SessionOptions = {}): DoubleEngine {
  const sessions = new Map<string, Promise<Session>>();
  const sessionFor = (transpose: "a" | "b" | "", sign: 1 | -1): Promise<Session> => {
    const key = `${transpose}${sign}`;
    let session = sessions.get(key);
    if (session === undefined) {
      session = createSession(doubleModel(transpose, sign), options);
      sessions.set(key, session);
    }
    return session;
  };
  return {
    async multiplyAdd(a, b, c, { m, n, k }, { transpose, sign }) {
      const session = await sessionFor(transpose, sign);
      const { y } = await session.run({
        a: { values: a, shape: transpose === "a" ? [k, m] : [m, k] },
        b: { values: b, shape: transpose === "b" ? [n, k] : [k, n] },
        c: { values: c, shape: [m, n] },
      });
      return y?.values as Float64Array;
    },
    async multiply(a, b, m, n, k) {
      const session = await sessionFor("", 1);
      const { y } = await session.run({ a: { values: a, shape: [m, k] }, b: { values: b, shape: [k, n] } });
      return y?.values as Float64Array;
    },
    async [Symbol.asyncDispose]() {
      for (const session of sessions.values()) await (await session)[Symbol.asyncDispose]();
      sessions.clear();
    },
  };
}
