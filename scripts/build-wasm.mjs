/** Compiles src/device/cpu/assembly to dist/src/device/cpu/kernels.wasm. */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import asc from "assemblyscript/asc";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const output = "dist/src/device/cpu/kernels.wasm";
mkdirSync(join(root, dirname(output)), { recursive: true });

// Keep in step with src/device/cpu/kernel-pool.ts: the memory's limits are part of the import's type.
const MAXIMUM_PAGES = 32768; // 2 GiB
const { error, stderr } = await asc.main([
  "src/device/cpu/assembly/index.ts",
  "--outFile",
  output,
  "--baseDir",
  root,
  "--enable",
  "simd,threads",
  "--importMemory",
  "--sharedMemory",
  "--initialMemory",
  "2",
  "--maximumMemory",
  String(MAXIMUM_PAGES),
  "--memoryBase",
  "65536", // the host keeps arguments below
  "--runtime",
  "stub",
  "-O3",
  "--noAssert",
]);
if (error !== null) {
  process.stderr.write(`${stderr.toString()}\n`);
  process.exitCode = 1;
}
