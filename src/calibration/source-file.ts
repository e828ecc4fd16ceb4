/** The first look at a file of text or token ids: is it there, how does it begin, is it compressed. */
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

function statusOf(file: string): Stats | undefined {
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

/** As the first bytes say; else a name that ends in .gz is believed, except of what are JSON lines as they are. */
export function isCompressed(file: string, head: Uint8Array): boolean {
  if (head[0] === 0x1f && head[1] === 0x8b) return true;
  const start = Buffer.from(head.subarray(0, 64)).toString("utf8");
  return /\.gz$/i.test(file) && !/^\s*\{/.test(start);
}

export function gzipProblem(file: string, cause: unknown): CalibrationError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new CalibrationError("E_TEXT_GZIP", `${file}: cannot be unpacked: ${reason}.`, {
    hint: "The download may be incomplete: get the file again.",
    details: { file },
    cause,
  });
}
