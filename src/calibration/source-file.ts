/** The first look at a file of text or token ids: is it there, how does it begin, is it compressed. */
import * as zlib from "node:zlib";
import type { Transform } from "node:stream";
import { CalibrationError } from "../errors.js";
import type { Stats } from "../files/door.js";
import { fileErrorCode } from "../files/file-errors.js";
import { open, statSync } from "../files/text-files.js";

/** Size of an existing, non-empty, regular file. */
export function sizeOfFile(file: string): number {
  const status = statusOf(file);
  if (status === undefined)
    throw new CalibrationError("E_TEXT_MISSING", `${file}: no such file.`, { details: { file } });
  if (!status.isFile()) throw new CalibrationError("E_TEXT_MISSING", `${file}: is not a file.`, { details: { file } });
  if (status.size === 0) throw new CalibrationError("E_TEXT_EMPTY", `${file}: is empty.`, { details: { file } });
  return status.size;
}

/** undefined where there is nothing. */
export function statusOf(file: string): Stats | undefined {
  try {
    return statSync(file);
  } catch (error) {
    if (fileErrorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** The first bytes of a file, or those from a position on, as stored; fewer where it is shorter. */
export async function readSome(file: string, bytes: number, position = 0): Promise<Uint8Array> {
  const some = new Uint8Array(bytes);
  const handle = await open(file);
  try {
    const { bytesRead } = await handle.read(some, 0, bytes, position);
    return some.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

export type Compression = "gzip" | "zstd";

/** As the first bytes say; else a name that ends in .gz is believed, except of what are JSON lines as they are. */
export function compressionOf(file: string, head: Uint8Array): Compression | undefined {
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head[0] === 0x28 && head[1] === 0xb5 && head[2] === 0x2f && head[3] === 0xfd) return "zstd";
  const start = Buffer.from(head.subarray(0, 64)).toString("utf8");
  return /\.gz$/i.test(file) && !/^\s*[[{]/.test(start) ? "gzip" : undefined;
}

type Unpack = (bytes: Uint8Array, options?: { readonly maxOutputLength?: number }) => Buffer;

/** What this Node has for zstd; declared in the types of later ones only. */
interface Zstd {
  readonly createZstdDecompress?: () => Transform;
  readonly zstdDecompressSync?: Unpack;
}

const zstd = zlib as Zstd;

function zstdMissing(file: string): CalibrationError {
  return new CalibrationError(
    "E_TEXT_ZSTD",
    `${file}: is compressed with zstd, which this Node (${process.versions.node}) cannot unpack.`,
    { hint: "Use Node 22.15 or newer, or unpack it first: zstd -d FILE.", details: { file } },
  );
}

/** @throws CalibrationError E_TEXT_ZSTD where Node has no such function */
export function createUnpacker(compression: Compression, file: string): Transform {
  if (compression === "gzip") return zlib.createGunzip();
  if (zstd.createZstdDecompress === undefined) throw zstdMissing(file);
  return zstd.createZstdDecompress();
}

/** All of it. @throws CalibrationError E_TEXT_GZIP, E_TEXT_ZSTD */
export function unpackWhole(
  compression: Compression,
  bytes: Uint8Array,
  file: string,
  maxOutputLength: number,
): Buffer {
  if (compression === "zstd") expectZstd(file);
  try {
    return compression === "gzip"
      ? zlib.gunzipSync(bytes, { maxOutputLength })
      : (zstd.zstdDecompressSync as Unpack)(bytes, { maxOutputLength });
  } catch (cause) {
    throw unpackingProblem(compression, file, cause);
  }
}

/** @throws CalibrationError E_TEXT_ZSTD where Node has no such function */
export function expectZstd(file: string): void {
  if (zstd.zstdDecompressSync === undefined) throw zstdMissing(file);
}

/** A page of a Parquet file, of which `expectZstd` was asked before. */
export function unpackZstdPage(page: Uint8Array): Uint8Array {
  return (zstd.zstdDecompressSync as Unpack)(page);
}

export function unpackingProblem(compression: Compression, file: string, cause: unknown): CalibrationError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new CalibrationError(
    compression === "gzip" ? "E_TEXT_GZIP" : "E_TEXT_ZSTD",
    `${file}: cannot be unpacked: ${reason}.`,
    { hint: "The download may be incomplete: get the file again.", details: { file }, cause },
  );
}
