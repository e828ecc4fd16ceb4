/**
 * Accidents with files, without a process: what src/ does to the files below a folder goes through here as the smallest steps that
 * the system does them in, and any one of them can be the last, or fail. The steps can be written down too, with their bytes.
 *
 * It stands in front of node:fs/promises, so it must be imported before anything that imports the door of src/files.
 */
import { copyFileSync, readFileSync } from "node:fs";
import system, { type FileHandle } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { dirname, join, resolve, sep } from "node:path";
import { getSystemErrorMap } from "node:util";

/**
 * - kill: from there on the program does nothing
 * - ENOSPC: from there on the disk is full
 * - EIO: this one call fails
 * - gone: from there on every call fails with EIO
 */
export const ACCIDENTS = ["kill", "ENOSPC", "EIO", "gone"] as const;

export interface Accident {
  readonly kind: (typeof ACCIDENTS)[number];
  /** Which step, from 1, or the first of which something is true when it is to be done. */
  readonly at: number | ((step: Step) => boolean);
}

/** What became of the files, in order. Paths are absolute; writes are whole. */
export type Step =
  | { readonly type: "create" | "mkdir" | "unlink" | "rmdir" | "chmod" | "sync"; readonly path: string }
  | { readonly type: "rename"; readonly path: string; readonly to: string }
  | { readonly type: "truncate"; readonly path: string; readonly length: number }
  | { readonly type: "write"; readonly path: string; readonly position: number; readonly bytes: Uint8Array };

export type StepType = Step["type"];

/** A program that is killed cannot tell: whatever it tries afterwards ends in this. */
export class Killed extends Error {}

export interface Watched<Result> {
  readonly steps: readonly Step[];
  /** What the work gave, or threw. */
  readonly result: Result | undefined;
  readonly error: unknown;
  /** The step that met the accident. */
  readonly met: Step | undefined;
}

interface Watch {
  readonly folder: string;
  readonly accident: Accident | undefined;
  readonly steps: Step[];
  readonly open: Set<FileHandle>;
  met: Step | undefined;
}

let watch: Watch | undefined;

/** Do work, and see to it that nothing of it goes on afterwards. */
export async function withAccident<Result>(
  folder: string,
  accident: Accident | undefined,
  work: () => Promise<Result>,
): Promise<Watched<Result>> {
  const watched: Watch = { folder: resolve(folder), accident, steps: [], open: new Set(), met: undefined };
  watch = watched;
  let [result, error]: [Result | undefined, unknown] = [undefined, undefined];
  try {
    result = await work();
  } catch (cause) {
    error = cause;
  } finally {
    watch = undefined;
    for (const handle of watched.open) await handle.close().catch(() => undefined); // as the system does for the dead
  }
  return { steps: watched.steps, result, error, met: watched.met };
}

const original = { ...system };

function isWatched(path: unknown): path is string {
  if (watch === undefined || typeof path !== "string") return false;
  const whole = resolve(path);
  return whole === watch.folder || whole.startsWith(watch.folder + sep);
}

/** What looking at files comes to after the accident. */
function look(path: string): void {
  if (watch?.met === undefined) return;
  if (watch.accident?.kind === "kill") throw new Killed();
  if (watch.accident?.kind === "gone") throw systemError("EIO", "read", path);
}

/** Steps that need room, or may. */
const NEEDS_ROOM: readonly StepType[] = ["create", "mkdir", "rename", "truncate", "write", "sync"];

/** Before a step is done. */
function enter(step: Step): void {
  if (watch === undefined) return;
  look(step.path);
  watch.steps.push(step);
  const { accident, steps } = watch;
  if (accident === undefined) return;
  const { kind, at } = accident;
  if (watch.met === undefined && (typeof at === "number" ? steps.length === at : at(step))) watch.met = step;
  const isFull = kind === "ENOSPC" && watch.met !== undefined && NEEDS_ROOM.includes(step.type);
  if (watch.met !== step && !isFull) return;
  if (kind === "kill") throw new Killed();
  if (kind !== "ENOSPC" || isFull) throw systemError(isFull ? "ENOSPC" : "EIO", step.type, step.path);
}

function systemError(code: "ENOSPC" | "EIO", syscall: string, path: string): Error {
  const [errno, [, text]] = [...getSystemErrorMap()].find(([, [name]]) => name === code) as [number, [string, string]];
  return Object.assign(new Error(`${code}: ${text}, ${syscall} '${path}'`), { code, errno, syscall, path });
}

type Work = (...args: never[]) => Promise<unknown>;

function looking<Function extends Work>(work: Function): Function {
  return (async (...args: Parameters<Function>) => {
    if (isWatched(args[0])) look(args[0]);
    return work(...args);
  }) as unknown as Function;
}

const isThere = (path: string): Promise<boolean> =>
  original.lstat(path).then(
    () => true,
    () => false,
  );

const bytesOf = (data: unknown): Uint8Array => (typeof data === "string" ? Buffer.from(data) : (data as Uint8Array));

/** Half of it is there where a program is killed, as much as there is room for where there is none. */
async function put(handle: FileHandle, path: string, bytes: Uint8Array, position: number): Promise<void> {
  const step: Step = { type: "write", path, position, bytes: Uint8Array.from(bytes) };
  try {
    enter(step);
  } catch (error) {
    if (watch?.met === step) await handle.write(bytes, 0, bytes.length >> 1, position);
    throw error;
  }
  for (let done = 0; done < bytes.length;)
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
}

