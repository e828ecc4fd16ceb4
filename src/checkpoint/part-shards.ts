/**
 * Writing new shards that consist of parts of a checkpoint's tensors: byte ranges are read and written in pieces, so that no
 * tensor, let alone a shard, is ever held whole. Nothing is computed.
 */
import { open } from "../files/output-files.js";
import { elementsOf } from "../array.js";
import { PIECE_BYTES } from "./buffer-pool.js";
import type { Checkpoint, TensorInfo } from "./checkpoint.js";
import { bytesPerElement } from "./dtype.js";
import { encodeHeader, type EncodedHeader } from "./header.js";

/** A tensor that consists of some entries of another. */
export interface PartialTensor {
  readonly name: string;
  readonly source: TensorInfo;
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** Kept entries along each axis, ascending; all where undefined. */
  readonly kept: readonly (readonly number[] | undefined)[];
  /** Its bytes, where they are not the source's. */
  readonly replaced?: Uint8Array;
}

export interface PartialShard {
  readonly name: string;
  readonly tensors: readonly PartialTensor[];
  readonly header: EncodedHeader;
}

/**
 * The shards of a part: each of the checkpoint's gives one with what stays of its tensors, and none where nothing does.
 * Numbers in names of the usual form are made to follow each other.
 */
export function planShards(checkpoint: Checkpoint, tensors: readonly PartialTensor[]): PartialShard[] {
  const byShard = new Map<string, PartialTensor[]>();
  for (const tensor of tensors) {
    const { file } = tensor.source;
    const known = byShard.get(file);
    if (known === undefined) byShard.set(file, [tensor]);
    else known.push(tensor);
  }
  const names = checkpoint.shards.filter((name) => byShard.has(name));
  return names.map((name, index) => {
    const own = byShard.get(name) ?? [];
    const layouts = own.map((tensor) => ({ ...tensor, dtype: tensor.source.dtype }));
    return {
      name: renumbered(name, index, names.length, checkpoint.shards.length),
      tensors: own,
      header: encodeHeader(layouts, checkpoint.metadataOf(name)),
    };
  });
}

function renumbered(name: string, index: number, count: number, before: number): string {
  if (count === before) return name;
  const digits = (value: number): string => String(value).padStart(5, "0");
  return name.replace(/-\d{5}-of-\d{5}(?=\.safetensors$)/, `-${digits(index + 1)}-of-${digits(count)}`);
}

/** Bytes of the file. */
export function shardBytes({ header, tensors }: PartialShard): number {
  return header.bytes.byteLength + tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** Gaps of fewer bytes between kept ones are read and left out: seeking costs more. */
const SMALL_GAP = 1 << 16;

interface Range {
  readonly begin: number;
  readonly end: number;
}

/** The byte ranges of the kept entries within the source, ascending, neighbours joined. */
export function* keptRanges({ source, kept }: Pick<PartialTensor, "source" | "kept">): Generator<Range> {
  const { shape, byteLength } = source;
  const axis = kept.findLastIndex((entries) => entries !== undefined);
  if (axis === -1) {
    if (byteLength > 0) yield { begin: 0, end: byteLength };
    return;
  }
  const width = (bytesPerElement(source.dtype) ?? 0) * elementsOf(shape.slice(axis + 1));
  let open: { begin: number; end: number } | undefined;
  for (const begin of offsets(shape, kept, axis, width)) {
    if (open !== undefined && open.end === begin) {
      open.end = begin + width;
      continue;
    }
    if (open !== undefined) yield open;
    open = { begin, end: begin + width };
  }
  if (open !== undefined) yield open;
}

/** Where each kept entry of an axis begins, for all kept ones of the axes before it. */
function* offsets(
  shape: readonly number[],
  kept: PartialTensor["kept"],
  axis: number,
  width: number,
  at = 0,
  base = 0,
): Generator<number> {
  const stride = width * elementsOf(shape.slice(at + 1, axis + 1));
  const entries = kept[at] ?? Array(shape[at]).keys();
  for (const entry of entries) {
    if (at === axis) yield base + entry * width;
    else yield* offsets(shape, kept, axis, width, at + 1, base + entry * stride);
  }
}

/** The kept bytes of a tensor, piece after piece; each is borrowed until the next but one is asked for. */
async function* keptBytes(
  checkpoint: Checkpoint,
  tensor: PartialTensor,
  nextBuffer: () => Uint8Array,
): AsyncGenerator<Uint8Array> {
  if (tensor.replaced !== undefined) {
    yield tensor.replaced;
    return;
  }
  const { name } = tensor.source;
  for (const window of windowsOf(keptRanges(tensor))) {
    const { begin } = window[0] as Range;
    const { end } = window.at(-1) as Range;
    const bytes = nextBuffer().subarray(0, end - begin);
    await checkpoint.readBytes(name, begin, end, bytes);
    let length = 0;
    for (const range of window) {
      bytes.copyWithin(length, range.begin - begin, range.end - begin);
      length += range.end - range.begin;
    }
    yield bytes.subarray(0, length);
  }
}

/** Ranges that are read together: what lies between the first's begin and the last's end fits a piece. */
function* windowsOf(ranges: Iterable<Range>): Generator<Range[]> {
  let window: Range[] = [];
  for (const whole of ranges)
    for (let begin = whole.begin; begin < whole.end; begin += PIECE_BYTES) {
      const range = { begin, end: Math.min(whole.end, begin + PIECE_BYTES) };
      const [first, last] = [window[0], window.at(-1)];
      const fits = first !== undefined && range.end - first.begin <= PIECE_BYTES;
      if (first !== undefined && last !== undefined && (!fits || range.begin - last.end > SMALL_GAP)) {
        yield window;
        window = [];
      }
      window.push(range);
    }
  if (window.length > 0) yield window;
}

/**
 * Write a shard and force it to the disk.
 * @param onBytes called with how many bytes were written since the last call; throws to stop
 */
export async function writeShard(
  path: string,
  checkpoint: Checkpoint,
  { header, tensors }: PartialShard,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const buffers = [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)];
  let turn = 0;
  const nextBuffer = (): Uint8Array => buffers[turn++ % 2] as Uint8Array;
  const file = await open(path, "w");
  try {
    let position = 0;
    let writing = Promise.resolve();
    const put = async (bytes: Uint8Array): Promise<void> => {
      const from = position;
      position += bytes.byteLength;
      await writing; // one piece is written while the next is read
      writing = (async () => {
        for (let done = 0; done < bytes.byteLength;)
          done += (await file.write(bytes, done, bytes.byteLength - done, from + done)).bytesWritten;
      })();
      writing.catch(() => undefined); // reported where it is awaited
      onBytes(bytes.byteLength);
    };
    try {
      await put(header.bytes);
      for (const { name } of header.tensors)
        for await (const bytes of keptBytes(checkpoint, byName.get(name) as PartialTensor, nextBuffer))
          await put(bytes);
    } finally {
      await writing;
    }
    await file.sync();
  } finally {
    await file.close();
  }
}
