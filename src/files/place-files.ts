/** Where --out is to be: looked at before anything is written. */
import { UsageError } from "../errors.js";
import { doorFor } from "./door.js";

export const { access, lstat, realpath, stat, statfs } = doorFor({
  what: "the place of --out",
  Problem: UsageError,
  hint: "Choose another --out.",
  fullHint: "Free some space, or choose another --out.",
});
