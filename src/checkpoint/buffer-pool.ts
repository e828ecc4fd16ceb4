/** Reusable piece buffers: fresh ones would cost a page fault per 4 KiB on every tensor. */

/** Bytes converted at a time, a multiple of every element size; larger pieces gained nothing (measured 256 KiB to 8 MiB). */
export const PIECE_BYTES = 1 << 22;

/** Of which the allocator has plenty; a whole piece for each of many small tensors is work for the garbage collector. */
const SMALL_BYTES = 1 << 16;

/** Buffers kept for reuse; more than this only while more reads run at once. */
const KEPT_BUFFERS = 8;

export class BufferPool {
  readonly #free: Uint8Array[] = [];

  /**
   * A buffer with unspecified content.
   * @param bytes that are needed of it, at most PIECE_BYTES
   */
  take(bytes: number): Uint8Array {
    if (bytes <= SMALL_BYTES) return new Uint8Array(8 * Math.ceil(bytes / 8));
    return this.#free.pop() ?? new Uint8Array(PIECE_BYTES);
  }

  give(buffer: Uint8Array): void {
    if (buffer.length === PIECE_BYTES && this.#free.length < KEPT_BUFFERS) this.#free.push(buffer);
  }
}
