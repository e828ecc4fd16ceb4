/** What kind of data a file of text or token ids holds. Content decides; the name where content leaves it open. */
import type { TokenSource } from "../contract.js";
import { FOREIGN_HEAD_BYTES, recogniseForeign } from "../checkpoint/foreign-file.js";
import { CalibrationError } from "../errors.js";
import { isRecord } from "../is-record.js";
import {
  compressionOf,
  createUnpacker,
  readSome,
  sizeOfFile,
  unpackingProblem,
  type Compression,
} from "./source-file.js";

/** "lines": a JSON object per line; "array": one JSON array; both, and "parquet", are records of which each is a document. */
export type SourceKind = "text" | "lines" | "array" | "parquet" | "ids";

/** How much of a file is looked at. */
const HEAD_BYTES = 1 << 16;

/** Names of records, whatever their first line is. */
const RECORD_NAMES = /\.(?:jsonl|ndjson|json)$/;
/** Names of texts, whatever is in them. */
const TEXT_NAMES = /\.(?:txt|md|raw)$/;
/** Text as far as bytes can say, which nobody means to calibrate on as it is. */
const TABLE_NAMES = /\.(?:csv|tsv)$/;

/**
 * - "ids": a safetensors header;
 * - "parquet": Parquet's four letters;
 * - "array": a [ that a JSON value follows; "lines": a first line that is a JSON object, or a name that ends in .jsonl, .ndjson or .json;
 * - "text": whatever else is text: UTF-8 without control characters.
 *
 * Endings in any case, with or without .gz or .zst; whether a file is compressed its first bytes say.
 * @throws CalibrationError when the file is missing, empty, or another kind of file (E_TEXT_EXTENSION, which names it)
 */
export async function kindOf(file: string): Promise<SourceKind> {
  const size = sizeOfFile(file);
  const stored = await readSome(file, HEAD_BYTES);
  if (isSafetensors(stored, size)) return "ids";
  const name = file.toLowerCase().replace(/\.(?:gz|zst)$/, "");
  if (name.endsWith(".safetensors")) return "ids"; // its reader says what is wrong with it
  const compression = compressionOf(file, stored);
  const head = compression === undefined ? stored : await unpackHead(compression, stored, file);
  if (startsWithText(head, "PAR1")) {
    if (compression === undefined) return "parquet";
    throw unknownKind(file, "a compressed Parquet file", "Unpack it first: its columns are compressed by themselves.");
  }
  const foreign = recogniseForeign(head.subarray(0, FOREIGN_HEAD_BYTES));
  if (foreign !== undefined) throw unknownKind(file, foreign.what, foreign.hint);
  const text = decode(head);
  if (/^\s*\[\s*[[{"\]]/.test(text)) return "array";
  if (RECORD_NAMES.test(name) || beginsWithObject(text)) return "lines";
  if (TEXT_NAMES.test(name) || (!TABLE_NAMES.test(name) && isText(head, text))) return "text";
  throw new CalibrationError("E_TEXT_EXTENSION", `${file}: unknown kind of file.`, {
    hint: "Use text, JSON lines or an array of records (gzipped or not), Parquet, or .safetensors (integer token ids [sequences, tokens]).",
    details: { file },
  });
}

/**
 * What a source's file holds.
 * @throws CalibrationError as `kindOf`, and E_TOKEN_SOURCE where a tensor is named of a file that has none
 */
export async function kindOfSource({ file, tensor }: TokenSource): Promise<SourceKind> {
  const kind = await kindOf(file);
  if (tensor === undefined || kind === "ids") return kind;
  throw new CalibrationError("E_TOKEN_SOURCE", `${file}#${tensor}: the file holds ${kind}, not tensors of token ids.`, {
    hint: `Leave #${tensor} out.`,
    details: { file, tensor, kind },
  });
}

function unknownKind(file: string, found: string, hint: string): CalibrationError {
  return new CalibrationError("E_TEXT_EXTENSION", `${file}: is ${found}.`, { hint, details: { file, found } });
}

function startsWithText(bytes: Uint8Array, text: string): boolean {
  return Buffer.from(bytes.subarray(0, text.length)).toString("latin1") === text;
}

/** A length that fits into the file, and an object after it. */
function isSafetensors(head: Uint8Array, size: number): boolean {
  if (head.length < 10 || head[8] !== 0x7b) return false;
  return new DataView(head.buffer, head.byteOffset).getBigUint64(0, true) <= BigInt(size - 8);
}

/** As far as the stored head goes. */
async function unpackHead(compression: Compression, stored: Uint8Array, file: string): Promise<Uint8Array> {
  const unpacker = createUnpacker(compression, file);
  const pieces: Buffer[] = [];
  unpacker.on("data", (piece: Buffer) => pieces.push(piece));
  await new Promise<void>((resolve, reject) => {
    unpacker.once("error", (cause) => reject(unpackingProblem(compression, file, cause)));
    unpacker.write(stored, () => resolve());
  });
  unpacker.destroy();
  return Buffer.concat(pieces).subarray(0, HEAD_BYTES);
}

/** What was cut off at the end does not matter here. */
function decode(head: Uint8Array): string {
  return new TextDecoder("utf-8").decode(head);
}

function beginsWithObject(text: string): boolean {
  const [line = ""] = text.trimStart().split("\n", 1);
  if (!line.startsWith("{")) return false;
  if (line.length === text.trimStart().length) return /^\{\s*"/.test(line); // longer than what was looked at
  try {
    return isRecord(JSON.parse(line));
  } catch {
    return false;
  }
}

/** No control characters but those of lines and pages. What is not UTF-8, UTF-16 among it, the reader of texts refuses. */
function isText(head: Uint8Array, text: string): boolean {
  if ((head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff)) return true;
  return !/[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/.test(text);
}
