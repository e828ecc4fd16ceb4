/**
 * The directory of an output while it is made: OUT.partial with a copy of the source's files, under a lock, which is renamed to
 * OUT at the very end. Shards are copied too where they are patched, and left out where new ones are written.
 */
import { realpath } from "../files/checkpoint-files.js";
import { syncDirectory } from "../files/durable.js";
import { lstat, open, rename, rm } from "../files/output-files.js";
import { basename, join } from "node:path";
import { ConfigError, InternalError, ResourceError, UsageError } from "../errors.js";
import { changedShards, isSingleFile, type Checkpoint } from "./checkpoint.js";
import { bytesOf, clone, CLONE_MARKER, CLONING, readMarker, sealClone, type OnCopied } from "./clone.js";
import { planClone, type ClonePlan, type OwnNames } from "./clone-plan.js";
import { rewrittenFiles } from "./dense-copy.js";
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
import type { ShardStamp } from "./shard-file.js";
import { INDEX_FILE } from "./sharded-index.js";

export interface OutputOptions {
  readonly source: Checkpoint;
  /** OUT. */
  readonly out: string;
  /** Replace an existing OUT at the end, and drop an existing OUT.partial unless it is resumed. */
  readonly force: boolean;
  /** Go on in an existing OUT.partial. */
  readonly resume: boolean;
  /** Bytes of shards that are written anew; absent: the source's are copied. */
  readonly newShardBytes?: number;
  /** What will lie beside the clone while the run works, besides what is there already. */
  readonly scratchBytes?: number;
  /** Tensors that are not finite, where all were looked at since the source was opened. */
  readonly nonFinite?: ReadonlySet<string>;
  /** Top-level names that the output has for itself. */
  readonly own?: OwnNames;
  /** Hears what of the source is left out or renamed, where users may miss it. */
  readonly warn?: (message: string) => void;
  readonly onCopied?: OnCopied;
}

export class OutputDirectory {
  /** OUT.partial */
  readonly path: string;
  /** Whether an interrupted run's directory was taken over. */
  readonly resumed: boolean;
  /** The source's files when they were copied. */
  readonly clonedFrom: readonly ShardStamp[];
  readonly #site: Site;
  readonly #sealing = new AbortController();
  readonly #sealed: Promise<void>;

  private constructor(site: Site, seal: ((signal: AbortSignal) => Promise<void>) | undefined) {
    this.path = site.place.partial;
    this.resumed = seal === undefined;
    this.clonedFrom = site.clonedFrom;
    this.#site = site;
    this.#sealed = seal === undefined ? Promise.resolve() : seal(this.#sealing.signal);
    this.#sealed.catch(() => undefined); // reported by whoever awaits it
  }

  /**
   * Check the place, then copy the source's files or take over an interrupted directory. Nothing is written when a check
   * fails, and nothing is left behind when copying fails.
   *
   * @throws UsageError `E_OUTPUT_PARENT`, `E_OUTPUT_NAME`, `E_OUTPUT_LOCKED` (another run is at work on it),
   *   `E_OUTPUT_EXISTS`, `E_PARTIAL_EXISTS`, `E_NOTHING_TO_RESUME`
   * @throws ConfigError `E_OUTPUT_OVERLAPS`; `E_FINGERPRINT` when OUT.partial was cloned from another checkpoint
   * @throws ResourceError `E_DISK_FULL`
   */
  static async open(options: OutputOptions): Promise<OutputDirectory> {
    const names = await nameOutput(options.out);
    const lock = await OutputLock.take(names.out);
    try {
      if (options.resume) await takeBack(names, options.own?.working ?? []);
      else if (options.force) await putBack(names);
      return await OutputDirectory.#at(options, await checkPlace(names, options), lock);
    } catch (error) {
      await lock[Symbol.asyncDispose]().catch(() => undefined); // what went wrong first is told
      throw error;
    }
  }

