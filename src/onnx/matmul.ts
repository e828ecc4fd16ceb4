/** Matrix products on the CPU: one-node graphs, one per combination of transposes, sign and addition. */
import { GraphBuilder, type BuiltGraph } from "./graph.js";
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

function productModel({ transposeA, transposeB, sign, add }: ProductKind): BuiltGraph {
  const graph = new GraphBuilder("product");
  const a = graph.input("a", ["a0", "a1"]);
  const b = graph.input("b", ["b0", "b1"]);
  const attributes = { transA: Number(transposeA), transB: Number(transposeB), alpha: { float: sign } };
  const inputs = add ? [a, b, graph.input("before", ["m", "n"])] : [a, b];
  graph.output(graph.node("Gemm", inputs, attributes), "c", ["m", "n"]);
  return graph.build();
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
      return c as Float32Array;
    },
    async [Symbol.asyncDispose]() {
      for (const session of sessions.values()) await (await session)[Symbol.asyncDispose]();
      sessions.clear();
    },
  });
}
