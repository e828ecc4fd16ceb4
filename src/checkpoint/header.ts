/**
 * The header of a safetensors file: parsing with every check the format demands, and encoding.
 *
 *   bytes 0..7    u64, little-endian: N
 *   bytes 8..8+N  UTF-8 JSON: { name: { dtype, shape, data_offsets: [begin, end] }, "__metadata__"?: { string: string } }
 *   rest          the data section; tensors tile it without holes or overlaps
 *
 * Headers are hostile input: nothing from them is trusted before it is checked, and every cap is a named constant.
 * Pure: works on bytes in memory and opens no files. A dtype it does not know passes through by its byte range.
 */
import { CheckpointError } from "../errors.js";
import { bytesPerElement } from "./dtype.js";
import { isJsonObject, parseStrictJson, quoteName, StrictJsonError, type StrictJson } from "./strict-json.js";

export interface TensorEntry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Byte range relative to the data section. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of their data. */
  readonly tensors: readonly TensorEntry[];
  readonly metadata: Readonly<Record<string, string>>;
  /** File offset where the data section begins. */
  readonly dataOffset: number;
}

/** The format's own limit on N. */
export const HEADER_SIZE_CAP = 100_000_000;
/** The largest public checkpoints hold about 10^5 tensors in all their shards together. */
export const TENSOR_COUNT_CAP = 1_000_000;
/** PyTorch's limit on dimensions. */
export const RANK_CAP = 64;

const LENGTH_BYTES = 8;
const METADATA_KEY = "__metadata__";
const DOWNLOAD_HINT = "The file is incomplete or damaged: download or copy it again.";
const NOT_SAFETENSORS_HINT = "The file is not a safetensors file or is damaged: download it again or convert it anew.";

/**
 * The header's length N from the first 8 bytes.
 *
 * @param file     name used in errors
 * @param fileSize bytes of the whole file
 * @throws CheckpointError `E_FILE_TRUNCATED` when the file ends before its header does, `E_HEADER_TOO_LARGE` over the
 *   cap, `E_HEADER_INVALID` when no JSON object fits
 */
export function parseHeaderLength(first8: Uint8Array, file: string, fileSize: number): number {
  if (fileSize < LENGTH_BYTES || first8.byteLength < LENGTH_BYTES) {
    throw new CheckpointError(
      "E_FILE_TRUNCATED",
      `${file}: ${fileSize} bytes long; a safetensors file begins with 8 bytes of header length.`,
      {
        hint: DOWNLOAD_HINT,
        details: { file, fileSize },
      },
    );
  }
  const view = new DataView(first8.buffer, first8.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(HEADER_SIZE_CAP)) {
    throw new CheckpointError(
      "E_HEADER_TOO_LARGE",
      `${file}: header length is ${length} bytes; the format allows at most ${HEADER_SIZE_CAP}.`,
      {
        hint: NOT_SAFETENSORS_HINT,
        details: { file, headerBytes: String(length), limit: HEADER_SIZE_CAP },
      },
    );
  }
  const headerBytes = Number(length);
  if (headerBytes < 2) {
    throw invalid(file, `header length is ${headerBytes} bytes; the shortest header is "{}"`);
  }
  if (LENGTH_BYTES + headerBytes > fileSize) {
    throw new CheckpointError(
      "E_FILE_TRUNCATED",
      `${file}: header ends at byte ${LENGTH_BYTES + headerBytes}, but the file at byte ${fileSize}.`,
      {
        hint: DOWNLOAD_HINT,
        details: { file, headerBytes, fileSize },
      },
    );
  }
  return headerBytes;
}

/**
 * Parse and check a header.
 *
 * @param json the N header bytes, without the 8 bytes of length
 * @throws CheckpointError `E_HEADER_INVALID` (not such JSON), `E_HEADER_DUPLICATE` (a key occurs twice),
 *   `E_OFFSETS_INVALID` (reversed, overlapping or leaving bytes unaccounted for), `E_FILE_TRUNCATED` (data beyond the
 *   end of the file), `E_SHAPE_MISMATCH` (shape and dtype do not give the byte count)
 */
