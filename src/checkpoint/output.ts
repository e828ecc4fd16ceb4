/**
 * The output of a run: a clone of the input in OUT.partial, into which solved tensors are written over their own byte
 * ranges, renamed to OUT at the very end.
 *
 * Hence every tensor nobody touches is identical to the bit, tied weights stay tied, and a resumed run needs no
 * bookkeeping of offsets. Copying ends before `createOutput` returns; forcing the copies to the disk goes on in the
 * background and is awaited by the first flush, so that it overlaps with the first block's work. An interruption before
 * that has nothing to lose: the clone's marker is missing and a resume clones again.
 */
import { elementsOf } from "../array.js";
import { BufferPool, PIECE_BYTES } from "./buffer-pool.js";
import { OpenCheckpoint, requireFloat, type Checkpoint } from "./checkpoint.js";
import { narrow, type NarrowReport } from "./dtype.js";
import { OutputDirectory, type OutputOptions } from "./output-directory.js";
import type { ShardFile, ShardStamp } from "./shard-file.js";

export interface OutputCheckpoint extends AsyncDisposable {
  /** OUT.partial, where the journal and scratch files may be put too. */
  readonly partialDirectory: string;
  /** Whether an interrupted run's clone was taken over; false when everything was cloned anew (also by a resume). */
  readonly resumed: boolean;
  /** The source's files when they were cloned. */
  readonly clonedFrom: readonly ShardStamp[];
  /** The clone, with everything written so far. */
  readonly checkpoint: Checkpoint;
  /**
   * Overwrite a float tensor's bytes in the clone, rounded to its dtype (see `narrow`).
   * @param values as many elements as the tensor has; borrowed until the promise settles
   * @throws ResourceError `E_DISK_FULL`; CheckpointError `E_TENSOR_MISSING`, `E_TENSOR_DTYPE`
   */
  writeTensor(name: string, values: Float32Array): Promise<NarrowReport>;
  /** Force the clone and everything written so far to the disk. */
  flush(): Promise<void>;
  /**
   * Flush, rename OUT.partial to OUT, and remove the named working files from it; the checkpoint is closed. An existing
   * OUT (only with `force`) is moved aside for the rename and deleted after it. Until the rename the run is resumable:
   * that is why the working files are removed after it. The lock is given back.
   */
  finish(options: { readonly remove: readonly string[] }): Promise<void>;
}

/** An output to patch; throws what `OutputDirectory.open` does. */
export async function createOutput(options: OutputOptions): Promise<OutputCheckpoint> {
  const directory = await OutputDirectory.open(options);
  try {
    return new PatchedClone(directory, await OpenCheckpoint.open(directory.path, "r+"));
  } catch (error) {
    await directory.abandon();
    await directory.release().catch(() => undefined); // what went wrong first is told
    throw error;
  }
}

class PatchedClone implements OutputCheckpoint {
  readonly partialDirectory: string;
  readonly resumed: boolean;
  readonly clonedFrom: readonly ShardStamp[];
  readonly checkpoint: OpenCheckpoint;
  readonly #directory: OutputDirectory;
  readonly #pool = new BufferPool();
  /** Files written to since the last flush. */
  readonly #dirty = new Set<ShardFile>();
  #isClosed = false;

  constructor(directory: OutputDirectory, checkpoint: OpenCheckpoint) {
    this.partialDirectory = directory.path;
    this.clonedFrom = directory.clonedFrom;
    this.resumed = directory.resumed;
    this.checkpoint = checkpoint;
    this.#directory = directory;
  }

  /** Round one piece while the one before it is being written from the other buffer. */
  async writeTensor(name: string, values: Float32Array): Promise<NarrowReport> {
    const info = this.checkpoint.info(name);
    const dtype = requireFloat(info);
    if (values.length !== elementsOf(info.shape)) {
      throw new RangeError(`${name}: ${values.length} values for a tensor of shape [${info.shape.join(", ")}].`);
    }
    const file = this.checkpoint.fileOf(info);
    const width = dtype === "F32" ? 4 : 2;
    const perPiece = PIECE_BYTES / width;
    const bytesPerPiece = width * Math.min(perPiece, values.length);
    const buffers = [this.#pool.take(bytesPerPiece), this.#pool.take(bytesPerPiece)] as const;
    let overflowed = 0;
    let underflowed = 0;
    let writing = Promise.resolve();
    this.#dirty.add(file);
    try {
      for (let first = 0, piece = 0; first < values.length; first += perPiece, piece++) {
        const part = values.subarray(first, first + perPiece);
        const bytes = buffers[piece % 2 === 0 ? 0 : 1].subarray(0, part.length * width);
        const report = narrow(part, dtype, bytes);
        overflowed += report.overflowed;
        underflowed += report.underflowed;
        await writing;
        writing = file.write(bytes, info.offset + first * width);
      }
      await writing;
    } finally {
      for (const buffer of buffers) this.#pool.give(buffer);
    }
    return { overflowed, underflowed };
  }

  async flush(): Promise<void> {
    await this.#directory.sealed();
    for (const file of this.#dirty) {
      await file.sync();
      this.#dirty.delete(file);
    }
  }

  async finish(options: { readonly remove: readonly string[] }): Promise<void> {
    await this.flush();
    await this.#directory.finish(options.remove, () => this.#close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#isClosed) return;
      await this.#directory.abandon();
      await this.#close();
    } finally {
      await this.#directory.release();
    }
  }

  async #close(): Promise<void> {
    this.#isClosed = true;
    await this.checkpoint[Symbol.asyncDispose]();
  }
}
