/**
 * Reading text files: a plain .txt as one text, .jsonl and .jsonl.gz as documents that are fetched one at a time.
 *
 * Plain text is read as Python's text mode reads it, because the papers' code is Python: UTF-8, and "\r\n" and "\r"
 * become "\n". Documents keep the line ends of their JSON strings.
 */
import { createHash } from "node:crypto";

import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { CalibrationError, PruneError } from "../errors.js";
import type { OpenFile, Stats } from "../files/door.js";
import { fileErrorCode } from "../files/file-errors.js";
import * as temporary from "../files/temporary-files.js";
import { open, readFileSync, readPieces, statSync } from "../files/text-files.js";

/** Largest plain text: beyond it a file of documents or of token ids is the right form. */
const LARGEST_TEXT_BYTES = 256 * 1024 * 1024;

export interface PlainText {
  readonly text: string;
  /** Of the file's bytes. */
  readonly sha256: string;
}

/** @throws CalibrationError when the file is missing, empty, too large, or not UTF-8 */
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
  const bytes = readFileSync(file);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new CalibrationError("E_TEXT_ENCODING", `${file}: is not valid UTF-8.`, {
      hint: "Convert it, for example with iconv.",
      details: { file },
      cause,
    });
  }
  return { text: text.replace(/\r\n?/g, "\n"), sha256: createHash("sha256").update(bytes).digest("hex") };
}

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
    sizeOfFile(file);
    const purpose = `the unpacked text of ${file}`;
    const scratch = file.endsWith(".gz") ? await temporary.makeTemporaryDirectory("documents", purpose) : undefined;
    try {
      await checkRoomToUnpack(file);
      const plain = scratch === undefined ? file : join(scratch, "documents.jsonl");
      if (scratch !== undefined) await unpack(file, plain);
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
    return (JSON.parse(line.toString("utf8")) as { text: string }).text;
  }

  async close(): Promise<void> {
    await this.#handle.close();
    if (this.#scratch !== undefined) await temporary.rm(this.#scratch, { recursive: true, force: true });
  }
}

/**
 * Whether a .gz can be unpacked, by the length that it ends with; it has none of several parts or of 4 GiB and more, and is
 * then only known to take more than it does packed.
 * @throws ResourceError E_DISK_FULL, E_TEMPORARY_DIRECTORY
 */
export async function checkRoomToUnpack(file: string): Promise<void> {
  if (!file.endsWith(".gz")) return;
  const sizeBytes = sizeOfFile(file);
  const end = Buffer.alloc(4);
  const handle = await open(file);
  try {
    await handle.read(end, 0, 4, Math.max(0, sizeBytes - 4));
  } finally {
    await handle.close();
  }
  const neededBytes = Math.max(sizeBytes, end.readUInt32LE());
  await temporary.requireTemporaryRoom(neededBytes, `the unpacked text of ${file}`);
}

async function unpack(file: string, target: string): Promise<void> {
  const unpacked = await temporary.open(target, "w");
  try {
    await pipeline(readPieces(file), createGunzip(), async (pieces: AsyncIterable<Buffer>) => {
      for await (const piece of pieces) await unpacked.writeFile(piece);
    });
  } catch (cause) {
    if (cause instanceof PruneError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CalibrationError("E_TEXT_GZIP", `${file}: cannot be unpacked: ${reason}.`, { details: { file }, cause });
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
    const text = line.toString("utf8");
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
  }
  if (rest.length > 0) take(Buffer.concat(rest));
  return index;
}

function checkDocument(line: string, file: string, lineNumber: number): void {
  const hint = `Every line must be a JSON object with a string "text".`;
  const details = { file, line: lineNumber };
  let value: unknown;
  try {
    value = JSON.parse(line);
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
}

async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of readPieces(file)) hash.update(piece);
  return hash.digest("hex");
}
