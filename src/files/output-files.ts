/** The output while it is made, and everything that a run or a sweep puts beside it until it is finished. */
import { ResourceError } from "../errors.js";
import { doorFor } from "./door.js";

export const {
  appendFile,
  chmod,
  copyFile,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} = doorFor({
  what: "the output and its working files",
  Problem: ResourceError,
  hint: "Give this user the right to write there. The same command with --resume goes on from what was written.",
  fullHint: "Free some space. Nothing that was written is lost: the same command with --resume goes on from there.",
});
