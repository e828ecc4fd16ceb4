/** How long a compressed file of texts is unpacked, and how long it may be. */
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { PruneError } from "../errors.js";
import { readPieces } from "../files/text-files.js";
import { readSome } from "./source-file.js";

/**
 * How many times its stored size a file may have unpacked: texts have 3 to 10, what is made to fill a disk 1000. Small ones
 * may repeat themselves more often.
 */
const LARGEST_RATIO = 200;
const SMALL_UNPACKED_BYTES = 64 * 1024 * 1024;

export const TOO_MUCH_UNPACKED = `it is over ${LARGEST_RATIO} times as long unpacked as it is stored`;

export function mostUnpacked(sizeBytes: number): number {
  return Math.max(SMALL_UNPACKED_BYTES, LARGEST_RATIO * sizeBytes);
}

/**
 * How long a gzipped file is unpacked: of one part, by the length that it ends with; else by unpacking it once, keeping nothing.
 * Where it is broken or longer than it may be, unpacking it for good will say so.
 */
export async function unpackedBytes(file: string, sizeBytes: number): Promise<number> {
  const end = Buffer.alloc(4); // of what has fewer bytes, zeros after them
  end.set(await readSome(file, 4, Math.max(0, sizeBytes - 4)));
  const said = end.readUInt32LE();
  if (said >= sizeBytes && !(await mayHaveParts(file))) return said;
  let length = 0;
  const limitBytes = mostUnpacked(sizeBytes);
  try {
    await pipeline(readPieces(file), createGunzip(), async (pieces: AsyncIterable<Buffer>) => {
      for await (const piece of pieces) if ((length += piece.length) > limitBytes) break;
    });
  } catch (error) {
    if (error instanceof PruneError) throw error;
  }
  return Math.max(sizeBytes, length);
}

/** How parts of gzip begin: two bytes that say what it is, and the only method there is. */
const PART = Buffer.of(0x1f, 0x8b, 0x08);

/** Whether anything behind the file's beginning looks like the beginning of a part. */
async function mayHaveParts(file: string): Promise<boolean> {
  let rest = Buffer.alloc(0);
  let isFirst = true;
  for await (const piece of readPieces(file)) {
    const seen = Buffer.concat([rest, piece]);
    if (seen.indexOf(PART, isFirst ? 1 : 0) !== -1) return true;
    isFirst = false;
    rest = seen.subarray(-2);
  }
  return false;
}
