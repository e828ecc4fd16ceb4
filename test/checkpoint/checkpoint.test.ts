/** Opening and reading checkpoint directories, whole and damaged. */
import assert from "node:assert/strict";
import { mkdir, readFile, rename, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import fc from "fast-check";
import { PIECE_BYTES } from "../../src/checkpoint/buffer-pool.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { CheckpointError } from "../../src/errors.js";
import { encodeSafetensors, temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

/** Values that all float dtypes hold exactly. */
function exactValues(count: number, offset = 0): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (((i * 7 + offset) % 255) - 127) / 8);
}

const float = (dtype: string, shape: readonly number[], offset = 0): TestTensor => ({
  dtype,
  shape,
  values: exactValues(
    shape.reduce((a, b) => a * b, 1),
    offset,
  ),
});

const isError =
  (code: string, message: RegExp, hint?: RegExp) =>
  (error: unknown): true => {
    assert.ok(error instanceof CheckpointError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    if (hint !== undefined) assert.match(error.hint ?? "", hint);
    return true;
  };

describe("reading", () => {
  test("whole tensors of every float dtype come back from a single file", async (t) => {
    const directory = temporaryDirectory(t);
    const tensors = {
      a: float("F32", [3, 5]),
      b: float("F16", [3, 5], 1),
      c: float("BF16", [7], 2),
      s: float("BF16", [], 3),
      e: float("F16", [0, 4]),
    };
    await writeCheckpoint(directory, { tensors });
    await using checkpoint = await openCheckpoint(directory);
    assert.deepEqual([...checkpoint.tensors.keys()].sort(), ["a", "b", "c", "e", "s"]);
    for (const [name, { values }] of Object.entries(tensors))
      assert.deepEqual(await checkpoint.readTensor(name), values);
    assert.deepEqual(checkpoint.shards, ["model.safetensors"]);
    assert.equal(checkpoint.has("a"), true);
    assert.equal(checkpoint.has("A"), false);
  });

  test("tensors come back from shards, with the shard they are in", async (t) => {
    const directory = temporaryDirectory(t);
    const tensors = Object.fromEntries(
      ["a", "b", "c", "d", "e"].map((name, i) => [name, float("BF16", [4, i + 1], i)]),
    );
    await writeCheckpoint(directory, { tensors, shards: 3 });
    await using checkpoint = await openCheckpoint(directory);
    assert.equal(checkpoint.shards.length, 3);
    assert.equal(checkpoint.info("e").file, "model-00002-of-00003.safetensors");
    for (const [name, { values }] of Object.entries(tensors))
      assert.deepEqual(await checkpoint.readTensor(name), values);
  });

  test("a tensor of several pieces comes back whole, also into a given array, also several at once", async (t) => {
    const directory = temporaryDirectory(t);
    const count = PIECE_BYTES / 2 + PIECE_BYTES / 4 + 3;
    const [b, f] = [float("BF16", [count]), float("F16", [count], 5)];
    await writeCheckpoint(directory, { tensors: { b, f } });
    await using checkpoint = await openCheckpoint(directory);
    const out = new Float32Array(count);
    const [first, second, third] = await Promise.all([
      checkpoint.readTensor("b", out),
      checkpoint.readTensor("f"),
      checkpoint.readTensor("b"),
    ]);
    assert.equal(first, out);
    assert.ok(Buffer.from(first.buffer).equals(Buffer.from((b.values as Float32Array).buffer)));
    assert.ok(Buffer.from(second.buffer).equals(Buffer.from((f.values as Float32Array).buffer)));
    assert.ok(Buffer.from(third.buffer).equals(Buffer.from(first.buffer)));
  });

  test("any rows of a matrix equal those of the whole tensor", async (t) => {
    const directory = temporaryDirectory(t);
    const tensors = { F32: float("F32", [11, 5]), F16: float("F16", [11, 5]), BF16: float("BF16", [11, 5]) };
    await writeCheckpoint(directory, { tensors });
    await using checkpoint = await openCheckpoint(directory);
    const dtype = fc.constantFrom("F32", "F16", "BF16");
    await fc.assert(
      fc.asyncProperty(dtype, fc.nat(11), fc.nat(11), async (name, a, b) => {
        const [first, last] = [Math.min(a, b), Math.max(a, b)];
        assert.deepEqual(
          await checkpoint.readRows(name, first, last - first),
          exactValues(55).slice(5 * first, 5 * last),
        );
      }),
    );
    await assert.rejects(checkpoint.readRows("F32", 10, 2), RangeError);
    await assert.rejects(checkpoint.readRows("F32", -1, 1), RangeError);
    await assert.rejects(checkpoint.readTensor("F32", new Float32Array(54)), RangeError);
  });

  test("rows of a tensor that is no matrix are refused", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { v: float("F32", [6]) } });
    await using checkpoint = await openCheckpoint(directory);
    await assert.rejects(
      checkpoint.readRows("v", 0, 1),
      isError("E_TENSOR_SHAPE", /"v" has shape \[6\]; expected a matrix/),
    );
  });

  test("bytes of any dtype come back as stored, in whole and in part, and only they are read", async (t) => {
    const directory = temporaryDirectory(t);
    const values = Uint8Array.from({ length: 40 }, (_, i) => 255 - i);
    await writeCheckpoint(directory, {
      tensors: {
        b: { dtype: "BOOL", shape: [40], values },
        q: { dtype: "F6_E2M3", shape: [20, 2], values: values.slice(0, 30) },
      },
    });
    await using checkpoint = await openCheckpoint(directory);
    const before = checkpoint.bytesRead;
    assert.deepEqual(await checkpoint.readBytes("b"), values);
    assert.deepEqual(await checkpoint.readBytes("q", 3, 10), values.slice(3, 10));
    assert.equal(checkpoint.bytesRead - before, 47);
    await assert.rejects(checkpoint.readBytes("q", 3, 31), RangeError);
    await assert.rejects(
      checkpoint.readTensor("q"),
      isError("E_TENSOR_DTYPE", /"q" is "F6_E2M3"; expected F32, F16 or BF16/, /Convert/),
    );
  });

  test("a missing tensor is named with the nearest name that exists", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, {
      tensors: { "model.layers.0.mlp.up_proj.weight": float("F32", [1]), "model.norm.weight": float("F32", [1]) },
    });
    await using checkpoint = await openCheckpoint(directory);
    const missing = (name: string, hint: RegExp): void =>
      assert.throws(
        () => checkpoint.info(name),
        isError("E_TENSOR_MISSING", new RegExp(name.replaceAll(".", "\\.")), hint),
      );
    missing("model.layers.0.mlp.up_prj.weight", /"model\.layers\.0\.mlp\.up_proj\.weight"/);
    missing("layers.0.mlp.up_proj.weight", /"model\.layers\.0\.mlp\.up_proj\.weight"/);
    missing("visual.patch_embedding.bias", /incomplete/);
  });

  test("the hash of the headers depends on layout and names, not on data or place", async (t) => {
    const base = temporaryDirectory(t);
    const hashOf = async (folder: string, tensors: Readonly<Record<string, TestTensor>>): Promise<string> => {
      await writeCheckpoint(join(base, folder), { tensors });
      await using checkpoint = await openCheckpoint(join(base, folder));
      return checkpoint.headersSha256;
    };
    const hash = await hashOf("a", { w: float("F32", [2, 3]) });
    assert.match(hash, /^[0-9a-f]{64}$/);
    assert.equal(await hashOf("b", { w: float("F32", [2, 3], 9) }), hash);
    assert.notEqual(await hashOf("c", { w: float("F32", [3, 2]) }), hash);
    assert.notEqual(await hashOf("d", { v: float("F32", [2, 3]) }), hash);
  });

  test("a checkpoint of symbolic links, as the Hugging Face cache keeps it, is read", async (t) => {
    const base = temporaryDirectory(t);
    await writeCheckpoint(join(base, "blobs"), { tensors: { w: float("BF16", [2, 3]) } });
    await mkdir(join(base, "snapshot"));
    await symlink("../blobs/model.safetensors", join(base, "snapshot", "model.safetensors"));
    await using checkpoint = await openCheckpoint(join(base, "snapshot"));
    assert.deepEqual(await checkpoint.readTensor("w"), exactValues(6));
  });
});