export function parseHeader(json: Uint8Array, file: string, fileSize: number): SafetensorsHeader {
  const root = parseRoot(json, file);
  const tensors: TensorEntry[] = [];
  let metadata: Readonly<Record<string, string>> = {};
  for (const [name, value] of root) {
    if (name === METADATA_KEY) metadata = parseMetadata(value, file);
    else tensors.push(parseEntry(name, value, file));
  }
  if (tensors.length > TENSOR_COUNT_CAP) {
    throw invalid(file, `${tensors.length} tensors; at most ${TENSOR_COUNT_CAP} are read from one file`);
  }
  tensors.sort((a, b) => a.begin - b.begin || a.end - b.end);
  const dataOffset = LENGTH_BYTES + json.byteLength;
  checkTiling(tensors, file, fileSize - dataOffset);
  return { tensors, metadata, dataOffset };
}

function invalid(file: string, problem: string, details: Readonly<Record<string, unknown>> = {}): CheckpointError {
  return new CheckpointError("E_HEADER_INVALID", `${file}: ${problem}.`, {
    hint: NOT_SAFETENSORS_HINT,
    details: { file, ...details },
  });
}

function parseRoot(json: Uint8Array, file: string): ReadonlyMap<string, StrictJson> {
  if (json[0] !== 0x7b) throw invalid(file, `header begins with byte ${json[0]}; expected "{"`);
  let root: StrictJson;
  try {
    root = parseStrictJson(json);
  } catch (cause) {
    if (!(cause instanceof StrictJsonError)) throw cause;
    if (cause.duplicateKey === undefined) throw invalid(file, `header is ${cause.message}`);
    throw new CheckpointError("E_HEADER_DUPLICATE", `${file}: header ${cause.message}; every name may occur once.`, {
      hint: NOT_SAFETENSORS_HINT,
      details: { file, key: cause.duplicateKey },
    });
  }
  if (!isJsonObject(root)) throw invalid(file, "header is not a JSON object");
  return root;
}

/** Absent and empty metadata occur in the wild; `null` is what some writers mean by absent. */
function parseMetadata(value: StrictJson, file: string): Readonly<Record<string, string>> {
  if (value === null) return {};
  if (!isJsonObject(value))
    throw invalid(file, `"${METADATA_KEY}" is ${describe(value)}; expected an object of strings`);
  const pairs: [string, string][] = [];
  for (const [key, text] of value) {
    if (typeof text !== "string") {
      throw invalid(file, `"${METADATA_KEY}" key ${quoteName(key)} is ${describe(text)}; expected a string`, { key });
    }
    pairs.push([key, text]);
  }
  return Object.fromEntries(pairs); // defines own properties, also for "__proto__"
}

/** Unknown keys of an entry are ignored, as the reference reader does. */
function parseEntry(name: string, value: StrictJson, file: string): TensorEntry {
  const at = `tensor ${quoteName(name)}`;
  const details = { tensor: name };
  if (!isJsonObject(value)) throw invalid(file, `${at} is ${describe(value)}; expected an object`, details);
  const dtype = value.get("dtype");
  if (typeof dtype !== "string" || dtype === "") {
    throw invalid(file, `${at}: dtype is ${describe(dtype)}; expected a string such as "BF16"`, details);
  }
  const shape = value.get("shape");
  if (!isArrayOfCounts(shape)) {
    throw invalid(file, `${at}: shape is ${describe(shape)}; expected an array of non-negative integers`, details);
  }
  if (shape.length > RANK_CAP)
    throw invalid(file, `${at}: ${shape.length} dimensions; at most ${RANK_CAP} are read`, details);
  const offsets = value.get("data_offsets");
  if (!isArrayOfCounts(offsets) || offsets.length !== 2) {
    throw invalid(file, `${at}: data_offsets is ${describe(offsets)}; expected two non-negative integers`, details);
  }
  const [begin, end] = offsets;
  if (begin > end) {
    throw new CheckpointError(
      "E_OFFSETS_INVALID",
      `${file}: ${at}: begins at byte ${begin}, after its end at byte ${end}.`,
      {
        hint: NOT_SAFETENSORS_HINT,
        details: { file, tensor: name, begin, end },
      },
    );
  }
  const entry: TensorEntry = { name, dtype, shape, begin, end };
  checkLength(entry, file);
  return entry;
}

function isArrayOfCounts(value: StrictJson | undefined): value is readonly number[] {
  return Array.isArray(value) && value.every((item: unknown) => typeof item === "number" && item >= 0);
}

