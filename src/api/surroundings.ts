/** What of this process a configuration depends on. */
import { freemem } from "node:os";
import { fileURLToPath } from "node:url";
import { tokenRowLength } from "../calibration/token-tensor.js";
import type { Surroundings } from "../config/resolve.js";

/** The package's own directory. The compiled file is dist/src/api/surroundings.js. */
const ROOT = new URL("../../../", import.meta.url);

/** @param findModel as in `Surroundings` */
export function surroundings(findModel: Surroundings["findModel"]): Surroundings {
  return {
    findModel,
    workingDirectory: process.cwd(),
    demoModel: fileURLToPath(new URL("models/demo", ROOT)),
    freeMemoryBytes: availableMemory(),
    tokenRowLength,
  };
}

/** Free memory in bytes, of the container where there is one (Node 20.13 and later know). */
function availableMemory(): number {
  return typeof process.availableMemory === "function" ? process.availableMemory() : freemem();
}
