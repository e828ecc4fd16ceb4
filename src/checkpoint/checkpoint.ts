/**
 * A checkpoint directory for reading: one model.safetensors, or shards with their index.
 *
 * Every header is read and checked on opening; data is read by byte range and only on demand. A 16-bit tensor is widened
 * piece by piece while the next piece is being read, so it is never held whole beside its f32 form. Nothing is cached:
 * whoever needs a tensor twice keeps it.
 */
import { createHash } from "node:crypto";
import { existsSync, readdir, readFile, stat } from "../files/checkpoint-files.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";
import { join, resolve } from "node:path";
import { CheckpointError } from "../errors.js";
import { isFloatDtype, widen, type FloatDtype } from "./dtype.js";
import { fileErrorCode } from "../files/file-errors.js";
import { refusalOfForeign } from "./foreign-file.js";
import { layoutHint } from "../layout-hint.js";
import { nearestName } from "../nearest-name.js";
import { elementsOf } from "../array.js";
import { BufferPool, PIECE_BYTES } from "./buffer-pool.js";
import { BYTES_PER_GROUP, findPacked, unpack, VALUES_PER_GROUP, type PackedTensor } from "./packed.js";
import { findScaled, scalesBeside, unscale, type ScaledTensor } from "./scaled-floats.js";
import { ShardFile, type ShardStamp } from "./shard-file.js";
import { checkShardIndex, INDEX_FILE, INDEX_SIZE_CAP, parseShardIndex, type ShardIndex } from "./sharded-index.js";
import { quoteName } from "./strict-json.js";

export const SINGLE_FILE = "model.safetensors";

/** Whether all tensors lie in one file under the usual name: then no index is looked at. */
export function isSingleFile({ shards }: Pick<Checkpoint, "shards">): boolean {
  return shards.length === 1 && shards[0] === SINGLE_FILE;
}

/** What a checkpoint's index says besides where tensors lie; nothing where there is none. */
export async function indexMetadata(
  checkpoint: Pick<Checkpoint, "directory" | "shards">,
): Promise<Readonly<Record<string, unknown>>> {
  const file = join(checkpoint.directory, INDEX_FILE);
  if (isSingleFile(checkpoint) || !existsSync(file)) return {};
  const index = parseJson(await readFile(file, "utf8"));
  return isRecord(index) && isRecord(index["metadata"]) ? index["metadata"] : {};
}

export interface TensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Shard file name. */
  readonly file: string;
  /** Absolute position in the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface Checkpoint extends AsyncDisposable {
  /** Absolute path. */
  readonly directory: string;
  /** Shard file names, in the order of the index. */
  readonly shards: readonly string[];
  /** Shard after shard, each in the order of its data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** sha256 over names, sizes and headers of all shards: equal for checkpoints of the same layout. */
  readonly headersSha256: string;
  /** Tensors that the shards hold and the index does not list. */
  readonly unlisted: readonly string[];
  /** Bytes read so far, headers included. */
  readonly bytesRead: number;
  /** By name, tensors that pairs of stored ones make (packed.ts, scaled-floats.ts): read as f32, and not written in this form. */
  readonly packed: ReadonlyMap<string, TensorInfo>;
  /** Stored tensors that a checkpoint without such pairs has not, by name. */
  readonly packing: ReadonlySet<string>;
  /** What a shard's header says besides its tensors. */
  metadataOf(shard: string): Readonly<Record<string, string>>;
  /** Whether a tensor is stored, or made by a pair. */
  has(name: string): boolean;
  /** @throws CheckpointError `E_TENSOR_MISSING` with the nearest existing name as a hint */
  info(name: string): TensorInfo;
  /**
   * A whole float tensor, widened to f32, row-major.
   * @param out receives the elements; must hold exactly as many
   * @throws CheckpointError `E_TENSOR_MISSING`, `E_TENSOR_DTYPE` for anything but F32, F16, BF16 and what pairs make
   */
  readTensor(name: string, out?: Float32Array): Promise<Float32Array>;
  /** Rows [firstRow, firstRow + rows) of a 2-D float tensor, widened to f32, [rows, columns]. */
  readRows(name: string, firstRow: number, rows: number, out?: Float32Array): Promise<Float32Array>;
  /** Stored bytes [begin, end) of a tensor of any dtype; the whole tensor by default. */
  readBytes(name: string, begin?: number, end?: number, out?: Uint8Array): Promise<Uint8Array>;
  /** The hash of the stored bytes that `work` reads, in the order in which it reads them; nothing else may read meanwhile. */
  hashed<Result>(work: () => Promise<Result>): Promise<{ readonly result: Result; readonly sha256: string }>;
  /** Of the files as they are now. */
  stamps(): Promise<ShardStamp[]>;
  /** Names of shards that something has written into since they were opened. */
  rewritten(): Promise<string[]>;
}

