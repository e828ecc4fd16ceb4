/** Files of this program itself. */
import { ResourceError } from "../errors.js";
import { doorFor } from "./door.js";

export const { existsSync, readdirSync, readFile, readFileSync } = doorFor({
  what: "a part of prune itself",
  Problem: ResourceError,
  hint: "Install the package again.",
  fullHint: "Free some space.",
});