  static async #at(options: OutputOptions, place: OutputPlace, lock: OutputLock): Promise<OutputDirectory> {
    const { source, force, newShardBytes, scratchBytes = 0 } = options;
    const directory = await realpath(source.directory);
    const plan = await planCloneOf(source, options.own, newShardBytes === undefined);
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
      return new OutputDirectory({ place, force, lock, clonedFrom: marker.shards }, undefined);
    }
    for (const note of plan.notes) options.warn?.(note);
    if (place.partialExists) await rm(place.partial, { recursive: true, force: true });
    await checkFreeSpace(place.parent, bytesOf(plan) + (newShardBytes ?? 0), scratchBytes);
    const shards = await source.stamps();
    const isUntouched = (await source.rewritten()).length === 0; // else what was looked at is not what is cloned
    const nonFinite = isUntouched && options.nonFinite !== undefined ? { nonFinite: [...options.nonFinite] } : {};
    await clone(plan, place.partial, options.onCopied);
    return new OutputDirectory({ place, force, lock, clonedFrom: shards }, (signal) =>
      sealClone(plan, place.partial, { headersSha256, shards, ...nonFinite }, signal),
    );
  }

  /** Resolves when what was copied is on the disk. */
  async sealed(): Promise<void> {
    await this.#sealed;
  }

  /**
   * Rename OUT.partial to OUT and remove the named working files from it; everything in it is on the disk. An existing OUT (only
   * with `force`) is moved aside for the rename and deleted after it. Until the rename the run is resumable: that is why
   * the working files are removed after it. The lock is given back.
   * @param close closes what is open in the directory
   */
  async finish(remove: readonly string[], close: () => Promise<void>): Promise<void> {
    const { out, partial, parent } = this.#site.place;
    for (const name of remove) {
      if (name === "" || name !== basename(name) || name === "..") {
        throw new InternalError("E_INTERNAL", `finish: "${name}" is not the name of a file in ${partial}.`);
      }
    }
    await this.#sealed;
    await syncDirectory({ open }, partial);
    await close(); // some systems do not rename a directory with open files
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
      await removeWorkingFiles(out, remove);
      await syncDirectory({ open }, out);
      await this.release();
    } catch (cause) {
      throw new ResourceError("E_OUTPUT_LEFT", `${out} is complete, but what is left of the run cannot be removed.`, {
        hint: "The same command with --resume removes it.",
        details: { out, ...(aside === undefined ? {} : { replaced: aside }) },
        cause,
      });
    }
  }

  /** Stop what goes on in the background, which an output that is given up has no use for. */
  async abandon(): Promise<void> {
    this.#sealing.abort();
    await this.#sealed.catch(() => undefined);
  }

  /** Let others write there. */
  async release(): Promise<void> {
    await this.#site.lock[Symbol.asyncDispose]();
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

/** Where an output is made. */
interface Site {
  readonly place: OutputPlace;
  /** Replace an existing OUT. */
  readonly force: boolean;
  readonly lock: OutputLock;
  readonly clonedFrom: readonly ShardStamp[];
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

/**
 * Which tensors an interrupted run found not finite, where the source's files are still those that it looked at; undefined where
 * they are to be looked at again.
 */
export async function nonFiniteBefore(out: string, source: Checkpoint): Promise<ReadonlySet<string> | undefined> {
  const { partial } = await nameOutput(out);
  const marker = await readMarker(partial);
  if (marker?.nonFinite === undefined || marker.headersSha256 !== source.headersSha256) return undefined;
  return changedShards(marker.shards, await source.stamps()).length === 0 ? new Set(marker.nonFinite) : undefined;
}

/** What is copied of a source. */
export async function planCloneOf(
  source: Checkpoint,
  { working, written }: OwnNames = NOTHING,
  hasShards = true,
): Promise<ClonePlan> {
  const weights = !hasShards ? [] : isSingleFile(source) ? source.shards : [...source.shards, INDEX_FILE];
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
