/** The folder OUT.lock, and what the system tells of processes. */
import { UsageError } from "../errors.js";
import { doorFor } from "./door.js";

export const { mkdir, readdir, readFile, readlink, rename, rm, rmdir, writeFile } = doorFor({
  what: "the lock of --out",
  Problem: UsageError,
  hint: "Choose another --out.",
  fullHint: "Free some space, or choose another --out.",
});
