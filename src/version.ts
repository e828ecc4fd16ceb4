/** The package's version, part of every run's fingerprint. */
import { readFileSync } from "./files/program-files.js";

const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

export const VERSION: string = manifest.version;
