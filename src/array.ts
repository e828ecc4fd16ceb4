/**
 * Arrays of numbers that know where they live: what a forward makes and what solvers read. A device's `Matrix` is the
 * form of rank 2; whoever holds an array asks for its `home` before it touches the numbers.
 */

/** Where the numbers are: in this process's memory, or in buffers of the WebGPU device. */
export type Home = "host" | "webgpu";

/** Type of an element. */
export type ElementType = "f32" | "i64";

/** Compact and row-major to whoever sees it through its own home; disposing gives its memory back to where it came from. */
export interface NdArray extends Disposable {
  readonly label: string;
  readonly shape: readonly number[];
  readonly dtype: ElementType;
  readonly home: Home;
}

/** An array whose numbers can be read here and now. */
export interface HostArray extends NdArray {
  readonly home: "host";
  /** Compact, row-major. */
  readonly values: Float32Array | BigInt64Array;
}

/** Number of elements of a shape; 1 for a scalar's []. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

export function isHostArray(array: NdArray): array is HostArray {
  return array.home === "host";
}

/** Numbers that belong to someone else, as an array: they are not copied, and disposing changes nothing. */
export function borrowed(label: string, values: Float32Array | BigInt64Array, shape: readonly number[]): HostArray {
  const dtype = values instanceof Float32Array ? "f32" : "i64";
  return { label, shape, dtype, home: "host", values, [Symbol.dispose]: () => undefined };
}

/** z += x, entry by entry; four at a time, because the compiler neither unrolls nor vectorises. */
export function addArray(x: Float32Array, z: Float32Array): void {
  const count = z.length;
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const a = z[i] + x[i];
    const b = z[i + 1] + x[i + 1];
    const c = z[i + 2] + x[i + 2];
    const d = z[i + 3] + x[i + 3];
    z[i] = a;
    z[i + 1] = b;
    z[i + 2] = c;
    z[i + 3] = d;
  }
  for (; i < count; i++) z[i] += x[i];
}