/** Names of shards that may not hold what they held. */
export function changedShards(then: readonly ShardStamp[], now: readonly ShardStamp[]): string[] {
  const before = new Map(then.map((stamp) => [stamp.name, JSON.stringify(stamp)]));
  return now.flatMap((stamp) => (before.get(stamp.name) === JSON.stringify(stamp) ? [] : [stamp.name]));
}

/**
 * Open a checkpoint and check every header, and the index against the shards.
 *
 * @throws CheckpointError that names file, tensor and value: `E_CHECKPOINT_MISSING` (no directory), `E_NO_SAFETENSORS`,
 *   `E_FILE_MISSING`, `E_FILE_TRUNCATED`, and the codes of the header and of the index
 */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  return OpenCheckpoint.open(directory, "r");
}

/** The implementation; `output.ts` opens its clone for writing with it. */
export class OpenCheckpoint implements Checkpoint {
  readonly directory: string;
  readonly shards: readonly string[];
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly packed: ReadonlyMap<string, PackedTensor | ScaledTensor>;
  readonly packing: ReadonlySet<string>;
  readonly headersSha256: string;
  readonly files: ReadonlyMap<string, ShardFile>;
  readonly #pool = new BufferPool();

  readonly unlisted: readonly string[];

  private constructor(directory: string, files: readonly ShardFile[], unlisted: readonly string[]) {
    this.directory = directory;
    this.unlisted = unlisted;
    this.shards = files.map((file) => file.name);
    this.files = new Map(files.map((file) => [file.name, file]));
    this.tensors = indexTensors(files);
    const [packed, scaled] = [findPacked(this.tensors), findScaled(this.tensors)];
    this.packed = new Map<string, PackedTensor | ScaledTensor>([...packed, ...scaled]);
    this.packing = new Set([
      ...[...packed.values()].flatMap(({ blocks, scales }) => [blocks, scales]),
      ...[...scaled.values()].flatMap(scalesBeside).filter((name) => this.tensors.has(name)),
    ]);
    this.headersSha256 = hashHeaders(files);
  }

  static async open(directory: string, flags: "r" | "r+"): Promise<OpenCheckpoint> {
    const absolute = resolve(directory);
    const index = await findShards(absolute);
    const names = index === undefined ? [SINGLE_FILE] : index.shards;
    const files: ShardFile[] = [];
    try {
      for (const name of names) files.push(await ShardFile.open(absolute, name, flags));
      const held = new Map(files.map((file) => [file.name, file.header.tensors.map((tensor) => tensor.name)]));
      const unlisted = index === undefined ? [] : checkShardIndex(index, held, join(absolute, INDEX_FILE));
      return new OpenCheckpoint(absolute, files, unlisted);
    } catch (error) {
      await Promise.all(files.map((file) => file.close()));
      throw error;
    }
  }

  get bytesRead(): number {
    let sum = 0;
    for (const file of this.files.values()) sum += file.bytesRead;
    return sum;
  }

  metadataOf(shard: string): Readonly<Record<string, string>> {
    const file = this.files.get(shard);
    if (file === undefined) throw new RangeError(`${shard} is not a shard of ${this.directory}.`);
    return file.header.metadata;
  }

  has(name: string): boolean {
    return this.tensors.has(name) || this.packed.has(name);
  }

  info(name: string): TensorInfo {
    const info = this.packed.get(name) ?? this.tensors.get(name);
    if (info !== undefined) return info;
    const nearest = nearestName(name, this.tensors.keys());
    throw new CheckpointError("E_TENSOR_MISSING", `${this.directory}: tensor ${quoteName(name)} is in no shard.`, {
      hint:
        nearest === undefined
          ? "The checkpoint is incomplete, or config.json names another architecture than the tensors are of."
          : `The nearest name is ${quoteName(nearest)}; config.json may name another architecture than the tensors are of.`,
      details: { tensor: name, nearest },
    });
  }

  async readTensor(name: string, out?: Float32Array): Promise<Float32Array> {
    const info = this.info(name);
    const pair = this.packed.get(name);
    if (pair !== undefined) return await this.#readPair(pair, 0, elementsOf(info.shape), out);
    return this.#readFloats(info, 0, elementsOf(info.shape), out);
  }

