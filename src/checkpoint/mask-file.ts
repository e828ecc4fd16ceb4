/**
 * Masks as a file that any safetensors library reads: under the name of every masked tensor a U8 tensor of its shape with the
 * last axis packed, eight elements to a byte, the first in the lowest bit, rows padded with zero bits. 1 is kept, 0 is pruned.
 */
import { createHash } from "node:crypto";
import { basename, dirname } from "node:path";
import { CheckpointError } from "../errors.js";
import { rename, rm } from "../files/output-files.js";
import { nearestName } from "../nearest-name.js";
import type { Checkpoint, TensorInfo } from "./checkpoint.js";
import { ShardFile } from "./shard-file.js";
import { writeTensors } from "./write-tensors.js";
import { ZeroFinder } from "./zeros.js";

const DTYPE = "U8";
/** In the file's metadata, where PyTorch's "pt" is as well. */
const METADATA = { format: "pt", "prune.mask": "1" };

/** Of a tensor's shape. */
export function packedShape(shape: readonly number[]): number[] {
  return [...shape.slice(0, -1), Math.ceil(columnsOf(shape) / 8)];
}

/** Elements of a row: of the last axis. */
export function columnsOf(shape: readonly number[]): number {
  return shape.at(-1) ?? 1;
}

/** Collects bits in the order of the data; what was not heard of stays 0. */
export class BitPacker {
  readonly bytes: Uint8Array;
  readonly #columns: number;
  #row = 0;
  #column = 0;

  constructor(shape: readonly number[]) {
    this.#columns = columnsOf(shape);
    this.bytes = new Uint8Array(packedShape(shape).reduce((product, size) => product * size, 1));
  }

  /** Of these elements, those that are not zero are kept. */
  add(isZero: Uint8Array): void {
    const stride = Math.ceil(this.#columns / 8);
    for (let i = 0; i < isZero.length; i++) {
      if (isZero[i] === 0) this.bytes[this.#row * stride + (this.#column >> 3)] |= 1 << (this.#column & 7);
      if (++this.#column < this.#columns) continue;
      this.#column = 0;
      this.#row += 1;
    }
  }
}

/**
 * The mask of a checkpoint's tensors: 0 where they are zero. The file is there whole or not at all.
 * @throws CheckpointError E_MASK for a dtype whose zeros are not known
 */
export async function saveMask(checkpoint: Checkpoint, names: readonly string[], file: string): Promise<void> {
  const finder = new ZeroFinder(checkpoint);
  const infos = names.map((name) => checkpoint.info(name));
  const layouts = infos.map(({ name, shape }) => {
    const packed = packedShape(shape);
    return { name, dtype: DTYPE, shape: packed, byteLength: packed.reduce((product, size) => product * size, 1) };
  });
  const partial = `${file}.partial`;
  try {
    await writeTensors(
      partial,
      layouts,
      async (name, write) => {
        const packer = new BitPacker(checkpoint.info(name).shape);
        await finder.find(checkpoint.info(name), (isZero) => packer.add(isZero));
        await write(packer.bytes);
      },
      METADATA,
    );
    await rename(partial, file);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

/** A file of masks, of which one is read at a time. */
export class MaskFile implements AsyncDisposable {
  readonly path: string;
  /** Names of the masked tensors with the shapes of their masks. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly #file: ShardFile;

  private constructor(path: string, file: ShardFile, shapes: MaskFile["shapes"]) {
    this.path = path;
    this.#file = file;
    this.shapes = shapes;
  }

  /** @throws CheckpointError E_FILE_MISSING and the codes of the header; E_MASK where it holds no masks, or other tensors */
  static async open(path: string): Promise<MaskFile> {
    const file = await ShardFile.open(dirname(path), basename(path), "r");
    try {
      const { tensors } = file.header;
      const other = tensors.find(({ dtype, shape }) => dtype !== DTYPE || shape.length < 2);
      if (tensors.length === 0 || other !== undefined) {
        const found =
          other === undefined ? "it holds no tensors" : `"${other.name}" is ${other.dtype} [${other.shape.join(", ")}]`;
        throw maskProblem(path, `is no file of masks: ${found}`);
      }
      return new MaskFile(path, file, new Map(tensors.map(({ name, shape }) => [name, shape])));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Whether every mask is of a tensor of the checkpoint.
   * @throws CheckpointError E_MASK
   */
  expectFits(checkpoint: Checkpoint): void {
    for (const [name, shape] of this.shapes) {
      if (!checkpoint.tensors.has(name)) {
        const nearest = nearestName(name, [...checkpoint.tensors.keys()]);
        throw maskProblem(
          this.path,
          `"${name}" is no tensor of ${checkpoint.directory}`,
          nearest === undefined ? undefined : `The nearest one there is "${nearest}".`,
        );
      }
      const info = checkpoint.info(name);
      const expected = packedShape(info.shape);
      if (expected.join() === shape.join()) continue;
      const found = `the mask of "${name}" has shape [${shape.join(", ")}]`;
      throw maskProblem(this.path, `${found}; a tensor of [${info.shape.join(", ")}] takes [${expected.join(", ")}]`);
    }
  }

  /** The packed bits of one mask. */
  async read(name: string): Promise<Uint8Array> {
    const entry = this.#file.header.tensors.find((tensor) => tensor.name === name);
    if (entry === undefined) throw maskProblem(this.path, `has no mask of "${name}"`);
    const bytes = new Uint8Array(entry.end - entry.begin);
    await this.#file.read(bytes, this.#file.header.dataOffset + entry.begin);
    return bytes;
  }

  /** Of names and bits, whatever order they are stored in. */
  async sha256(): Promise<string> {
    const hash = createHash("sha256");
    for (const name of [...this.shapes.keys()].sort()) hash.update(`${name}\n`).update(await this.read(name));
    return hash.digest("hex");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

/** Put +0 where a mask says pruned. @returns how many of these were no zero before, and how many are pruned */
export function clearPruned(
  values: Float32Array,
  { shape }: Pick<TensorInfo, "shape">,
  mask: Uint8Array,
): { readonly cleared: number; readonly pruned: number } {
  const columns = columnsOf(shape);
  const stride = Math.ceil(columns / 8);
  let [cleared, pruned] = [0, 0];
  for (let i = 0, row = 0; i < values.length; row++) {
    for (let column = 0; column < columns; column++, i++) {
      if (((mask[row * stride + (column >> 3)] >> (column & 7)) & 1) === 1) continue;
      pruned += 1;
      if (values[i] !== 0) cleared += 1;
      values[i] = 0;
    }
  }
  return { cleared, pruned };
}

function maskProblem(file: string, what: string, hint?: string): CheckpointError {
  return new CheckpointError("E_MASK", `${file}: ${what}.`, {
    hint: hint ?? "Take the mask that the run of this model saved with --save-mask.",
    details: { file },
  });
}
