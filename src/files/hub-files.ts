/** The cache that downloads from the Hub share with other tools, and the file of its token. */
import { ResourceError } from "../errors.js";
import { doorFor } from "./door.js";

export const { existsSync, mkdir, open, readdir, readFile, readPieces, rename, rm, stat, statfs, symlink, writeFile } =
  doorFor({
    what: "the Hub's cache",
    Problem: ResourceError,
    hint: "Give this user the right to write there, or set HF_HOME or HF_HUB_CACHE to another directory.",
    fullHint:
      "Free some space, or set HF_HUB_CACHE to a directory that has room. The same command goes on with the download.",
  });
