/**
 * Reading text files: plain text as one, JSON lines as documents that are fetched one at a time; either may be gzipped.
 *
 * Plain text is read as Python's text mode reads it, because the papers' code is Python: UTF-8, and "\r\n" and "\r"
 * become "\n". Documents keep the line ends of their JSON strings. A byte order mark is skipped, and what is not UTF-8 refused,
 * in both.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip, gunzipSync } from "node:zlib";
import { CalibrationError, PruneError } from "../errors.js";
import type { OpenFile } from "../files/door.js";
import * as temporary from "../files/temporary-files.js";
import { open, readFileSync, readPieces } from "../files/text-files.js";
import { parseJson } from "../json.js";
import { gzipProblem, isCompressed, readSome, sizeOfFile } from "./source-file.js";

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
        hint: "Pass a part of it, a .jsonl file of documents, or token ids in a .safetensors file.",
        details: { file, sizeBytes, limitBytes: LARGEST_TEXT_BYTES },
      },
    );
  }
  const stored = readFileSync(file);
  const bytes = isCompressed(file, stored) ? unpackText(stored, file) : stored;
  const text = decodeStrictly(bytes);
  if (text === undefined) throw badEncoding(file, bytes, firstBadLine(bytes));
  return { text: text.replace(/\r\n?/g, "\n"), sha256: createHash("sha256").update(stored).digest("hex") };
}

function unpackText(stored: Uint8Array, file: string): Uint8Array {
  try {
    return gunzipSync(stored, { maxOutputLength: LARGEST_TEXT_BYTES });
  } catch (cause) {
    throw gzipProblem(file, cause);
  }
}

/** Without its byte order mark; undefined where it is not UTF-8. */
function decodeStrictly(bytes: Uint8Array): string | undefined {
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

function badEncoding(file: string, start: Uint8Array, line: number): CalibrationError {
  const isUtf16 = (start[0] === 0xff && start[1] === 0xfe) || (start[0] === 0xfe && start[1] === 0xff);
  return new CalibrationError(
    "E_TEXT_ENCODING",
    `${file}:${line}: is not valid UTF-8${isUtf16 ? " but UTF-16" : ""}.`,
    {
      hint: `Convert it, for example with iconv${isUtf16 ? " -f utf-16 -t utf-8" : ""}.`,
      details: { file, line },
    },
  );
}

/** A .jsonl file whose lines were all checked; documents are read from disk when asked for. */
export class DocumentFile {
  readonly count: number;
  /** Of the file's bytes as given (compressed, if it is). */
  readonly sha256: string;
  readonly #handle: OpenFile;
  /** Byte offset and length of every document's line. */
  readonly #starts: readonly number[];
  readonly #lengths: readonly number[];
  readonly #scratch: string | undefined;

  private constructor(handle: OpenFile, index: LineIndex, sha256: string, scratch: string | undefined) {
    this.#handle = handle;
    this.#starts = index.starts;
    this.#lengths = index.lengths;
    this.count = index.starts.length;
    this.sha256 = sha256;
    this.#scratch = scratch;
  }

  /**
   * Open `file`; a .gz is unpacked into a temporary file, because documents are drawn in random order.
   * @throws CalibrationError naming the first line that is not a JSON object with a string `text`
   */
  static async open(file: string): Promise<DocumentFile> {
    const size = sizeOfFile(file);
    const purpose = `the unpacked text of ${file}`;
    const scratch = isCompressed(file, await readSome(file, 64))
      ? await temporary.makeTemporaryDirectory("documents", purpose)
      : undefined;
    try {
      if (scratch !== undefined) await checkRoomToUnpack(file);
      const plain = scratch === undefined ? file : join(scratch, "documents.jsonl");
      if (scratch !== undefined) await unpack(file, plain, size);
      const index = await indexLines(plain, file);
      if (index.starts.length === 0)
        throw new CalibrationError("E_TEXT_EMPTY", `${file}: holds no documents.`, { details: { file } });
      return new DocumentFile(await open(plain), index, await hashFile(file), scratch);
    } catch (error) {
      if (scratch === undefined) throw error;
      await temporary.rm(scratch, { recursive: true, force: true });
      throw temporary.inTemporaryDirectory(error, scratch, purpose);
    }
  }

  /** The `text` of one document. */
  async read(document: number): Promise<string> {
    const line = Buffer.alloc(this.#lengths[document] ?? 0);
    await this.#handle.read(line, 0, line.length, this.#starts[document] ?? 0);
    return (parseJson(line.toString("utf8")) as { text: string }).text;
  }

  async close(): Promise<void> {
    await this.#handle.close();
    if (this.#scratch !== undefined) await temporary.rm(this.#scratch, { recursive: true, force: true });
  }
}

/**
 * Whether a file that is gzipped can be unpacked, by the length that it ends with; it has none of several parts or of
 * 4 GiB and more, and is then only known to take more than it does packed.
 * @throws ResourceError E_DISK_FULL, E_TEMPORARY_DIRECTORY
 */
export async function checkRoomToUnpack(file: string): Promise<void> {
  const sizeBytes = sizeOfFile(file);
  if (!isCompressed(file, await readSome(file, 64))) return;
  const end = Buffer.alloc(4); // of what has fewer bytes, zeros after them
  end.set(await readSome(file, 4, Math.max(0, sizeBytes - 4)));
  const neededBytes = Math.max(sizeBytes, end.readUInt32LE());
  await temporary.requireTemporaryRoom(neededBytes, `the unpacked text of ${file}`);
}

/**
 * How many times its stored size a file may have unpacked: texts have 3 to 10, what is made to fill a disk 1000. Small ones
 * may repeat themselves more often.
 */
const LARGEST_RATIO = 200;
const SMALL_UNPACKED_BYTES = 64 * 1024 * 1024;

async function unpack(file: string, target: string, size: number): Promise<void> {
  const limitBytes = Math.max(SMALL_UNPACKED_BYTES, LARGEST_RATIO * size);
  const unpacked = await temporary.open(target, "w");
  let length = 0;
  try {
    await pipeline(readPieces(file), createGunzip(), async (pieces: AsyncIterable<Buffer>) => {
      for await (const piece of pieces) {
        length += piece.length;
        if (length > limitBytes) throw new Error(`it is over ${LARGEST_RATIO} times as long unpacked as it is stored`);
        await unpacked.writeFile(piece);
      }
    });
  } catch (cause) {
    throw cause instanceof PruneError ? cause : gzipProblem(file, cause);
  } finally {
    await unpacked.close();
  }
}

interface LineIndex {
  readonly starts: number[];
  readonly lengths: number[];
}

/** Check every line and remember where it lies; blank lines are skipped. */
async function indexLines(plain: string, file: string): Promise<LineIndex> {
  const index: LineIndex = { starts: [], lengths: [] };
  let lineNumber = 0;
  let offset = 0;
  const take = (line: Buffer): void => {
    lineNumber += 1;
    const text = decodeStrictly(line);
    if (text === undefined) throw badEncoding(file, line, lineNumber);
    if (text.trim() !== "") {
      checkDocument(text, file, lineNumber);
      index.starts.push(offset);
      index.lengths.push(line.length);
    }
    offset += line.length + 1;
  };
  let rest: Buffer[] = [];
  for await (const chunk of readPieces(plain)) {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      take(Buffer.concat([...rest, chunk.subarray(start, end)]));
      rest = [];
      start = end + 1;
    }
    if (start < chunk.length) rest.push(chunk.subarray(start));
    const length = rest.reduce((sum, piece) => sum + piece.length, 0);
    if (length > LARGEST_DOCUMENT_BYTES) throw lineTooLong(file, lineNumber + 1, length);
  }
  if (rest.length > 0) take(Buffer.concat(rest));
  return index;
}

/** No document that windows are drawn from is longer; a file without line ends would be held whole. */
const LARGEST_DOCUMENT_BYTES = 32 * 1024 * 1024;

function lineTooLong(file: string, line: number, length: number): CalibrationError {
  return new CalibrationError(
    "E_TEXT_TOO_LONG",
    `${file}:${line}: over ${length} bytes in a line; a document may have ${LARGEST_DOCUMENT_BYTES}.`,
    {
      hint: "Cut it into several documents, one per line.",
      details: { file, line, limitBytes: LARGEST_DOCUMENT_BYTES },
    },
  );
}

function checkDocument(line: string, file: string, lineNumber: number): void {
  const hint = `Every line must be a JSON object with a string "text".`;
  const details = { file, line: lineNumber };
  let value: unknown;
  try {
    value = parseJson(line);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CalibrationError("E_TEXT_JSON", `${file}:${lineNumber}: not valid JSON: ${reason}.`, {
      hint,
      details,
      cause,
    });
  }
  if (typeof value !== "object" || value === null || typeof (value as { text?: unknown }).text !== "string") {
    throw new CalibrationError("E_TEXT_JSON", `${file}:${lineNumber}: has no string "text".`, { hint, details });
  }
  if (line.includes("\\u") && /\p{Surrogate}/u.test((value as { text: string }).text)) {
    throw new CalibrationError("E_TEXT_ENCODING", `${file}:${lineNumber}: "text" holds half of a surrogate pair.`, {
      hint: "Such a text has no UTF-8 form, and no token ids: repair or remove it.",
      details,
    });
  }
}

async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of readPieces(file)) hash.update(piece);
  return hash.digest("hex");
}
