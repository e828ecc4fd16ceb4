/** Standard output and the log where they are files. */
import { ResourceError } from "../errors.js";
import { doorFor } from "./door.js";

export const { appendFile, isRegular, writeFile, writeWholeSync } = doorFor({
  what: "output of the command",
  Problem: ResourceError,
  hint: "Send it elsewhere.",
  fullHint: "Free some space, or send it elsewhere.",
});
