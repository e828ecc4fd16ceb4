/** House rules of shaders/*.wgsl that a compiler does not check. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { ALL_KERNELS, shaderDirectory } from "../../src/device/webgpu/kernel.js";
// Defines the kernels.
import "../../src/device/webgpu/webgpu-device.js";

const directory = shaderDirectory();
const files = [
  ...readdirSync(directory).filter((name) => name.endsWith(".wgsl")),
  ...readdirSync(new URL("lib/", directory)).map((name) => `lib/${name}`),
];

function read(file: string): string {
  return readFileSync(new URL(file, directory), "utf8");
}

/** The source without comments. */
function code(file: string): string {
  return read(file).replaceAll(/\/\/.*$/gm, "");
}

test("every shader file belongs to a kernel, and every kernel's files exist", () => {
  const used = new Set(ALL_KERNELS.flatMap((spec) => spec.files));
  assert.deepEqual([...used].sort(), [...files].sort());
});

for (const file of files) {
  test(`${file} opens with a comment that begins with its name`, () => {
    const name = file.replace("lib/", "").replace(".wgsl", "");
    assert.ok(read(file).startsWith(`// ${name}: `), read(file).slice(0, 80));
  });

  test(`${file} initialises every variable of a function, because loops do not reset them on every backend`, () => {
    // Module-scope variables name an address space in angle brackets; all others are in functions.
    const bare = [...code(file).matchAll(/\bvar\s+\w+\s*(:[^=;]*)?;/g)].map((match) => match[0]);
    assert.deepEqual(bare, []);
  });

  test(`${file} has no string template and no preprocessor`, () => {
    assert.doesNotMatch(read(file), /\$\{|^\s*#(if|else|endif|define|import|include)/m);
  });

  if (!file.startsWith("lib/")) {
    test(`the header of ${file} states outputs, params, grid and accuracy`, () => {
      const header = read(file).split(/^(?!\/\/)/m)[0] ?? "";
      for (const field of ["outputs", "params", "grid", "accuracy"]) {
        assert.match(header, new RegExp(`^//   ${field} `, "m"), `missing "${field}"`);
      }
    });
  }
}