  async readRows(name: string, firstRow: number, rows: number, out?: Float32Array): Promise<Float32Array> {
    const info = this.info(name);
    const [height, width] = info.shape;
    if (info.shape.length !== 2) {
      throw new CheckpointError(
        "E_TENSOR_SHAPE",
        `${info.file}: tensor ${quoteName(name)} has shape [${info.shape.join(", ")}]; expected a matrix.`,
        {
          hint: "config.json may name another architecture than the tensors are of.",
          details: { tensor: name, shape: info.shape },
        },
      );
    }
    if (
      !Number.isSafeInteger(firstRow) ||
      !Number.isSafeInteger(rows) ||
      firstRow < 0 ||
      rows < 0 ||
      firstRow + rows > height
    ) {
      throw new RangeError(`${name}: rows ${firstRow} to ${firstRow + rows} are outside its ${height} rows.`);
    }
    const pair = this.packed.get(name);
    if (pair !== undefined) return await this.#readPair(pair, firstRow * width, rows * width, out);
    return this.#readFloats(info, firstRow * width, rows * width, out);
  }

  async readBytes(name: string, begin?: number, end?: number, out?: Uint8Array): Promise<Uint8Array> {
    const info = this.info(name);
    const first = begin ?? 0;
    const last = end ?? info.byteLength;
    if (
      !Number.isSafeInteger(first) ||
      !Number.isSafeInteger(last) ||
      first < 0 ||
      first > last ||
      last > info.byteLength
    ) {
      throw new RangeError(`${name}: bytes ${first} to ${last} are outside its ${info.byteLength} bytes.`);
    }
    const bytes = out ?? new Uint8Array(last - first);
    if (bytes.byteLength !== last - first)
      throw new RangeError(`${name}: out holds ${bytes.byteLength} bytes, not ${last - first}.`);
    await this.fileOf(info).read(bytes, info.offset + first);
    return bytes;
  }

  async hashed<Result>(work: () => Promise<Result>): Promise<{ readonly result: Result; readonly sha256: string }> {
    const hash = createHash("sha256");
    for (const file of this.files.values()) file.heard = (bytes) => void hash.update(bytes);
    try {
      const result = await work();
      return { result, sha256: hash.digest("hex") };
    } finally {
      for (const file of this.files.values()) file.heard = undefined;
    }
  }

  stamps(): Promise<ShardStamp[]> {
    return Promise.all([...this.files.values()].map((file) => file.stamp()));
  }

  async rewritten(): Promise<string[]> {
    const names: string[] = [];
    for (const file of this.files.values()) if (await file.isRewritten()) names.push(file.name);
    return names;
  }

  /** The open file that holds a tensor. */
  fileOf(info: TensorInfo): ShardFile {
    const file = this.files.get(info.file);
    if (file === undefined) throw new RangeError(`${info.file} is not a shard of ${this.directory}.`);
    return file;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.files.values()].map((file) => file.close()));
  }

  /** Of a pair in blocks all is read; of scaled floats whole rows. */
  async #readPair(
    pair: PackedTensor | ScaledTensor,
    first: number,
    count: number,
    out: Float32Array | undefined,
  ): Promise<Float32Array> {
    const values = out ?? new Float32Array(count);
    if (values.length !== count)
      throw new RangeError(`${pair.name}: out holds ${values.length} elements, not ${count}.`);
    if ("blocks" in pair) await this.#readPacked(pair, values);
    else await this.#readScaled(pair, first, values);
    return values;
  }

  /** One expert after the other, turned from [outputs, inputs]. */
  async #readPacked({ shape, blocks, scales }: PackedTensor, out: Float32Array): Promise<void> {
    const [experts, inputs, outputs] = shape as readonly [number, number, number];
    const groups = (outputs * inputs) / VALUES_PER_GROUP;
    const exponents = await this.readBytes(scales);
    const stored = new Float32Array(outputs * inputs);
    for (let expert = 0; expert < experts; expert++) {
      const [from, to] = [expert * groups, (expert + 1) * groups];
      const bytes = await this.readBytes(blocks, BYTES_PER_GROUP * from, BYTES_PER_GROUP * to);
      unpack(bytes, exponents.subarray(from, to), stored);
      const matrix = out.subarray(expert * stored.length, (expert + 1) * stored.length);
      for (let output = 0; output < outputs; output++)
        for (let input = 0; input < inputs; input++)
          matrix[input * outputs + output] = stored[output * inputs + input] as number;
    }
  }

  async #readScaled(pair: ScaledTensor, first: number, out: Float32Array): Promise<void> {
    const columns = pair.shape[1] as number;
    const scales = await this.readTensor(pair.scales);
    const perPiece = Math.max(1, Math.floor(PIECE_BYTES / columns)) * columns;
    for (let begin = 0; begin < out.length; begin += perPiece) {
      const end = Math.min(out.length, begin + perPiece);
      const bytes = await this.readBytes(pair.name, first + begin, first + end);
      unscale(pair, (first + begin) / columns, bytes, scales, out.subarray(begin, end));
    }
  }

  async #readFloats(
    info: TensorInfo,
    first: number,
    count: number,
    out: Float32Array | undefined,
  ): Promise<Float32Array> {
    const dtype = requireFloat(info);
    const values = out ?? new Float32Array(count);
    if (values.length !== count)
      throw new RangeError(`${info.name}: out holds ${values.length} elements, not ${count}.`);
    const file = this.fileOf(info);
    if (dtype === "F32") {
      await file.read(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), info.offset + 4 * first);
    } else {
      await this.#readHalves(file, dtype, info.offset + 2 * first, values);
    }
    return values;
  }

  /** Widen one piece while the next is being read into the other buffer. */
  async #readHalves(file: ShardFile, dtype: "F16" | "BF16", position: number, values: Float32Array): Promise<void> {
    const perPiece = PIECE_BYTES / 2;
    const bytesPerPiece = 2 * Math.min(perPiece, values.length);
    const buffers = [this.#pool.take(bytesPerPiece), this.#pool.take(bytesPerPiece)] as const;
    const startRead = async (first: number, buffer: Uint8Array): Promise<Uint8Array> => {
      const bytes = buffer.subarray(0, 2 * Math.min(perPiece, values.length - first));
      await file.read(bytes, position + 2 * first);
      return bytes;
    };
    try {
      let reading = startRead(0, buffers[0]);
      for (let first = 0, piece = 0; first < values.length; first += perPiece, piece++) {
        const bytes = await reading;
        const next = first + perPiece;
        if (next < values.length) reading = startRead(next, buffers[piece % 2 === 0 ? 1 : 0]);
        widen(bytes, dtype, values.subarray(first, first + bytes.byteLength / 2));
      }
      await reading;
    } finally {
      for (const buffer of buffers) this.#pool.give(buffer);
    }
  }
}

