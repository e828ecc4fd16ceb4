/** Where this package lies. The compiled file is dist/src/cli/package.js. */
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../../", import.meta.url);

export function demoModelDirectory(): string {
  return fileURLToPath(new URL("models/demo", ROOT));
}
