#!/usr/bin/env node
// The `prune` command. Caches compiled code where Node can (22.8 and later) and hands over to the command line.
import module from "node:module";
import { existsSync } from "node:fs";

const main = new URL("../dist/src/cli/main.js", import.meta.url);
if (!existsSync(main)) {
  process.stderr.write("error: prune is not built yet.\nhint: Run `npm run build` in the package's directory.\n");
  process.exit(1);
}
module.enableCompileCache?.();
await (await import(main.href)).main(process.argv.slice(2));
