/** Reading the tensors of one safetensors file, for tests that compare with stored numbers. */
import { readFileSync, statSync } from "node:fs";
import { parseHeader, parseHeaderLength } from "../../src/checkpoint/header.js";

export interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Values as doubles hold all dtypes used here exactly. */
  readonly values: Float64Array;
}

const READERS: Readonly<Record<string, (bytes: ArrayBuffer) => ArrayLike<number>>> = {
  F32: (bytes) => new Float32Array(bytes),
  BF16: (bytes) => new Float32Array(Uint32Array.from(new Uint16Array(bytes), (half) => half << 16).buffer),
  I32: (bytes) => new Int32Array(bytes),
  U8: (bytes) => new Uint8Array(bytes),
  I64: (bytes) => Array.from(new BigInt64Array(bytes), Number),
};

/** All tensors of a file, by name. */
export function readTensors(file: string): Map<string, StoredTensor> {
  const bytes = readFileSync(file);
  const size = statSync(file).size;
  const length = parseHeaderLength(bytes.subarray(0, 8), file, size);
  const header = parseHeader(bytes.subarray(8, 8 + length), file, size);
  return new Map(
    header.tensors.map(({ name, dtype, shape, begin, end }) => {
      const read = READERS[dtype];
      if (read === undefined) throw new Error(`${file}: ${name} is ${dtype}`);
      const copy = Uint8Array.from(bytes.subarray(header.dataOffset + begin, header.dataOffset + end));
      return [name, { dtype, shape, values: Float64Array.from(read(copy.buffer)) }];
    }),
  );
}

export function tensorOf(tensors: ReadonlyMap<string, StoredTensor>, name: string): StoredTensor {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`no tensor ${name}; there are ${[...tensors.keys()].join(", ")}`);
  return tensor;
}

/** Rows of an integer tensor [sequences, tokens]. */
export function rowsOf({ shape, values }: StoredTensor): Int32Array[] {
  const [rows = 0, columns = 0] = shape;
  return Array.from({ length: rows }, (_, row) => Int32Array.from(values.subarray(row * columns, (row + 1) * columns)));
}

/** max |actual - expected| / rms(expected): the measure the stored forwards are compared by. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`);
  let worst = 0;
  let squares = 0;
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs((actual[i] as number) - (expected[i] as number)));
    squares += (expected[i] as number) ** 2;
  }
  return worst / Math.sqrt(squares / expected.length);
}
