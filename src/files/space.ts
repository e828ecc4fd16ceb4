/** Whether there is room for what is to be written, asked before any work. */
import { ResourceError } from "../errors.js";
import type { Door } from "./door.js";

/** Room left beside what was counted, for reports, journals and the file system's own blocks. */
export const SPARE_BYTES = 4 << 20;

export interface Room {
  /** An existing directory. */
  readonly directory: string;
  readonly neededBytes: number;
  /** What needs it: "the output". */
  readonly what: string;
  readonly hint: string;
}

/** @throws ResourceError E_DISK_FULL with what is needed and what is there */
export async function requireRoom({ statfs }: Pick<Door, "statfs">, room: Room): Promise<void> {
  const { directory, neededBytes, what, hint } = room;
  const { bavail, bsize, blocks } = await statfs(directory);
  if (blocks === 0) return; // some network file systems do not say
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes) return;
  throw new ResourceError(
    "E_DISK_FULL",
    `${directory}: ${what} needs ${neededBytes} bytes, but only ${freeBytes} are free.`,
    { hint, details: { directory, neededBytes, freeBytes } },
  );
}
