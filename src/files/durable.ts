/** Names that are still there after a power cut: a file's own sync makes its bytes safe, its folder's makes its name so. */
import { dirname, relative } from "node:path";
import type { Door } from "./door.js";
import { fileErrorCode } from "./file-errors.js";

type Opener = Pick<Door, "open">;

/** Make what was created, renamed and removed inside a directory durable, where the system can. */
export async function syncDirectory({ open }: Opener, path: string): Promise<void> {
  try {
    await syncPath({ open }, path, "r");
  } catch (cause) {
    const code = fileErrorCode(cause);
    // Windows cannot open directories, and some file systems cannot sync them.
    if (process.platform !== "win32" && code !== "EINVAL" && code !== "ENOTSUP" && code !== "EISDIR") throw cause;
  }
}

/** The same for a directory inside another, with everything between them. */
export async function syncDirectories({ open }: Opener, inner: string, outer: string): Promise<void> {
  for (let path = inner; !relative(outer, path).startsWith(".."); path = dirname(path))
    await syncDirectory({ open }, path);
}

/** @param flags "r+" for files: some systems do not sync what cannot be written to */
export async function syncPath({ open }: Opener, path: string, flags: "r" | "r+"): Promise<void> {
  const file = await open(path, flags);
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
