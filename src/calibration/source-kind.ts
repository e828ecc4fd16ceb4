/** What kind of data a file of text or token ids holds. Content decides; the name where content leaves it open. */
import { constants, gunzipSync } from "node:zlib";
import { recogniseForeign } from "../checkpoint/foreign-file.js";
import { CalibrationError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { gzipProblem, isCompressed, readSome, sizeOfFile } from "./source-file.js";

export type SourceKind = "text" | "documents" | "ids";

/** How much of a file is looked at. */
const HEAD_BYTES = 1 << 16;

/**
 * - "ids": a safetensors header;
 * - "text": a name that ends in .txt;
 * - "documents": a name that ends in .jsonl, .ndjson or .json, or lines of which the first is a JSON object.
 *
 * Endings in any case, with or without .gz; whether a file is compressed its first bytes say.
 * @throws CalibrationError when the file is missing, empty, or another kind of file (E_TEXT_EXTENSION, which names it)
 */
export async function kindOf(file: string): Promise<SourceKind> {
  const size = sizeOfFile(file);
  const stored = await readSome(file, HEAD_BYTES);
  if (isSafetensors(stored, size)) return "ids";
  const name = file.toLowerCase().replace(/\.gz$/, "");
  if (name.endsWith(".safetensors")) return "ids"; // its reader says what is wrong with it
  const head = isCompressed(file, stored) ? unpackHead(stored, file) : stored;
  const foreign = recogniseForeign(head);
  if (foreign !== undefined) {
    throw new CalibrationError("E_TEXT_EXTENSION", `${file}: is ${foreign.what}.`, {
      hint: foreign.hint,
      details: { file, found: foreign.what },
    });
  }
  if (name.endsWith(".txt")) return "text";
  if (/\.(?:jsonl|ndjson|json)$/.test(name)) {
    if (/^(?:\u{feff})?\s*\[/u.test(decode(head))) throw asArray(file);
    return "documents";
  }
  if (beginsWithObject(decode(head))) return "documents";
  throw new CalibrationError("E_TEXT_EXTENSION", `${file}: unknown kind of file.`, {
    hint: `Use .txt, .jsonl (one {"text": …} per line), either of them gzipped or not, or .safetensors (integer token ids [sequences, tokens]).`,
    details: { file },
  });
}

/** A length that fits into the file, and an object after it. */
function isSafetensors(head: Uint8Array, size: number): boolean {
  if (head.length < 10 || head[8] !== 0x7b) return false;
  return new DataView(head.buffer, head.byteOffset).getBigUint64(0, true) <= BigInt(size - 8);
}

function unpackHead(head: Uint8Array, file: string): Uint8Array {
  try {
    return gunzipSync(head, { finishFlush: constants.Z_SYNC_FLUSH });
  } catch (cause) {
    throw gzipProblem(file, cause);
  }
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

function asArray(file: string): CalibrationError {
  return new CalibrationError("E_TEXT_JSON", `${file}: is one JSON array; expected an object with "text" per line.`, {
    hint: "Write it as JSON lines, for example with `jq -c '.[]'`.",
    details: { file },
  });
}
