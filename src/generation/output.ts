/** Writing generated sequences: as token ids that `--calibration` reads, or as text. */
import { existsSync, statSync } from "../files/request-files.js";
import { syncDirectory } from "../files/durable.js";
import { open, rename, rm, writeFile } from "../files/generated-files.js";
import { dirname } from "node:path";
import { encodeHeader } from "../checkpoint/header.js";
import { UsageError } from "../errors.js";

/** The tensor's name in the file. */
const TENSOR = "ids";

/**
 * Whether a file may be written, asked before any work. Its directory is there.
 * @throws UsageError E_OUTPUT_EXISTS
 */
export function checkOutputFile(file: string, force: boolean): void {
  if (!existsSync(file)) return;
  const isFile = statSync(file).isFile();
  if (isFile && force) return;
  const problem = isFile ? "exists; it is never overwritten unasked" : "is not a file";
  throw new UsageError("E_OUTPUT_EXISTS", `--out: ${file} ${problem}.`, {
    hint: isFile ? "Choose another --out, or replace it with --force." : "Choose another --out.",
    details: { out: file },
  });
}

/** Rows of equal length as one I32 tensor [rows, tokens]. */
export function encodeRows(rows: readonly Int32Array[]): Uint8Array {
  const byteLength = rows.reduce((sum, row) => sum + row.byteLength, 0);
  const shape = [rows.length, rows[0]?.length ?? 0];
  const { bytes } = encodeHeader([{ name: TENSOR, dtype: "I32", shape, byteLength }]);
  return Buffer.concat([
    bytes,
    ...rows.map(({ buffer, byteOffset, byteLength: size }) => new Uint8Array(buffer, byteOffset, size)),
  ]);
}

/** One {"text": …} per line. */
export function encodeDocuments(texts: readonly string[]): Uint8Array {
  return Buffer.from(texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
}

/** One text after the other. */
export function encodeText(texts: readonly string[]): Uint8Array {
  return Buffer.from(texts.map((text) => `${text}\n`).join(""));
}

/** The file is there whole or not at all. */
export async function writeWhole(file: string, bytes: Uint8Array): Promise<void> {
  const partial = `${file}.partial`;
  try {
    await writeFile(partial, bytes, { flush: true });
    await rename(partial, file);
    await syncDirectory({ open }, dirname(file));
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}