/** @throws CheckpointError `E_TENSOR_DTYPE` when the program does not compute with the tensor's dtype */
export function requireFloat(info: TensorInfo): FloatDtype {
  if (isFloatDtype(info.dtype)) return info.dtype;
  throw new CheckpointError(
    "E_TENSOR_DTYPE",
    `${info.file}: tensor ${quoteName(info.name)} is ${quoteName(info.dtype)}; expected F32, F16 or BF16.`,
    {
      hint: "Convert the checkpoint to BF16 first (quantised weights must be dequantised); pruning comes before quantisation.",
      details: { file: info.file, tensor: info.name, dtype: info.dtype },
    },
  );
}

function indexTensors(files: readonly ShardFile[]): ReadonlyMap<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>();
  for (const { name: file, header } of files) {
    for (const { name, dtype, shape, begin, end } of header.tensors) {
      tensors.set(name, { name, dtype, shape, file, offset: header.dataOffset + begin, byteLength: end - begin });
    }
  }
  return tensors;
}

function hashHeaders(files: readonly ShardFile[]): string {
  const hash = createHash("sha256");
  for (const { name, sizeBytes, headerBytes } of files) {
    hash.update(`${JSON.stringify([name, sizeBytes, headerBytes.byteLength])}\n`).update(headerBytes);
  }
  return hash.digest("hex");
}

/** The index, or undefined for a single file, which loaders prefer where both exist. */
async function findShards(directory: string): Promise<ShardIndex | undefined> {
  if (!(await isDirectory(directory))) {
    throw new CheckpointError("E_CHECKPOINT_MISSING", `${directory}: no such directory.`, {
      hint: "Give the directory that holds config.json and model.safetensors.",
      details: { directory },
    });
  }
  if ((await sizeOf(join(directory, SINGLE_FILE))) !== undefined) return undefined;
  const path = join(directory, INDEX_FILE);
  const size = await sizeOf(path);
  if (size === undefined) throw await noSafetensors(directory);
  if (size > INDEX_SIZE_CAP) {
    throw new CheckpointError("E_INDEX_INVALID", `${path}: ${size} bytes; at most ${INDEX_SIZE_CAP} are read.`, {
      hint: "The index is damaged: download it again.",
      details: { file: path, size, limit: INDEX_SIZE_CAP },
    });
  }
  const bytes = await readFile(path);
  const foreign = refusalOfForeign(path, bytes);
  if (foreign !== undefined) throw foreign;
  return parseShardIndex(bytes, path);
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    if (fileErrorCode(cause) === "ENOENT" || fileErrorCode(cause) === "ENOTDIR") return false;
    throw cause;
  }
}

/** Bytes of a regular file, or undefined when there is none of that name. */
async function sizeOf(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : undefined;
  } catch (cause) {
    if (fileErrorCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

async function noSafetensors(directory: string): Promise<CheckpointError> {
  const names = await readdir(directory);
  return new CheckpointError("E_NO_SAFETENSORS", `${directory}: neither ${SINGLE_FILE} nor ${INDEX_FILE} is there.`, {
    hint: layoutHint(names) ?? "Give the directory that holds config.json and model.safetensors.",
    details: { directory },
  });
}
