/** Files that are needed for a while, in the directory that TMPDIR names. */
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PruneError, ResourceError } from "../errors.js";
import { doorFor } from "./door.js";
import { fileErrorCode } from "./file-errors.js";
import { requireRoom, SPARE_BYTES } from "./space.js";

const HINT = "Set TMPDIR to a directory that exists, can be written to, and has room: TMPDIR=/path prune ….";

export const { mkdtemp, open, rm, statfs } = doorFor({
  what: "temporary files",
  Problem: ResourceError,
  hint: HINT,
  fullHint: HINT,
});

/**
 * Room in TMPDIR, before anything goes there.
 * @param purpose what the space is for, in messages
 * @throws ResourceError E_DISK_FULL, E_TEMPORARY_DIRECTORY
 */
export async function requireTemporaryRoom(neededBytes: number, purpose: string): Promise<void> {
  const directory = tmpdir();
  try {
    await requireRoom({ statfs }, { directory, neededBytes: neededBytes + SPARE_BYTES, what: purpose, hint: HINT });
  } catch (error) {
    throw unusable(error, directory, purpose);
  }
}

/**
 * A new directory in TMPDIR.
 * @param purpose what the space is for, in messages
 * @throws ResourceError E_TEMPORARY_DIRECTORY
 */
export async function makeTemporaryDirectory(name: string, purpose: string): Promise<string> {
  const parent = tmpdir();
  try {
    return await mkdtemp(join(parent, `prune-${name}-`));
  } catch (error) {
    throw unusable(error, parent, purpose);
  }
}

function unusable(error: unknown, directory: string, purpose: string): unknown {
  const code = fileErrorCode(error);
  if (code === undefined) return error;
  const problem = code === "ENOENT" ? "does not exist" : code === "ENOSPC" ? "is full" : `cannot be used (${code})`;
  return new ResourceError(
    "E_TEMPORARY_DIRECTORY",
    `${directory}: the directory for temporary files (TMPDIR) ${problem}; ${purpose} would go there.`,
    { hint: HINT, details: { directory, purpose, cause: code }, cause: error },
  );
}

/** An error of a file inside a temporary directory, in these words; anything else as it is. */
export function inTemporaryDirectory(error: unknown, directory: string, purpose: string): unknown {
  if (!(error instanceof PruneError) || fileErrorCode(error) === undefined) return error;
  const file = String(error.details["file"]);
  if (!file.startsWith(directory)) return error;
  const reason = error.code === "E_DISK_FULL" ? "no space is left" : error.message;
  return new ResourceError(
    error.code,
    `${file}: ${reason} in the directory for temporary files; ${purpose} is there.`,
    {
      ...{ hint: HINT, details: error.details, cause: error },
    },
  );
}
