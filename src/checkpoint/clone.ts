/**
 * Cloning a checkpoint directory, and making the clone durable.
 *
 * Copies are reflinks where the file system can, so a clone costs no space and no time there. Each file appears under
 * its name only when it is whole.
 */
import { constants } from "../files/door.js";
import { chmod, copyFile, mkdir, open, readFile, rename, rm, stat } from "../files/output-files.js";
import { join } from "node:path";
import { ResourceError } from "../errors.js";
import type { ClonePlan, PlannedFile } from "./clone-plan.js";
import type { ShardStamp } from "./shard-file.js";
import { syncDirectory, syncPath } from "../files/durable.js";
import { fileErrorCode } from "../files/file-errors.js";
import { isRecord } from "../is-record.js";

/** Says that the clone is complete and on the disk; without it a resume clones again. */
export const CLONE_MARKER = "clone-complete";

/** The file that is being copied. */
export const CLONING = "cloning.tmp";

/** Called before every file with bytes; throws to stop. */
export type OnCopied = (done: number, total: number) => void;

/**
 * Copy the planned files into a new directory; what was copied is removed again when that fails.
 * @throws ResourceError `E_DISK_FULL`; CheckpointError when a file cannot be read
 */
export async function clone(plan: ClonePlan, target: string, onCopied: OnCopied = () => undefined): Promise<void> {
  await mkdir(target);
  const total = bytesOf(plan);
  let done = 0;
  try {
    for (const directory of plan.directories) await mkdir(join(target, directory));
    for (const file of plan.files) {
      onCopied(done, total);
      await copyWhole(file, join(target, file.path), join(target, CLONING));
      done += file.sizeBytes;
    }
  } catch (error) {
    await rm(target, { recursive: true, force: true });
    if (!(error instanceof ResourceError)) throw error;
    throw new ResourceError(error.code, error.message, {
      hint: "Free some space or choose another --out; nothing was left behind.",
      details: error.details,
      cause: error,
    });
  }
}

export function bytesOf({ files }: ClonePlan): number {
  return files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

/** @param unfinished what the copy is called until it is whole: a name that every file system takes */
async function copyWhole(file: PlannedFile, target: string, unfinished: string): Promise<void> {
  if (file.rewrite !== undefined) await file.rewrite(unfinished);
  else await copyFile(file.realPath, unfinished, constants.COPYFILE_FICLONE);
  // Sources are often read-only (caches, shared storage) and copies inherit that.
  await chmod(unfinished, (await stat(unfinished)).mode | 0o600);
  await rename(unfinished, target);
}

/** What the marker records: which layout was cloned. */
export interface CloneMarker {
  readonly headersSha256: string;
  /** Of the source's shards before they were copied. */
  readonly shards: readonly ShardStamp[];
  /** Tensors of theirs that are not finite, where all were looked at. */
  readonly nonFinite?: readonly string[];
}

/**
 * Force all files of a clone to the disk, then write the marker.
 * @param signal aborts between files; the marker is then not written
 */
export async function sealClone(
  plan: ClonePlan,
  target: string,
  marker: CloneMarker,
  signal: AbortSignal,
): Promise<void> {
  for (const { path } of plan.files) {
    signal.throwIfAborted();
    await syncPath({ open }, join(target, path), "r+");
  }
  for (const directory of ["", ...plan.directories]) await syncDirectory({ open }, join(target, directory));
  signal.throwIfAborted();
  const unfinished = join(target, `${CLONE_MARKER}.tmp`);
  const file = await open(unfinished, "w");
  try {
    await file.writeFile(`${JSON.stringify(marker)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(unfinished, join(target, CLONE_MARKER));
  await syncDirectory({ open }, target);
}

/** The marker of a clone, or undefined when there is none or it is torn. */
export async function readMarker(target: string): Promise<CloneMarker | undefined> {
  const path = join(target, CLONE_MARKER);
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof value !== "object" || value === null || !("headersSha256" in value)) return undefined;
    const { headersSha256 } = value;
    const found = "nonFinite" in value ? value.nonFinite : undefined;
    const nonFinite = Array.isArray(found) && found.every((name) => typeof name === "string") ? found : undefined;
    const shards = "shards" in value && Array.isArray(value.shards) ? value.shards.filter(isRecord) : [];
    return typeof headersSha256 === "string"
      ? { headersSha256, shards: shards as unknown as readonly ShardStamp[], ...(nonFinite && { nonFinite }) }
      : undefined;
  } catch (cause) {
    if (cause instanceof SyntaxError || ["ENOENT", "ENOTDIR"].includes(fileErrorCode(cause) ?? "")) return undefined;
    throw cause;
  }
}
