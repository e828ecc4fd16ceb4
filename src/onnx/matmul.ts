/** Matrix products on the CPU: four one-node graphs, one per combination of transposes. */
import { GraphBuilder, type BuiltGraph } from "./graph.js";
import { createSession, type Session, type SessionOptions } from "./session.js";

export interface MatmulEngine extends AsyncDisposable {
  /**
   * op(a)·op(b), all compact and row-major.
   * @param a [m, k], or [k, m] with `transposeA`
   * @param b [k, n], or [n, k] with `transposeB`
   * @returns [m, n], freshly allocated
   */
  multiply(
    a: Float32Array,
    b: Float32Array,
    m: number,
    n: number,
    k: number,
    transposeA: boolean,
    transposeB: boolean,
  ): Promise<Float32Array>;
}

function productModel(transposeA: boolean, transposeB: boolean): BuiltGraph {
  const graph = new GraphBuilder("product");
  const a = graph.input("a", ["a0", "a1"]);
  const b = graph.input("b", ["b0", "b1"]);
  const attributes = { transA: Number(transposeA), transB: Number(transposeB) };
  graph.output(graph.node("Gemm", [a, b], attributes), "c", ["m", "n"]);
  return graph.build();
}

/** Sessions are created when first needed. */
export function createMatmulEngine(options: SessionOptions = {}): Promise<MatmulEngine> {
  const sessions = new Map<number, Promise<Session>>();
  const sessionFor = (transposeA: boolean, transposeB: boolean): Promise<Session> => {
    const key = Number(transposeA) * 2 + Number(transposeB);
    let session = sessions.get(key);
    if (session === undefined) {
      session = createSession(productModel(transposeA, transposeB), options);
      sessions.set(key, session);
    }
    return session;
  };
  return Promise.resolve({
    async multiply(a, b, m, n, k, transposeA, transposeB) {
      const session = await sessionFor(transposeA, transposeB);
      const { c } = await session.run({
        a: { values: a.subarray(0, m * k), shape: transposeA ? [k, m] : [m, k] },
        b: { values: b.subarray(0, k * n), shape: transposeB ? [n, k] : [k, n] },
      });
      return c as Float32Array;
    },
    async [Symbol.asyncDispose]() {
      for (const session of sessions.values()) await (await session)[Symbol.asyncDispose]();
      sessions.clear();
    },
  });
}
