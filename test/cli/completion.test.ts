import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { COMMANDS } from "../../src/cli/commands/index.js";
import { completionsOf, linesFor, scriptFor, type Names } from "../../src/cli/completion.js";
import { knownNames } from "../../src/cli/names.js";
import { repositoryPath } from "../helpers/paths.js";

const named = (...values: string[]) => values.map((value) => ({ value, help: `about ${value}` }));
const NAMES: Names = {
  methods: named("wanda", "sparsegpt"),
  steps: named("dsnot", "reconstruct"),
  families: named("llama", "qwen2"),
  recipes: named("wanda-0.5", "wanda-2of4"),
};

/** What follows a line; the word under the cursor is what is behind its last space. */
const after = (line: string): string[] =>
  completionsOf(line.split(" "), COMMANDS, () => NAMES).map(({ value }) => value);

test("commands, flags and values are completed where they may stand", () => {
  assert.ok(after("").includes("run") && after("").includes("help"));
  assert.deepEqual(after("ev"), ["eval"]);
  assert.deepEqual(after("help ins"), ["inspect"]);
  assert.deepEqual(after("eval --max-p"), ["--max-ppl", "--max-ppl-ratio"]);
  assert.deepEqual(after("--spars"), ["--sparsity"], "flags of a run without its name");
  assert.deepEqual(after("inspect --spars"), []);
  assert.deepEqual(after("--method "), ["wanda", "sparsegpt", "auto"]);
  assert.deepEqual(after("run m --method sp"), ["sparsegpt"]);
  assert.deepEqual(after("--then dsnot re"), ["reconstruct"], "flags that take several");
  assert.deepEqual(after("--method wanda sp"), [], "flags that take one");
  assert.deepEqual(after("compare --methods wanda,sp"), ["wanda,sparsegpt"]);
  assert.deepEqual(after("--pattern 2"), ["2:4"]);
  assert.deepEqual(after("--device w"), ["webgpu"], "choices of the table");
  assert.deepEqual(after("eval --log-format "), ["pretty", "json"]);
  assert.deepEqual(after("--recipe wanda-2"), ["wanda-2of4"]);
  assert.deepEqual(after("methods ow"), ["owl"]);
  assert.deepEqual(after("completion f"), ["fish"]);
  for (const line of ["eval ./m", "--calibration c4", "eval m --text "])
    assert.deepEqual(after(line), [], `${line}: a file`);
});

test("each shell gets its own lines", () => {
  const found = [{ value: "2:4", help: "two of four" }];
  assert.equal(linesFor("bash", found), "2:4\n");
  assert.equal(linesFor("zsh", found), "2\\:4:two of four\n");
  assert.equal(linesFor("fish", found), "2:4\ttwo of four\n");
});

test("the names are those of the methods", () => {
  const { methods, steps, recipes } = knownNames();
  const of = (all: readonly { value: string }[]): string[] => all.map(({ value }) => value);
  assert.ok(of(methods).includes("sparsegpt") && !of(methods).includes("dsnot"));
  assert.ok(of(steps).includes("dsnot") && of(recipes).includes("wanda-2of4"));
});

test("bash completes, words with a colon as well", { skip: process.platform === "win32" }, () => {
  const program = `prune() { ${JSON.stringify(process.execPath)} ${JSON.stringify(repositoryPath("bin/prune.js"))} "$@"; }`;
  const ask = (line: string): string =>
    `COMP_LINE=${JSON.stringify(line)}; COMP_POINT=\${#COMP_LINE}; _prune_complete; echo "\${COMPREPLY[@]}"`;
  const script = [program, scriptFor("bash"), ask("prune ins"), ask("prune --method wand"), ask("prune --pattern 2:")];
  const { stdout, stderr } = spawnSync("bash", ["-c", script.join("\n")], { encoding: "utf8" });
  assert.equal(stdout, "inspect\nwanda wanda++\n4\n", stderr);
});
