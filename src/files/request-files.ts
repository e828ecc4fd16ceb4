/** Files and directories that a request names, and what is looked for beside them. */
import { UsageError } from "../errors.js";
import { doorFor } from "./door.js";

export const { existsSync, readdirSync, readFile, readFileSync, realpath, statSync } = doorFor({
  what: "named on the command line",
  Problem: UsageError,
  hint: "Name a file that is there and that this user may read.",
  fullHint: "Free some space.",
});
