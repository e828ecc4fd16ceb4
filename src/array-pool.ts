/**
 * Arrays on the host whose memory is used again: the first write to a fresh page costs many times what one to a used
 * page does, and a block's outputs have the same few sizes at every run.
 */
import { elementsOf, type ElementType, type HostArray } from "./array.js";
import { InternalError } from "./errors.js";

type Numbers = Float32Array | BigInt64Array;

export class ArrayPool {
  /** Memory that no array has, by type and length. */
  readonly #free = new Map<string, Numbers[]>();
  /** Memory that an array gives back after `clear` is let go. */
  #generation = 0;

  /** An array that belongs to the caller until it is disposed of; its numbers are undefined. */
  take(label: string, shape: readonly number[], dtype: ElementType): HostArray {
    const key = `${dtype} ${elementsOf(shape)}`;
    const values = this.#free.get(key)?.pop() ?? allocate(dtype, elementsOf(shape));
    const generation = this.#generation;
    return new PooledArray(label, shape, dtype, values, () => {
      if (generation === this.#generation) this.#give(key, values);
    });
  }

  /** Let go of all memory that no array has, and of that of arrays in use when they are disposed of. */
  clear(): void {
    this.#free.clear();
    this.#generation++;
  }

  #give(key: string, values: Numbers): void {
    const known = this.#free.get(key);
    if (known === undefined) this.#free.set(key, [values]);
    else known.push(values);
  }
}

function allocate(dtype: ElementType, length: number): Numbers {
  return dtype === "f32" ? new Float32Array(length) : new BigInt64Array(length);
}

class PooledArray implements HostArray {
  readonly label: string;
  readonly shape: readonly number[];
  readonly dtype: ElementType;
  readonly home = "host";
  #values: Numbers | undefined;
  readonly #giveBack: () => void;

  constructor(label: string, shape: readonly number[], dtype: ElementType, values: Numbers, giveBack: () => void) {
    this.label = label;
    this.shape = shape;
    this.dtype = dtype;
    this.#values = values;
    this.#giveBack = giveBack;
  }

  /** @throws InternalError E_DISPOSED: the memory may be another array's by now */
  get values(): Numbers {
    if (this.#values !== undefined) return this.#values;
    throw new InternalError("E_DISPOSED", `${this.label}: read after it was disposed of`);
  }

  [Symbol.dispose](): void {
    if (this.#values === undefined) return;
    this.#values = undefined;
    this.#giveBack();
  }
}