describe("damaged checkpoints", () => {
  test("a directory that does not exist, or is a file, is refused", async (t) => {
    const base = temporaryDirectory(t);
    await writeFile(join(base, "file"), "");
    for (const name of ["nowhere", "file", "file/below"]) {
      await assert.rejects(
        openCheckpoint(join(base, name)),
        isError("E_CHECKPOINT_MISSING", new RegExp(`${name}: no such directory`)),
      );
    }
  });

  for (const [file, hint] of [
    ["pytorch_model.bin", /Only "pytorch_model\.bin" is there: convert/],
    ["model-q4.gguf", /Only "model-q4\.gguf" is there: convert/],
    ["model-00001-of-00002.safetensors", /model\.safetensors\.index\.json, which lists the shards, is missing/],
    ["notes.txt", /directory that holds config\.json/],
  ] as const) {
    test(`a directory with only ${file} gets a hint about it`, async (t) => {
      const directory = temporaryDirectory(t);
      await writeFile(join(directory, file), "x");
      await assert.rejects(
        openCheckpoint(directory),
        isError("E_NO_SAFETENSORS", /neither model\.safetensors nor/, hint),
      );
    });
  }

  test("a missing shard is named", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { a: float("F32", [2]), b: float("F32", [2]) }, shards: 2 });
    await rm(join(directory, "model-00002-of-00002.safetensors"));
    await assert.rejects(
      openCheckpoint(directory),
      isError("E_FILE_MISSING", /model-00002-of-00002\.safetensors: no such file/, /incomplete/),
    );
  });

  test("a file truncated anywhere is refused on opening", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { a: float("F32", [20]), b: float("BF16", [3]) } });
    const path = join(directory, "model.safetensors");
    const { length } = await readFile(path);
    for (const size of [length - 1, length - 40, 60, 8, 5, 0]) {
      await truncate(path, size);
      await assert.rejects(
        openCheckpoint(directory),
        isError("E_FILE_TRUNCATED", /model\.safetensors/, /download or copy it again/),
        `${size}`,
      );
    }
  });

  test("a file that shrinks while it is open gives an error when its data is read", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { a: float("F32", [2000]) } });
    await using checkpoint = await openCheckpoint(directory);
    await truncate(join(directory, "model.safetensors"), 4000);
    await assert.rejects(checkpoint.readTensor("a"), isError("E_FILE_TRUNCATED", /ends at byte 4000/));
  });

  test("a folder in the place of a shard is refused", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { a: float("F32", [2]), b: float("F32", [2]) }, shards: 2 });
    await rm(join(directory, "model-00001-of-00002.safetensors"));
    await mkdir(join(directory, "model-00001-of-00002.safetensors"));
    await assert.rejects(openCheckpoint(directory), isError("E_FILE_UNREADABLE", /not a regular file/));
  });

  test("shards swapped under their names are refused, naming tensors and shards", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { a: float("F32", [2]), b: float("F32", [2]) }, shards: 2 });
    const [one, two] = [1, 2].map((i) => join(directory, `model-0000${i}-of-00002.safetensors`)) as [string, string];
    await rename(one, `${one}.x`);
    await rename(two, one);
    await rename(`${one}.x`, two);
    await assert.rejects(
      openCheckpoint(directory),
      isError("E_INDEX_MISMATCH", /"b" of model-00001-of-00002\.safetensors is listed in model-00002/),
    );
  });

  test("an index that points outside the folder is refused before any shard is opened", async (t) => {
    const base = temporaryDirectory(t);
    await writeCheckpoint(join(base, "x"), { tensors: { a: float("F32", [2]) }, shards: { a: "secret.safetensors" } });
    await mkdir(join(base, "y"));
    await writeFile(join(base, "y", "model.safetensors.index.json"), '{"weight_map":{"a":"../x/secret.safetensors"}}');
    await assert.rejects(openCheckpoint(join(base, "y")), isError("E_SHARD_NAME", /"\.\.\/x\/secret\.safetensors"/));
  });

  test("model.safetensors is taken where both it and an index exist, as loaders do", async (t) => {
    const directory = temporaryDirectory(t);
    await writeCheckpoint(directory, { tensors: { a: float("F32", [2]) }, shards: 2 });
    await writeFile(join(directory, "model.safetensors"), encodeSafetensors({ whole: float("F32", [3]) }));
    await using checkpoint = await openCheckpoint(directory);
    assert.deepEqual([...checkpoint.tensors.keys()], ["whole"]);
  });
});
