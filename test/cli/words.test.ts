import assert from "node:assert/strict";
import { test } from "node:test";
import { COMMANDS } from "../../src/cli/commands/index.js";
import { overview } from "../../src/cli/program.js";
import { normalizeWords } from "../../src/cli/words.js";
import { runPrune } from "../helpers/cli.js";

const NAMES = COMMANDS.map(({ name }) => name);

test("what every command has may come before its name", () => {
  for (const [typed, meant] of [
    ["--json eval m --text t", "eval --json m --text t"],
    ["-q --log-file f inspect m", "inspect -q --log-file f m"],
    ["--log-format=json -v methods", "methods --log-format=json -v"],
    ["--json --sparsity 0.5", "--json --sparsity 0.5"],
    ["--model eval", "--model eval"],
    ["eval --json m", "eval --json m"],
    ["-v", "--version"],
    ["version", "--version"],
    ["-v --sparsity 0.5", "-v --sparsity 0.5"],
    ["--log-file", "--log-file"],
  ] as const)
    assert.deepEqual(normalizeWords(typed.split(" "), NAMES), meant.split(" "), typed);
  assert.deepEqual(normalizeWords([], NAMES), []);
});

test("prune alone says what there is, on one screen of thirty lines", async () => {
  const { code, stdout } = await runPrune([]);
  assert.equal(code, 0);
  assert.equal(stdout, overview(COMMANDS));
  const lines = stdout.split("\n");
  assert.ok(lines.length <= 30 && lines.every((line) => line.length <= 100), stdout);
  for (const name of NAMES) assert.match(stdout, new RegExp(`^  ${name} `, "m"));
});

test("help is a command", async () => {
  const [help, flag] = await Promise.all([runPrune(["help", "inspect"]), runPrune(["inspect", "--help"])]);
  assert.deepEqual([help.code, help.stdout], [0, flag.stdout]);
  const unknown = await runPrune(["help", "inpsect"]);
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /Did you mean "inspect"/);
});
