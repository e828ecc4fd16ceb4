/**
 * The output of a run: a clone of the input in OUT.partial, into which solved tensors are written over their own byte
 * ranges, renamed to OUT at the very end.
 *
 * Hence every tensor nobody touches is identical to the bit, tied weights stay tied, and a resumed run needs no
 * bookkeeping of offsets. Copying ends before `createOutput` returns; forcing the copies to the disk goes on in the
 * background and is awaited by the first flush, so that it overlaps with the first block's work. An interruption before
 * that has nothing to lose: the clone's marker is missing and a resume clones again.
 */
import { realpath } from "../files/checkpoint-files.js";
import { syncDirectory } from "../files/durable.js";
import { lstat, open, rename, rm } from "../files/output-files.js";
import { basename, join } from "node:path";
import { ConfigError, InternalError, ResourceError, UsageError } from "../errors.js";
import { elementsOf } from "../array.js";
import { BufferPool, PIECE_BYTES } from "./buffer-pool.js";
import { OpenCheckpoint, requireFloat, SINGLE_FILE, type Checkpoint } from "./checkpoint.js";
import { bytesOf, clone, CLONE_MARKER, CLONING, readMarker, sealClone, type OnCopied } from "./clone.js";
import { planClone, type ClonePlan, type OwnNames } from "./clone-plan.js";
import { rewrittenFiles } from "./dense-copy.js";
import { narrow, type NarrowReport } from "./dtype.js";
import { fileErrorCode } from "../files/file-errors.js";
import { OutputLock } from "../files/lock.js";
import {
  checkDisjoint,
  checkFreeSpace,
  checkPlace,
  nameOutput,
  type OutputNames,
  type OutputPlace,
} from "./output-place.js";
import { findAside, moveAside, putBack, removeAside, REPLACED } from "./replacement.js";
import type { ShardFile, ShardStamp } from "./shard-file.js";
import { INDEX_FILE } from "./sharded-index.js";

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

export interface OutputOptions {
  readonly source: Checkpoint;
  /** OUT. */
  readonly out: string;
  /** Replace an existing OUT at the end, and drop an existing OUT.partial unless it is resumed. */
  readonly force: boolean;
  /** Go on in an existing OUT.partial. */
  readonly resume: boolean;
  /** What will lie beside the clone while the run works, besides what is there already. */
  readonly scratchBytes?: number;
  /** Top-level names that the output has for itself. */
  readonly own?: OwnNames;
  /** Hears what of the source is left out or renamed, where users may miss it. */
  readonly warn?: (message: string) => void;
  readonly onCopied?: OnCopied;
}

/**
 * Check the place, then clone the source or take over an interrupted clone. Nothing is written when a check fails, and
 * nothing is left behind when cloning fails.
 *
 * @throws UsageError `E_OUTPUT_PARENT`, `E_OUTPUT_NAME`, `E_OUTPUT_LOCKED` (another run is at work on it),
 *   `E_OUTPUT_EXISTS`, `E_PARTIAL_EXISTS`, `E_NOTHING_TO_RESUME`
 * @throws ConfigError `E_OUTPUT_OVERLAPS`; `E_FINGERPRINT` when OUT.partial was cloned from another checkpoint
 * @throws ResourceError `E_DISK_FULL`
 */
export async function createOutput(options: OutputOptions): Promise<OutputCheckpoint> {
  const names = await nameOutput(options.out);
  const lock = await OutputLock.take(names.out);
  try {
    if (options.resume) await takeBack(names, options.own?.working ?? []);
    else if (options.force) await putBack(names);
    return await openOutput(options, await checkPlace(names, options), lock);
  } catch (error) {
    await lock[Symbol.asyncDispose]().catch(() => undefined); // what went wrong first is told
    throw error;
  }
}

/**
 * A run that was killed after its last rename has left working files in OUT: it goes on from before that rename, or where it had
 * begun to remove them, only that is left to be done.
 * @throws UsageError `E_NOTHING_TO_RESUME` in the latter case, once it is done
 */
async function takeBack({ out, partial }: OutputNames, working: readonly string[]): Promise<void> {
  const isThere = async (path: string): Promise<boolean> =>
    lstat(path).then(
      () => true,
      () => false,
    );
  if (!(await isThere(join(out, CLONE_MARKER))) || (await isThere(partial))) return;
  const [first] = working;
  if (first === undefined || (await isThere(join(out, first)))) return rename(out, partial);
  await removeWorkingFiles(out, working);
  throw new UsageError(
    "E_NOTHING_TO_RESUME",
    `--resume: ${out} is complete; what the run had left in it was removed.`,
    {
      details: { out },
    },
  );
}

/** The marker goes last: as long as it is there, this is to be done. */
async function removeWorkingFiles(out: string, working: readonly string[]): Promise<void> {
  for (const name of [...working, REPLACED, CLONE_MARKER]) await rm(join(out, name), { recursive: true, force: true });
}

