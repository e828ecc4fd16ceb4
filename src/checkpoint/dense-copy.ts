/**
 * A checkpoint whose weights are stored in four or eight bits (packed.ts, scaled-floats.ts), copied with those in BF16: its
 * shards without the scales, its index, and config.json without a word of a quantisation. All other tensors are copied byte for
 * byte.
 */
import { join } from "node:path";
import { elementsOf } from "../array.js";
import { readFile } from "../files/checkpoint-files.js";
import { open } from "../files/output-files.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";
import { PIECE_BYTES } from "./buffer-pool.js";
import type { Checkpoint } from "./checkpoint.js";
import { narrow } from "./dtype.js";
import { encodeHeader, type TensorLayout } from "./header.js";
import { INDEX_FILE } from "./sharded-index.js";

const DTYPE = "BF16";

/** A file that is written anew in place of a copy. */
export interface RewrittenFile {
  readonly sizeBytes: number;
  write(path: string): Promise<void>;
}

/** By name, the files of a source that a clone has in another form; none where all its weights are plain floats. */
export async function rewrittenFiles(source: Checkpoint): Promise<ReadonlyMap<string, RewrittenFile>> {
  if (source.packed.size === 0) return new Map();
  const layouts = layoutsOf(source);
  const files = [...layouts].map(([shard, tensors]) => [shard, shardOf(source, tensors)] as const);
  const config = withoutQuantisation(await readFile(join(source.directory, "config.json"), "utf8"));
  return new Map([...files, [INDEX_FILE, textFile(indexOf(layouts))], ["config.json", textFile(config)]]);
}

/** By shard: what it holds once weights are dense. A pair made of tensors of two shards is where its weights are. */
function layoutsOf({ tensors, packed, packing, shards }: Checkpoint): ReadonlyMap<string, readonly TensorLayout[]> {
  const layouts = new Map(shards.map((shard): [string, TensorLayout[]] => [shard, []]));
  for (const { name, dtype, shape, file, byteLength } of tensors.values())
    if (!packed.has(name) && !packing.has(name)) layouts.get(file)?.push({ name, dtype, shape, byteLength });
  for (const { name, shape, file } of packed.values())
    layouts.get(file)?.push({ name, dtype: DTYPE, shape, byteLength: 2 * elementsOf(shape) });
  return layouts;
}

function shardOf(source: Checkpoint, layouts: readonly TensorLayout[]): RewrittenFile {
  const { bytes: header, tensors } = encodeHeader(layouts);
  return {
    sizeBytes: header.byteLength + (tensors.at(-1)?.end ?? 0),
    async write(path) {
      const handle = await open(path, "w");
      try {
        await handle.writeFile(header);
        for (const { name } of tensors)
          for await (const piece of source.packed.has(name) ? densePieces(source, name) : storedPieces(source, name))
            await handle.writeFile(piece);
      } finally {
        await handle.close();
      }
    },
  };
}

async function* densePieces(source: Checkpoint, name: string): AsyncGenerator<Uint8Array> {
  const values = await source.readTensor(name);
  const perPiece = PIECE_BYTES / 2;
  for (let first = 0; first < values.length; first += perPiece) {
    const part = values.subarray(first, first + perPiece);
    const bytes = new Uint8Array(2 * part.length);
    narrow(part, DTYPE, bytes);
    yield bytes;
  }
}

async function* storedPieces(source: Checkpoint, name: string): AsyncGenerator<Uint8Array> {
  const { byteLength } = source.info(name);
  for (let begin = 0; begin < byteLength; begin += PIECE_BYTES)
    yield await source.readBytes(name, begin, Math.min(byteLength, begin + PIECE_BYTES));
}

function indexOf(layouts: ReadonlyMap<string, readonly TensorLayout[]>): string {
  const entries = [...layouts].flatMap(([shard, tensors]) => tensors.map((tensor) => ({ shard, ...tensor })));
  const size = entries.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const places = Object.fromEntries(entries.map(({ name, shard }) => [name, shard]));
  return `${JSON.stringify({ metadata: { total_size: size }, weight_map: places }, undefined, 2)}\n`;
}

const SAID = ["quantization_config", "compression_config"];

function withoutQuantisation(text: string): string {
  const strip = (value: unknown): unknown =>
    isRecord(value) ? Object.fromEntries(Object.entries(value).filter(([key]) => !SAID.includes(key))) : value;
  const outer = strip(parseJson(text)) as Record<string, unknown>;
  if ("text_config" in outer) outer["text_config"] = strip(outer["text_config"]);
  return `${JSON.stringify(outer, undefined, 2)}\n`;
}

function textFile(text: string): RewrittenFile {
  const bytes = Buffer.from(text);
  return {
    sizeBytes: bytes.byteLength,
    async write(path) {
      const handle = await open(path, "w");
      try {
        await handle.writeFile(bytes);
      } finally {
        await handle.close();
      }
    },
  };
}
