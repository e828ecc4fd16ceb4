import assert from "node:assert/strict";
import { test } from "node:test";
import { UsageError } from "../../src/errors.js";
import { folderOf, parseRepository, repositoryOfFolder, repositoryText } from "../../src/hub/names.js";

const NAMES: readonly [string, string | undefined][] = [
  ["meta-llama/Llama-3.2-1B", "model meta-llama/Llama-3.2-1B main"],
  ["org/name@v1.0", "model org/name v1.0"],
  ["hf://org/name@refs/pr/3", "model org/name refs/pr/3"],
  ["hf://gpt2", "model gpt2 main"],
  ["hf://datasets/allenai/c4", "dataset allenai/c4 main"],
  ["hf://models/org/name", "model org/name main"],
  // What can only be a path.
  ["gpt2", undefined],
  ["./org/name", undefined],
  ["/org/name", undefined],
  ["../name", undefined],
  ["a/b/c", undefined],
  ["org/name/", undefined],
  ["org/na..me", undefined],
  ["org/na--me", undefined],
  ["org/name@../../x", undefined],
];

test("names of repositories are told from paths", () => {
  for (const [text, expected] of NAMES) {
    const found = parseRepository(text);
    assert.equal(found && `${found.kind} ${found.id} ${found.revision}`, expected, text);
  }
  for (const text of ["hf://", "hf://a/b/c", "hf://../x", "hf://org/name@.."])
    assert.throws(() => parseRepository(text), UsageError, text);
});

test("folders of the cache and names lead to each other", () => {
  for (const [id, folder] of [
    ["org/name", "models--org--name"],
    ["gpt2", "models--gpt2"],
  ] as const) {
    assert.equal(folderOf({ kind: "model", id }), folder);
    assert.deepEqual(repositoryOfFolder(folder), { kind: "model", id });
  }
  assert.deepEqual(repositoryOfFolder("datasets--allenai--c4"), { kind: "dataset", id: "allenai/c4" });
  for (const name of ["models", "models--", "spaces--a--b", "my-models--x"])
    assert.equal(repositoryOfFolder(name), undefined, name);
  assert.equal(repositoryText({ id: "a/b", revision: "main" }), "a/b");
  assert.equal(repositoryText({ id: "a/b", revision: "v1" }), "a/b@v1");
});
