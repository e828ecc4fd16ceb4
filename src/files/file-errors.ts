/** Turns errors of the file system into errors that say which file, what it was for, what happened and what to do. */
import { PruneError, ResourceError } from "../errors.js";

/** What files are for: decides whose mistake it is when one cannot be used, and what to do then. */
export interface Purpose {
  /** In messages: "the checkpoint". */
  readonly what: string;
  /** The class of problems with the path itself: nothing there, access refused, a name too long, a loop of links. */
  readonly Problem: typeof PruneError;
  /** What to do about such a problem. */
  readonly hint: string;
  /** What to do where the disk is full. */
  readonly fullHint: string;
}

/** The system's code of a file system error ("ENOENT"), mapped or not; undefined for anything else. */
export function fileErrorCode(error: unknown): string | undefined {
  if (error instanceof PruneError) return systemCodeOf(error.cause) ?? codeIn(error.details["cause"]);
  return systemCodeOf(error);
}

/** Errors of the system have a number and the call beside the code; Node's own mistakes of arguments have not. */
function systemCodeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && "syscall" in error ? codeIn(error.code) : undefined;
}

function codeIn(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

/**
 * A file system error as a PruneError: a full disk, a used-up quota, a failing device and whatever nobody thought of are
 * ResourceErrors, problems with the path are of the purpose's class. Errors that are no file system's, and PruneErrors, come
 * back as they are.
 */
export function fileError(error: unknown, path: string, { what, Problem, hint, fullHint }: Purpose): unknown {
  const cause = systemCodeOf(error);
  if (error instanceof PruneError || cause === undefined) return error;
  const details = { file: path, for: what, cause };
  const message = (reason: string): string => `${path}: ${reason} (${what}).`;
  switch (cause) {
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
      return new ResourceError("E_DISK_FULL", message(DISK_FULL_REASON[cause]), {
        hint: fullHint,
        details,
        cause: error,
      });
    case "EMFILE":
    case "ENFILE":
      return new ResourceError("E_OPEN_FILES", message("too many files are open"), {
        ...{ hint: "Raise the limit: ulimit -n 4096.", details, cause: error },
      });
    case "EIO":
      return new ResourceError("E_FILE_IO", message("the device reported an error (EIO)"), {
        ...{ hint: "Check the disk.", details, cause: error },
      });
  }
  const problem = PATH_PROBLEMS[cause];
  if (problem !== undefined) return new Problem(problem.code, message(problem.reason), { hint, details, cause: error });
  const reason = error instanceof Error ? error.message.replace(/^[A-Z0-9]+: /, "").replace(/,.*/, "") : "";
  return new ResourceError("E_FILE", message(`${reason} (${cause})`), { details, cause: error });
}

const DISK_FULL_REASON = {
  ENOSPC: "no space is left on the device",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file system or user limit on file size is reached",
} as const;

const PATH_PROBLEMS: Readonly<Record<string, { readonly code: string; readonly reason: string } | undefined>> = {
  ENOENT: { code: "E_FILE_MISSING", reason: "no such file" },
  EACCES: { code: "E_FILE_ACCESS", reason: "access refused (EACCES)" },
  EPERM: { code: "E_FILE_ACCESS", reason: "access refused (EPERM)" },
  EROFS: { code: "E_FILE_ACCESS", reason: "the file system is read-only (EROFS)" },
  ENAMETOOLONG: { code: "E_FILE_NAME", reason: "the name is too long for the file system" },
  ELOOP: { code: "E_FILE_LINKS", reason: "symbolic links that lead in a loop" },
  ENOTDIR: { code: "E_FILE_KIND", reason: "a part of the path is no directory" },
  EISDIR: { code: "E_FILE_KIND", reason: "is a directory" },
  EEXIST: { code: "E_FILE_EXISTS", reason: "exists already" },
  ENOTEMPTY: { code: "E_FILE_EXISTS", reason: "is not empty" },
};