async function openOutput(options: OutputOptions, place: OutputPlace, lock: OutputLock): Promise<OutputCheckpoint> {
  const { source, force, scratchBytes = 0 } = options;
  const directory = await realpath(source.directory);
  const plan = await planCloneOf(source, options.own);
  await checkDisjoint(
    place,
    directory,
    plan.files.map((file) => file.realPath),
  );

  const marker = options.resume ? await readMarker(place.partial) : undefined;
  const { headersSha256 } = source;
  if (marker !== undefined) {
    if (marker.headersSha256 !== headersSha256) throw clonedFromAnother(place.partial, source);
    await checkFreeSpace(place.parent, 0, scratchBytes);
    const checkpoint = await OpenCheckpoint.open(place.partial, "r+");
    return new PatchedClone({ place, force, lock, clonedFrom: marker.shards }, checkpoint, undefined);
  }
  for (const note of plan.notes) options.warn?.(note);
  if (place.partialExists) await rm(place.partial, { recursive: true, force: true });
  await checkFreeSpace(place.parent, bytesOf(plan), scratchBytes);
  const shards = await source.stamps();
  await clone(plan, place.partial, options.onCopied);
  const checkpoint = await OpenCheckpoint.open(place.partial, "r+");
  return new PatchedClone({ place, force, lock, clonedFrom: shards }, checkpoint, (signal) =>
    sealClone(plan, place.partial, { headersSha256, shards }, signal),
  );
}

/** What is copied of a source. */
export async function planCloneOf(source: Checkpoint, { working, written }: OwnNames = NOTHING): Promise<ClonePlan> {
  const isSingle = source.shards.length === 1 && source.shards[0] === SINGLE_FILE;
  const weights = isSingle ? source.shards : [...source.shards, INDEX_FILE];
  const own = { working: [...working, REPLACED, CLONE_MARKER, CLONING], written };
  const plan = await planClone(await realpath(source.directory), weights, own);
  const rewritten = await rewrittenFiles(source);
  const files = plan.files.map((file) => {
    const dense = rewritten.get(file.path);
    return dense === undefined ? file : { ...file, sizeBytes: dense.sizeBytes, rewrite: dense.write };
  });
  return { ...plan, files };
}

const NOTHING: OwnNames = { working: [], written: [] };

function clonedFromAnother(partial: string, source: Checkpoint): ConfigError {
  return new ConfigError(
    "E_FINGERPRINT",
    `--resume: ${partial} was cloned from another checkpoint than ${source.directory}.`,
    {
      hint: "Resume with the model the run was started with, or start again with --force.",
      details: { partial, model: source.directory },
    },
  );
}

/** Where an output is made. */
interface Site {
  readonly place: OutputPlace;
  /** Replace an existing OUT. */
  readonly force: boolean;
  readonly lock: OutputLock;
  readonly clonedFrom: readonly ShardStamp[];
}

class PatchedClone implements OutputCheckpoint {
  readonly partialDirectory: string;
  readonly resumed: boolean;
  readonly clonedFrom: readonly ShardStamp[];
  readonly checkpoint: OpenCheckpoint;
  readonly #site: Site;
  readonly #pool = new BufferPool();
  readonly #sealing = new AbortController();
  readonly #sealed: Promise<void>;
  /** Files written to since the last flush. */
  readonly #dirty = new Set<ShardFile>();
  #isClosed = false;

  constructor(site: Site, checkpoint: OpenCheckpoint, seal: ((signal: AbortSignal) => Promise<void>) | undefined) {
    this.partialDirectory = site.place.partial;
    this.clonedFrom = site.clonedFrom;
    this.resumed = seal === undefined;
    this.checkpoint = checkpoint;
    this.#site = site;
    this.#sealed = seal === undefined ? Promise.resolve() : seal(this.#sealing.signal);
    this.#sealed.catch(() => undefined); // reported by the next flush, which awaits it
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
    await this.#sealed;
    for (const file of this.#dirty) {
      await file.sync();
      this.#dirty.delete(file);
    }
  }

  async finish(options: { readonly remove: readonly string[] }): Promise<void> {
    const { out, partial, parent } = this.#site.place;
    for (const name of options.remove) {
      if (name === "" || name !== basename(name) || name === "..") {
        throw new InternalError("E_INTERNAL", `finish: "${name}" is not the name of a file in ${partial}.`);
      }
    }
    await this.flush();
    await syncDirectory({ open }, partial);
    await this.#close(); // some systems do not rename a directory with open files
    const aside = await this.#moveAside();
    try {
      await rename(partial, out);
    } catch (cause) {
      if (aside !== undefined) await rename(aside, out);
      throw cause;
    }
    try {
      // The name is safe before anything is gone that a resume would need.
      await syncDirectory({ open }, parent);
      if (aside !== undefined) await removeAside(this.#site.place, aside);
      await removeWorkingFiles(out, options.remove);
      await syncDirectory({ open }, out);
      await this.#site.lock[Symbol.asyncDispose]();
    } catch (cause) {
      throw new ResourceError("E_OUTPUT_LEFT", `${out} is complete, but what is left of the run cannot be removed.`, {
        hint: "The same command with --resume removes it.",
        details: { out, ...(aside === undefined ? {} : { replaced: aside }) },
        cause,
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#isClosed) return;
      this.#sealing.abort();
      await this.#sealed.catch(() => undefined);
      await this.#close();
    } finally {
      await this.#site.lock[Symbol.asyncDispose]();
    }
  }

  async #close(): Promise<void> {
    this.#isClosed = true;
    await this.checkpoint[Symbol.asyncDispose]();
  }

  /** Move an existing OUT to a name beside it, or refuse when it must not be replaced. @returns where it is, or is since an earlier run */
  async #moveAside(): Promise<string | undefined> {
    const { place, force } = this.#site;
    const { out, partial } = place;
    try {
      await lstat(out);
    } catch (cause) {
      if (fileErrorCode(cause) === "ENOENT") return findAside(place);
      throw cause;
    }
    if (!force) {
      throw new UsageError("E_OUTPUT_EXISTS", `--out: ${out} was created by something else during the run.`, {
        hint: `The result is complete in ${partial}: move ${out} away and run the same command with --resume.`,
        details: { out, partial },
      });
    }
    return moveAside(place);
  }
}