/** What the door uses of an open file. */
function watchedHandle(handle: FileHandle, path: string, startsAt: number): Partial<FileHandle> {
  let end = startsAt; // where what is written without a position goes
  const write = async (
    bytes: Uint8Array,
    offset = 0,
    length = bytes.length - offset,
    position?: number,
  ): Promise<{ readonly bytesWritten: number }> => {
    const at = position ?? end;
    await put(handle, path, bytes.subarray(offset, offset + length), at);
    if (position === undefined) end += length;
    return { bytesWritten: length };
  };
  const sync = async (): Promise<void> => {
    enter({ type: "sync", path });
    await handle.sync();
  };
  const watched = {
    read: (...args: Parameters<FileHandle["read"]>) => {
      look(path);
      return handle.read(...args);
    },
    write,
    writeFile: async (data: unknown) => void (await write(bytesOf(data))),
    stat: (...args: Parameters<FileHandle["stat"]>) => handle.stat(...args),
    sync,
    datasync: sync,
    truncate: async (length = 0) => {
      enter({ type: "truncate", path, length });
      await handle.truncate(length);
    },
    close: async () => {
      watch?.open.delete(handle);
      await handle.close();
    },
  };
  return watched as unknown as Partial<FileHandle>;
}

async function openWatched(path: string, flags = "r"): Promise<FileHandle> {
  look(path);
  if (!flags.startsWith("r")) {
    const exists = await isThere(path);
    if (!exists) enter({ type: "create", path });
    else if (flags.startsWith("w")) enter({ type: "truncate", path, length: 0 });
  }
  const handle = await original.open(path, flags === "a" ? "r+" : flags).catch((error: unknown) => {
    if (flags === "a") return original.open(path, "w");
    throw error;
  });
  watch?.open.add(handle);
  return watchedHandle(handle, path, flags === "a" ? (await handle.stat()).size : 0) as FileHandle;
}

async function writeWatched(path: string, data: unknown, flags: string, flush: boolean): Promise<void> {
  const file = await openWatched(path, flags);
  try {
    if (bytesOf(data).length > 0) await file.write(bytesOf(data));
    if (flush) await file.sync();
  } finally {
    await file.close();
  }
}

async function removeWatched(path: string, { recursive = false, force = false }): Promise<void> {
  look(path);
  const status = await original.lstat(path).catch((error: unknown) => {
    if (!force || (error as { code?: string }).code !== "ENOENT") throw error;
    return undefined;
  });
  if (status === undefined) return;
  if (!status.isDirectory() || !recursive) {
    enter({ type: "unlink", path });
    return original.rm(path);
  }
  for (const name of (await original.readdir(path)).sort()) await removeWatched(join(path, name), { recursive });
  enter({ type: "rmdir", path });
  await original.rmdir(path);
}

const isFlushed = (options: unknown): boolean =>
  typeof options === "object" && options !== null && "flush" in options && options.flush === true;

Object.assign(system, {
  access: looking(original.access),
  lstat: looking(original.lstat),
  readdir: looking(original.readdir),
  readFile: looking(original.readFile),
  readlink: looking(original.readlink),
  realpath: looking(original.realpath),
  stat: looking(original.stat),
  statfs: looking(original.statfs),
  async open(path: string, flags?: string) {
    if (isWatched(path)) return openWatched(path, flags);
    const handle = await original.open(path, flags);
    watch?.open.add(handle);
    return handle;
  },
  async writeFile(path: string, data: string, options?: object) {
    if (!isWatched(path)) return original.writeFile(path, data, options);
    return writeWatched(path, data, "w", isFlushed(options));
  },
  async appendFile(path: string, data: string, options?: object) {
    if (!isWatched(path)) return original.appendFile(path, data, options);
    return writeWatched(path, data, "a", isFlushed(options));
  },
  async copyFile(from: string, to: string, mode?: number) {
    if (!isWatched(to)) return original.copyFile(from, to, mode);
    await openWatched(to, "w").then((file) => file.close());
    const bytes = readFileSync(from);
    enter({ type: "write", path: to, position: 0, bytes });
    copyFileSync(from, to);
  },
  async mkdir(path: string, options?: { readonly recursive?: boolean }) {
    if (!isWatched(path)) return original.mkdir(path, options);
    look(path);
    if (options?.recursive === true) {
      if (await isThere(path)) return undefined;
      await system.mkdir(dirname(path), options);
    }
    enter({ type: "mkdir", path });
    return original.mkdir(path);
  },
  async chmod(path: string, mode: number) {
    if (isWatched(path)) enter({ type: "chmod", path });
    return original.chmod(path, mode);
  },
  async rename(path: string, to: string) {
    if (isWatched(path)) enter({ type: "rename", path, to });
    return original.rename(path, to);
  },
  async rm(path: string, options: { readonly recursive?: boolean; readonly force?: boolean } = {}) {
    return isWatched(path) ? removeWatched(path, options) : original.rm(path, options);
  },
  async rmdir(path: string) {
    if (isWatched(path)) {
      look(path);
      // The system refuses what is not empty before it comes to anything.
      if ((await original.readdir(path)).length === 0) enter({ type: "rmdir", path });
    }
    return original.rmdir(path);
  },
});
syncBuiltinESMExports();
