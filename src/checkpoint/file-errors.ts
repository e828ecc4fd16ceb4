/** Turns errors of the file system into errors that say which file, what happened and what to do. */
import { CheckpointError, PruneError, ResourceError } from "../errors.js";

/** The code of a file system error ("ENOENT"), or undefined for anything else. */
export function fileErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/**
 * A file system error as a PruneError: full disk and used-up quota become ResourceError `E_DISK_FULL`, a missing file
 * CheckpointError `E_FILE_MISSING`, refused access `E_FILE_ACCESS`, a failing device ResourceError `E_FILE_IO`. Other
 * errors, and those that are PruneErrors already, come back as they are.
 */
export function asPruneError(error: unknown, path: string): unknown {
  if (error instanceof PruneError) return error;
  const code = fileErrorCode(error);
  const options = { cause: error, details: { file: path, cause: code } };
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
      return new ResourceError("E_DISK_FULL", `${path}: ${DISK_FULL_REASON[code]}; it cannot be written.`, {
        ...options,
        hint: "Free some space. Nothing that was written is lost: the same command with --resume goes on from there.",
      });
    case "ENOENT":
      return new CheckpointError("E_FILE_MISSING", `${path}: no such file.`, {
        ...options,
        hint: "The checkpoint is incomplete: download or copy it again.",
      });
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new CheckpointError("E_FILE_ACCESS", `${path}: access refused (${code}).`, {
        ...options,
        hint: "Give this user the right to read the checkpoint and to write the output.",
      });
    case "EMFILE":
    case "ENFILE":
      return new ResourceError("E_OPEN_FILES", `${path}: too many files are open.`, {
        ...options,
        hint: "Raise the limit: ulimit -n 4096.",
      });
    case "EIO":
      return new ResourceError("E_FILE_IO", `${path}: the device reported an error (EIO).`, {
        ...options,
        hint: "Check the disk.",
      });
    case undefined:
    default:
      return error;
  }
}

const DISK_FULL_REASON = {
  ENOSPC: "no space is left on the device",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file system or user limit on file size is reached",
} as const;
