/**
 * Reading plain texts, compressed or not, as Python's text mode reads them, because the papers' code is Python: UTF-8, and
 * "\r\n" and "\r" become "\n". A byte order mark is skipped, and what is not UTF-8 refused. Documents are documents.ts's.
 */
import { createHash } from "node:crypto";
import { CalibrationError } from "../errors.js";
import { readFileSync } from "../files/text-files.js";
import { compressionOf, sizeOfFile, unpackingProblem, unpackWhole, type Compression } from "./source-file.js";
import { mostUnpacked, TOO_MUCH_UNPACKED } from "./unpacked-size.js";

/** Largest plain text: beyond it a file of documents or of token ids is the right form. */
const LARGEST_TEXT_BYTES = 256 * 1024 * 1024;

export interface PlainText {
  readonly text: string;
  /** Of the file's bytes. */
  readonly sha256: string;
}

/** @throws CalibrationError when the file is missing, empty, too large, broken, or not UTF-8 (which names the line) */
export function readPlainText(file: string): PlainText {
  const sizeBytes = sizeOfFile(file);
  if (sizeBytes > LARGEST_TEXT_BYTES) {
    throw new CalibrationError(
      "E_TEXT_TOO_LONG",
      `${file}: ${sizeBytes} bytes; a plain text may have ${LARGEST_TEXT_BYTES}.`,
      {
        hint: "Pass a part of it, a file of documents (JSON lines, Parquet), or token ids in a .safetensors file.",
        details: { file, sizeBytes, limitBytes: LARGEST_TEXT_BYTES },
      },
    );
  }
  const stored = readFileSync(file);
  const compression = compressionOf(file, stored);
  const bytes = compression === undefined ? stored : unpackText(compression, stored, file);
  const text = decodeStrictly(bytes);
  if (text === undefined) throw badEncoding(`${file}:${firstBadLine(bytes)}`, bytes);
  return { text: text.replace(/\r\n?/g, "\n"), sha256: createHash("sha256").update(stored).digest("hex") };
}

function unpackText(compression: Compression, stored: Uint8Array, file: string): Uint8Array {
  const limitBytes = mostUnpacked(stored.length);
  try {
    return unpackWhole(compression, stored, file, Math.min(LARGEST_TEXT_BYTES, limitBytes));
  } catch (error) {
    const isTooLong = error instanceof CalibrationError && error.cause instanceof RangeError;
    if (!isTooLong || limitBytes >= LARGEST_TEXT_BYTES) throw error;
    throw unpackingProblem(compression, file, new Error(TOO_MUCH_UNPACKED));
  }
}

/** Without its byte order mark; undefined where it is not UTF-8. */
export function decodeStrictly(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    if (cause instanceof TypeError) return undefined;
    throw cause;
  }
}

/** The number, from 1, of the first line that is not UTF-8: no character of it spans lines. */
function firstBadLine(bytes: Uint8Array): number {
  let line = 1;
  for (let start = 0, end = 0; end !== -1; start = end + 1, line++) {
    end = bytes.indexOf(10, start);
    if (decodeStrictly(bytes.subarray(start, end === -1 ? bytes.length : end)) === undefined) return line;
  }
  return line;
}

/**
 * @param where file and place, in messages
 * @param start of the bytes that are no UTF-8
 */
export function badEncoding(where: string, start: Uint8Array): CalibrationError {
  const isUtf16 = (start[0] === 0xff && start[1] === 0xfe) || (start[0] === 0xfe && start[1] === 0xff);
  return new CalibrationError("E_TEXT_ENCODING", `${where}: is not valid UTF-8${isUtf16 ? " but UTF-16" : ""}.`, {
    hint: `Convert it, for example with iconv${isUtf16 ? " -f utf-16 -t utf-8" : ""}.`,
    details: { where },
  });
}
