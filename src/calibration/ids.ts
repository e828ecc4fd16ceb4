/** Small helpers over arrays of token ids. */
import { createHash } from "node:crypto";

export function concatenateIds(pieces: readonly Int32Array[]): Int32Array {
  const all = new Int32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    all.set(piece, offset);
    offset += piece.length;
  }
  return all;
}

/** sha256 of the ids in order as int32, little-endian (the byte order of every platform our addons are built for). */
export function hashIds(sequences: readonly Int32Array[]): string {
  const hash = createHash("sha256");
  for (const { buffer, byteOffset, byteLength } of sequences)
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  return hash.digest("hex");
}
