/** What of this process a configuration depends on, for the commands that resolve one. */
import { tokenRowLength, type Surroundings } from "../index.js";
import { availableMemory } from "./memory.js";
import { demoModelDirectory } from "./package.js";

export function surroundings(): Surroundings {
  return {
    workingDirectory: process.cwd(),
    demoModel: demoModelDirectory(),
    freeMemoryBytes: availableMemory(),
    tokenRowLength,
  };
}
