/** Where tests find things. Tests run compiled, from dist/test. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../../", import.meta.url);

/** A path inside the repository. */
export function repositoryPath(relative: string): string {
  return fileURLToPath(new URL(relative, ROOT));
}

/** Reference data that may not be part of the repository lies beside it; undefined where it is absent. */
export function sharedPath(relative: string): string | undefined {
  const path = fileURLToPath(new URL(`../shared/${relative}`, ROOT));
  return existsSync(path) ? path : undefined;
}

/** Options for a test that needs such data: skipped, with the reason, where it is absent. */
export function needsShared(relative: string): { readonly skip: string | false } {
  return { skip: sharedPath(relative) === undefined ? `reference data ../shared/${relative} is not here` : false };
}

/** `findModel` of a configuration's surroundings that knows directories only. */
export function localModels(workingDirectory: string): (name: string) => Promise<string> {
  return (name) => Promise.resolve(resolve(workingDirectory, name));
}
