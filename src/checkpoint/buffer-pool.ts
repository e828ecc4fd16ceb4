/** Reusable piece buffers: fresh ones would cost a page fault per 4 KiB on every tensor. */

/** Bytes converted at a time, a multiple of every element size; larger pieces gained nothing (measured 256 KiB to 8 MiB). */
export const PIECE_BYTES = 1 << 22;

/** Buffers kept for reuse; more than this only while more reads run at once. */
const KEPT_BUFFERS = 8;

export class BufferPool {
  readonly #free: Uint8Array[] = [];

  /** A buffer of PIECE_BYTES with unspecified content. */
  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(PIECE_BYTES);
  }

  give(buffer: Uint8Array): void {
    if (this.#free.length < KEPT_BUFFERS) this.#free.push(buffer);
  }
}
