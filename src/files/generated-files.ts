/** Generated sequences: one file, which is there whole or not at all. */
import { ResourceError } from "../errors.js";
import { doorFor } from "./door.js";

export const { open, rename, rm, writeFile } = doorFor({
  what: "the generated sequences",
  Problem: ResourceError,
  hint: "Give this user the right to write there, or choose another --out.",
  fullHint: "Free some space, or choose another --out. The sequences have to be made again.",
});
