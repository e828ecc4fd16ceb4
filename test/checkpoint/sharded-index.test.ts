/** Hostile and contradictory shard indexes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkShardIndex, parseShardIndex } from "../../src/checkpoint/sharded-index.js";
import { CheckpointError } from "../../src/errors.js";

const parse = (text: string): ReturnType<typeof parseShardIndex> => parseShardIndex(new TextEncoder().encode(text));

const hasCode =
  (code: string, message: RegExp) =>
  (error: unknown): true => {
    assert.ok(error instanceof CheckpointError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };

test("shards are listed once each, sorted, with the shard of every tensor", () => {
  const index = parse(
    '{"metadata":{"total_size":1},"weight_map":{"a":"y.safetensors","b":"x.safetensors","c":"y.safetensors"}}',
  );
  assert.deepEqual(index.shards, ["x.safetensors", "y.safetensors"]);
  assert.equal(index.shardOf.get("c"), "y.safetensors");
});

for (const [attack, shard] of [
  ["that leaves the folder", "../model.safetensors"],
  ["in a subfolder", "sub/model.safetensors"],
  ["with an absolute path", "/etc/model.safetensors"],
  ["with a backslash", "..\\\\model.safetensors"],
  ["with a drive letter", "C:model.safetensors"],
  ["that is the parent folder", ".."],
  ["that is no .safetensors file", "config.json"],
  ["that is a pickle", "pytorch_model.bin"],
  ["that is only the extension", ".safetensors"],
  ["that is empty", ""],
  ["with a zero byte", "a\\u0000.safetensors"],
  ["with a newline", "a\\n.safetensors"],
  ["with a name longer than file systems allow", `${"a".repeat(300)}.safetensors`],
] as const) {
  test(`a shard ${attack} is refused and named with its tensor`, () => {
    assert.throws(() => parse(`{"weight_map":{"w.weight":"${shard}"}}`), hasCode("E_SHARD_NAME", /"w\.weight"/));
  });
}

test("a shard that is a number is refused", () => {
  assert.throws(() => parse('{"weight_map":{"a":1}}'), hasCode("E_INDEX_INVALID", /"a"/));
});

test("a tensor listed twice is refused", () => {
  assert.throws(
    () => parse('{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}'),
    hasCode("E_INDEX_INVALID", /key "a" occurs twice/),
  );
});

test("an index without weight_map, with an empty one, or that is no JSON is refused", () => {
  assert.throws(() => parse('{"metadata":{}}'), hasCode("E_INDEX_INVALID", /"weight_map" is missing/));
  assert.throws(() => parse('{"weight_map":{}}'), hasCode("E_INDEX_INVALID", /empty/));
  assert.throws(() => parse("<html>"), hasCode("E_INDEX_INVALID", /not valid JSON/));
});

test("every difference between index and shards is reported at once, naming tensor and shard", () => {
  const index = parse('{"weight_map":{"a":"x.safetensors","b":"x.safetensors","c":"y.safetensors"}}');
  const held = new Map([
    ["x.safetensors", ["a", "c"]],
    ["y.safetensors", ["d"]],
  ]);
  assert.throws(
    () => checkShardIndex(index, held),
    (error: unknown) => {
      assert.ok(error instanceof CheckpointError);
      assert.equal(error.code, "E_INDEX_MISMATCH");
      assert.equal(error.details["problems"], 4);
      assert.match(error.message, /"c" of x\.safetensors is listed in y\.safetensors/);
      assert.match(error.message, /"d" of y\.safetensors is not listed/);
      assert.match(error.message, /"b" is listed in x\.safetensors, which does not hold it/);
      assert.match(error.message, /"c" is listed in y\.safetensors, which does not hold it/);
      return true;
    },
  );
});

test("a long list of differences is shortened", () => {
  const names = Array.from({ length: 20 }, (_, i) => `"lost.${i}":"x.safetensors"`);
  const index = parse(`{"weight_map":{"a":"x.safetensors",${names.join()}}}`);
  assert.throws(
    () => checkShardIndex(index, new Map([["x.safetensors", ["a"]]])),
    hasCode("E_INDEX_MISMATCH", /and 15 more/),
  );
});

test("tensors that the index leaves out are listed, unless two shards hold one of the name", () => {
  const index = parse('{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}');
  const held = (...second: string[]): Map<string, string[]> =>
    new Map([
      ["x.safetensors", ["a", "mtp.weight"]],
      ["y.safetensors", ["b", ...second]],
    ]);
  assert.deepEqual(checkShardIndex(index, held("other")), ["mtp.weight", "other"]);
  assert.throws(
    () => checkShardIndex(index, held("mtp.weight")),
    hasCode("E_INDEX_MISMATCH", /"mtp\.weight" is in x\.safetensors and in y\.safetensors/),
  );
});
