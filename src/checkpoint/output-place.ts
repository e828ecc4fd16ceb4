/**
 * Where a run may write: checks of OUT and OUT.partial before anything is created, all on real paths.
 */
import { constants } from "../files/door.js";
import { access, lstat, realpath, stat, statfs } from "../files/place-files.js";
import { homedir } from "node:os";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { ConfigError, UsageError } from "../errors.js";
import { fileErrorCode } from "../files/file-errors.js";
import { requireRoom, SPARE_BYTES } from "../files/space.js";

/** Names of an output, and while it is made. */
export interface OutputNames {
  /** OUT, absolute; its parent's links are resolved. */
  readonly out: string;
  /** OUT.partial. */
  readonly partial: string;
  /** The directory of both. */
  readonly parent: string;
}

export interface OutputPlace extends OutputNames {
  readonly outExists: boolean;
  readonly partialExists: boolean;
}

/** Put behind the name of an OUT that is replaced, with eight more characters. */
export const ASIDE = ".replaced-";

/**
 * The names that a run needs, all of which the file system takes.
 * @throws UsageError `E_OUTPUT_PARENT`, `E_OUTPUT_NAME`
 */
export async function nameOutput(wanted: string): Promise<OutputNames> {
  const parent = await realParent(dirname(resolve(wanted)));
  const out = join(parent, basename(resolve(wanted)));
  try {
    await kindOf(`${out}${ASIDE}12345678`);
  } catch (cause) {
    if (fileErrorCode(cause) !== "ENAMETOOLONG") throw cause;
    throw new UsageError("E_OUTPUT_NAME", `--out: the name of ${out} is too long.`, {
      hint: `Choose one that the file system takes with "${ASIDE}12345678" behind it: ".partial" is there while the run is at work.`,
      details: { out },
      cause,
    });
  }
  return { out, partial: `${out}.partial`, parent };
}

/**
 * Check that OUT can be taken.
 *
 * @throws UsageError `E_OUTPUT_EXISTS`, `E_PARTIAL_EXISTS`, `E_NOTHING_TO_RESUME`
 */
export async function checkPlace(
  { out, partial, parent }: OutputNames,
  { force, resume }: { readonly force: boolean; readonly resume: boolean },
): Promise<OutputPlace> {
  const [outKind, partialKind] = [await kindOf(out), await kindOf(partial)];
  if (outKind === "file") {
    throw new UsageError("E_OUTPUT_EXISTS", `--out: ${out} is a file; expected a directory that does not exist yet.`, {
      hint: "Choose another --out; --force replaces directories only.",
      details: { out },
    });
  }
  if (outKind !== undefined) await requireReplaceable(out, force);
  if (partialKind !== undefined && !resume && !force) {
    throw new UsageError("E_PARTIAL_EXISTS", `--out: ${partial} exists: an earlier run was interrupted.`, {
      hint: "Go on with --resume, or start again with --force.",
      details: { partial },
    });
  }
  if (resume && partialKind !== "directory") {
    const found = partialKind === undefined ? "does not exist" : `is a ${partialKind}`;
    throw new UsageError(
      "E_NOTHING_TO_RESUME",
      `--resume: ${partial} ${found}; expected the directory of an interrupted run.`,
      {
        hint: "Run without --resume, or check --out.",
        details: { partial },
      },
    );
  }
  return { out, partial, parent, outExists: outKind !== undefined, partialExists: partialKind !== undefined };
}

async function realParent(path: string): Promise<string> {
  const refuse = (problem: string): UsageError =>
    new UsageError("E_OUTPUT_PARENT", `--out: ${path} ${problem}; expected an existing, writable directory.`, {
      hint: "Create it, or choose another --out.",
      details: { parent: path },
    });
  try {
    const real = await realpath(path);
    if (!(await stat(real)).isDirectory()) throw refuse("is not a directory");
    await access(real, constants.W_OK | constants.X_OK);
    return real;
  } catch (cause) {
    const code = fileErrorCode(cause);
    if (code === "ENOENT" || code === "ENOTDIR") throw refuse("does not exist");
    if (code === "EACCES" || code === "EPERM" || code === "EROFS") throw refuse("is not writable");
    if (code === "ELOOP") throw refuse("is reached through symbolic links that lead in a loop");
    if (code === "ENAMETOOLONG") throw refuse("has too long a name");
    throw cause;
  }
}

async function kindOf(path: string): Promise<"directory" | "link" | "file" | undefined> {
  try {
    const found = await lstat(path);
    return found.isDirectory() ? "directory" : found.isSymbolicLink() ? "link" : "file";
  } catch (cause) {
    if (fileErrorCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

/** `--force` deletes OUT in the end, so a slip such as `--out ~` must not pass. */
async function requireReplaceable(out: string, force: boolean): Promise<void> {
  if (!force) {
    throw new UsageError("E_OUTPUT_EXISTS", `--out: ${out} exists; it is never overwritten unasked.`, {
      hint: "Choose another --out, or replace it with --force.",
      details: { out },
    });
  }
  for (const [place, name] of [
    [process.cwd(), "the working directory"],
    [homedir(), "the home directory"],
  ] as const) {
    if (!isInside(await realpath(place).catch(() => place), out)) continue;
    throw new UsageError("E_OUTPUT_EXISTS", `--out: ${out} is or contains ${name}; --force will not delete it.`, {
      hint: "Choose another --out.",
      details: { out, place },
    });
  }
}

/** Whether `path` is `directory` or below it; both absolute and real. */
export function isInside(path: string, directory: string): boolean {
  const between = relative(directory, path);
  return (
    between === "" || (between !== ".." && !between.startsWith(`..${sep}`) && resolve(directory, between) === path)
  );
}

/**
 * Refuse an output that overlaps the input: writing or replacing one would destroy the other.
 *
 * @param inputs real paths of the input directory and of every file it links to
 * @throws ConfigError `E_OUTPUT_OVERLAPS`
 */
export async function checkDisjoint(place: OutputPlace, directory: string, inputs: readonly string[]): Promise<void> {
  const refuse = (problem: string): ConfigError =>
    new ConfigError(
      "E_OUTPUT_OVERLAPS",
      `--out: ${place.out} ${problem}; the output must lie outside the input, and the input outside the output.`,
      {
        hint: "Choose a directory beside the model.",
        details: { out: place.out, model: directory },
      },
    );
  const targets = [place.out, place.partial];
  if (place.outExists) targets.push(await realpath(place.out).catch(() => place.out)); // OUT may be a link itself
  for (const target of targets) {
    if (target === directory) throw refuse("is the input itself");
    if (isInside(target, directory)) throw refuse(`is inside the input ${directory}`);
    const inside = [directory, ...inputs].find((input) => isInside(input, target));
    if (inside !== undefined) throw refuse(`contains the input's ${inside}`);
  }
}

/**
 * Whether the output and what lies beside it while it is made will fit.
 * @throws ResourceError `E_DISK_FULL`
 */
export async function checkFreeSpace(
  parent: string,
  cloneBytes: number,
  scratchBytes: number,
  flag = "--out",
): Promise<void> {
  const what = scratchBytes > 0 ? `the output with ${scratchBytes} bytes of working files` : "the output";
  const neededBytes = cloneBytes + scratchBytes + SPARE_BYTES;
  const more = scratchBytes > 0 ? ", give more --memory" : "";
  const hint = `Free some space${more} or choose another ${flag}; nothing was written.`;
  await requireRoom({ statfs }, { directory: parent, neededBytes, what, hint });
}
