/** Files of checkpoints that are read. */
import { CheckpointError } from "../errors.js";
import { doorFor } from "./door.js";

export const { access, existsSync, open, readdir, readFile, readFileSync, realpath, stat, statSync } = doorFor({
  what: "the checkpoint",
  Problem: CheckpointError,
  hint: "The checkpoint is incomplete or this user may not read it: download or copy it again, or give the right to read it.",
  fullHint: "Free some space.",
});