function checkLength(entry: TensorEntry, file: string): void {
  const { name, dtype, shape, begin, end } = entry;
  let elements = 1;
  for (const dimension of shape) {
    elements *= dimension;
    if (!Number.isSafeInteger(elements)) {
      throw invalid(
        file,
        `tensor ${quoteName(name)}: shape [${shape.join(", ")}] has more elements than can be counted`,
        { tensor: name },
      );
    }
  }
  const width = bytesPerElement(dtype);
  if (width === undefined || elements * width === end - begin) return;
  throw new CheckpointError(
    "E_SHAPE_MISMATCH",
    `${file}: tensor ${quoteName(name)}: shape [${shape.join(", ")}] of ${dtype} takes ${elements * width} bytes, ` +
      `but data_offsets [${begin}, ${end}] hold ${end - begin}.`,
    { hint: NOT_SAFETENSORS_HINT, details: { file, tensor: name, dtype, shape, begin, end } },
  );
}

/** Tensors, sorted by begin, must cover the data section exactly: any other byte could hide or alias content. */
function checkTiling(tensors: readonly TensorEntry[], file: string, dataBytes: number): void {
  let covered = 0;
  let previous = "";
  for (const { name, begin, end } of tensors) {
    if (begin !== covered) {
      const problem =
        begin < covered
          ? `begins at byte ${begin}, inside tensor ${quoteName(previous)}, which ends at byte ${covered}`
          : `begins at byte ${begin}, but the data before it ends at byte ${covered}, which leaves a hole`;
      throw new CheckpointError("E_OFFSETS_INVALID", `${file}: tensor ${quoteName(name)}: ${problem}.`, {
        hint: NOT_SAFETENSORS_HINT,
        details: { file, tensor: name, begin, end, expectedBegin: covered },
      });
    }
    if (end > dataBytes) {
      throw new CheckpointError(
        "E_FILE_TRUNCATED",
        `${file}: tensor ${quoteName(name)}: ends at byte ${end} of the data, but the file holds only ${dataBytes} bytes of data.`,
        { hint: DOWNLOAD_HINT, details: { file, tensor: name, end, dataBytes } },
      );
    }
    covered = end;
    previous = name;
  }
  if (covered !== dataBytes) {
    throw new CheckpointError(
      "E_OFFSETS_INVALID",
      `${file}: ${dataBytes - covered} bytes after the last tensor belong to none; expected the file to end there.`,
      { hint: NOT_SAFETENSORS_HINT, details: { file, covered, dataBytes } },
    );
  }
}

/** A short form of a wrong value for a message. */
function describe(value: StrictJson | undefined): string {
  if (value === undefined) return "missing";
  if (isJsonObject(value)) return "an object";
  if (Array.isArray(value))
    return value.length > 4 ? `an array of ${value.length}` : `[${value.map(describe).join(", ")}]`;
  if (typeof value === "string") return quoteName(value);
  if (typeof value === "object" && value !== null) return (value as { readonly literal: string }).literal.slice(0, 40);
  return String(value);
}

/** What `encodeHeader` needs to know of a tensor. */
export interface TensorLayout {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly byteLength: number;
}

export interface EncodedHeader {
  /** The 8 bytes of length and the padded JSON; the data section follows. */
  readonly bytes: Uint8Array;
  /** In the order in which their data must be written. */
  readonly tensors: readonly TensorEntry[];
}

/** The reference writer's dtype order, narrowest alignment first; unknown dtypes come before all. */
const DTYPE_ORDER: readonly string[] =
  "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64".split(
    " ",
  );

/**
 * Lay tensors out as the reference writer does (widest dtype first, then by name, so that each is naturally aligned)
 * and encode the header, padded with spaces to a multiple of 8. `{"format":"pt"}` is what loaders expect to find.
 */
export function encodeHeader(
  layouts: readonly TensorLayout[],
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): EncodedHeader {
  const order = (layout: TensorLayout): number => DTYPE_ORDER.indexOf(layout.dtype);
  const sorted = [...layouts].sort((a, b) => order(b) - order(a) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const parts = [`${JSON.stringify(METADATA_KEY)}:${JSON.stringify(metadata)}`];
  const tensors: TensorEntry[] = [];
  let begin = 0;
  for (const { name, dtype, shape, byteLength } of sorted) {
    const end = begin + byteLength;
    parts.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`);
    tensors.push({ name, dtype, shape, begin, end });
    begin = end;
  }
  const json = new TextEncoder().encode(`{${parts.join(",")}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const bytes = new Uint8Array(LENGTH_BYTES + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, LENGTH_BYTES);
  return { bytes, tensors };
}
