/** Token ids stored as an integer tensor [sequences, tokens] of one .safetensors file. */
import type { OpenFile } from "../files/door.js";
import { open } from "../files/text-files.js";
import { bytesPerElement } from "../checkpoint/dtype.js";
import { FOREIGN_HEAD_BYTES, refusalOfForeign } from "../checkpoint/foreign-file.js";
import { parseHeader, parseHeaderLength, type SafetensorsHeader, type TensorEntry } from "../checkpoint/header.js";
import type { TokenSource } from "../contract.js";
import { CalibrationError } from "../errors.js";
import { sizeOfFile } from "./source-file.js";
import { kindOfSource } from "./source-kind.js";

export interface TokenTensor {
  readonly name: string;
  /** [sequences][tokens] */
  readonly rows: readonly Int32Array[];
  readonly columns: number;
}

const INTEGER_DTYPES: readonly string[] = ["I32", "I64", "U16", "U32"];
/** A gigabyte of ids is a quarter of a billion tokens: more than any calibration or evaluation set of the field. */
const LARGEST_TENSOR_BYTES = 2 ** 30;

/**
 * @throws CalibrationError when the named tensor is missing, there are several to choose from, or its dtype or shape
 *   is wrong; CheckpointError when the file is no safetensors file
 */
export async function readTokenTensor(source: TokenSource): Promise<TokenTensor> {
  const { file } = source;
  const sizeBytes = sizeOfFile(file);
  const handle = await open(file);
  try {
    const header = await readHeader(handle, file, sizeBytes);
    const entry = chooseTensor(source, header);
    const [sequences = 0, columns = 0] = entry.shape;
    const bytes = await readBytes(handle, header.dataOffset + entry.begin, entry.end - entry.begin);
    const ids = toIds(bytes, entry, file, columns);
    const rows = Array.from({ length: sequences }, (_, row) => ids.subarray(row * columns, (row + 1) * columns));
    return { name: entry.name, rows, columns };
  } finally {
    await handle.close();
  }
}

/**
 * How many tokens a stored row has, from the file's header alone; undefined for text and documents.
 * @throws as `readTokenTensor` and `kindOfSource`
 */
export async function tokenRowLength(source: TokenSource): Promise<number | undefined> {
  const { file } = source;
  if ((await kindOfSource(source)) !== "ids") return undefined;
  const sizeBytes = sizeOfFile(file);
  const handle = await open(file);
  try {
    const [, columns = 0] = chooseTensor(source, await readHeader(handle, file, sizeBytes)).shape;
    return columns;
  } finally {
    await handle.close();
  }
}

async function readHeader(handle: OpenFile, file: string, sizeBytes: number): Promise<SafetensorsHeader> {
  const head = await readBytes(handle, 0, Math.min(FOREIGN_HEAD_BYTES, sizeBytes));
  try {
    const headerBytes = parseHeaderLength(head.subarray(0, 8), file, sizeBytes);
    return parseHeader(await readBytes(handle, 8, headerBytes), file, sizeBytes);
  } catch (problem) {
    throw refusalOfForeign(file, head) ?? problem;
  }
}

async function readBytes(handle: OpenFile, position: number, length: number): Promise<Uint8Array> {
  // A buffer of its own: small ones from the pool would not be aligned for the views of `toIds`.
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes;
}

function chooseTensor({ file, tensor }: TokenSource, header: SafetensorsHeader): TensorEntry {
  const candidates = header.tensors.filter(isTokenTensor);
  const names = candidates.map(({ name }) => name);
  const list = names.length === 0 ? "it has none" : `it has ${names.join(", ")}`;
  const expected = `an integer tensor (${INTEGER_DTYPES.join(", ")}) of shape [sequences, tokens]`;
  const hint =
    names.length === 0 ? "Store the token ids with safetensors as int32." : `Name one of them: ${file}#${names[0]}.`;
  const details = { file, tensor: tensor ?? null, candidates: names };
  if (tensor !== undefined) {
    const named = header.tensors.find(({ name }) => name === tensor);
    if (named === undefined)
      throw new CalibrationError("E_TOKEN_TENSOR", `${file}: no tensor "${tensor}"; ${list}.`, { hint, details });
    if (!isTokenTensor(named)) {
      const actual = `${named.dtype} [${named.shape.join(", ")}]`;
      throw new CalibrationError("E_TOKEN_TENSOR", `${file}#${tensor}: is ${actual}; expected ${expected}.`, {
        hint,
        details,
      });
    }
    return withinLimit(named, file);
  }
  const [only] = candidates;
  if (only === undefined)
    throw new CalibrationError("E_TOKEN_TENSOR", `${file}: expected ${expected}; ${list}.`, { hint, details });
  if (candidates.length > 1) {
    throw new CalibrationError(
      "E_TOKEN_TENSOR",
      `${file}: ${candidates.length} tensors of token ids: ${names.join(", ")}.`,
      { hint, details },
    );
  }
  return withinLimit(only, file);
}

function isTokenTensor({ dtype, shape }: TensorEntry): boolean {
  return INTEGER_DTYPES.includes(dtype) && shape.length === 2 && shape.every((size) => size > 0);
}

function withinLimit(entry: TensorEntry, file: string): TensorEntry {
  const sizeBytes = entry.end - entry.begin;
  if (sizeBytes <= LARGEST_TENSOR_BYTES) return entry;
  throw new CalibrationError(
    "E_TOKEN_TENSOR",
    `${file}#${entry.name}: ${sizeBytes} bytes; at most ${LARGEST_TENSOR_BYTES} are read.`,
    {
      hint: "Store fewer sequences.",
      details: { file, tensor: entry.name, sizeBytes },
    },
  );
}

/** As int32; a value beyond it is reported as an id that no vocabulary has. */
function toIds(bytes: Uint8Array, { dtype, name }: TensorEntry, file: string, columns: number): Int32Array {
  const length = bytes.byteLength / (bytesPerElement(dtype) ?? 1);
  if (dtype === "I32") return new Int32Array(bytes.buffer, 0, length);
  if (dtype === "U16") return Int32Array.from(new Uint16Array(bytes.buffer, 0, length));
  const wide = dtype === "U32" ? new Uint32Array(bytes.buffer, 0, length) : new BigInt64Array(bytes.buffer, 0, length);
  const ids = new Int32Array(length);
  for (let i = 0; i < length; i++) {
    const value = Number(wide[i]);
    ids[i] = value;
    if (ids[i] === value) continue;
    const row = Math.floor(i / columns);
    throw new CalibrationError(
      "E_TOKEN_ID",
      `${file}#${name}: token id ${wide[i]} at sequence ${row}, position ${i % columns} is outside every vocabulary.`,
      {
        hint: "Use the ids of this model's tokenizer.",
        details: { file, tensor: name, value: String(wide[i]), sequence: row, position: i % columns },
      },
    );
  }
  return ids;
}
