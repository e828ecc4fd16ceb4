/** Memory that a run may use by default. */
import { freemem } from "node:os";

/** Free memory in bytes, of the container where there is one (Node 20.13 and later know). */
export function availableMemory(): number {
  return typeof process.availableMemory === "function" ? process.availableMemory() : freemem();
}
