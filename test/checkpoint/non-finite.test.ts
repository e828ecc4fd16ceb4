import assert from "node:assert/strict";
import { test } from "node:test";
import { BufferPool, PIECE_BYTES } from "../../src/checkpoint/buffer-pool.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { findNonFinite } from "../../src/checkpoint/non-finite.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

/** Stored bits, two bytes each or four. */
function tensor(dtype: string, shape: readonly number[], bits: readonly number[]): TestTensor {
  const words = dtype === "F32" ? Uint32Array.from(bits) : Uint16Array.from(bits);
  return { dtype, shape, values: new Uint8Array(words.buffer) };
}

/** NaN, ∞, -∞ and the largest finite numbers of both signs, as bits. */
const NUMBERS = {
  F32: { nan: 0x7fc00000, infinity: 0x7f800000, negative: 0xff800000, largest: 0x7f7fffff, smallest: 0xff7fffff },
  BF16: { nan: 0xffc1, infinity: 0x7f80, negative: 0xff80, largest: 0x7f7f, smallest: 0xff7f },
  F16: { nan: 0x7e00, infinity: 0x7c00, negative: 0xfc00, largest: 0x7bff, smallest: 0xfbff },
};

test("values that are not finite are found in every dtype, at every place of a word, and nothing else is", async (t) => {
  const directory = temporaryDirectory(t);
  const tensors: Record<string, TestTensor> = {};
  for (const [dtype, bits] of Object.entries(NUMBERS)) {
    const { nan, infinity, negative, largest, smallest } = bits;
    const finite = [largest, smallest, largest, smallest, largest];
    tensors[`${dtype}.finite`] = tensor(dtype, [5], finite);
    for (const [name, value] of Object.entries({ nan, infinity, negative }))
      finite.forEach((_, place) => {
        tensors[`${dtype}.${name}.${place}`] = tensor(dtype, [5], finite.with(place, value));
      });
  }
  tensors["stacked"] = tensor("BF16", [2, 2, 3], [0, 0, 0, 0, 0, 0x7f80, 0, 0, 0x7fc0, 0, 0, 0]);
  tensors["integers"] = { dtype: "I32", shape: [1], values: Uint8Array.of(0, 0, 0xc0, 0x7f) };
  tensors["empty"] = tensor("BF16", [0, 4], []);
  await writeCheckpoint(directory, { tensors });
  await using checkpoint = await openCheckpoint(directory);
  const pool = new BufferPool();
  const expected = { nan: NaN, infinity: Infinity, negative: -Infinity };
  let found = 0;
  for (const name of Object.keys(tensors)) {
    const problem = await findNonFinite(checkpoint, name, pool);
    const [, kind = "", place] = name.split(".");
    if (!Object.hasOwn(expected, kind)) continue;
    found++;
    assert.deepEqual([problem?.count, problem?.elements, problem?.place], [1, 5, [Number(place)]], name);
    assert.equal(problem?.value, expected[kind as keyof typeof expected], name);
  }
  assert.equal(found, 45);
  for (const name of ["F32.finite", "BF16.finite", "F16.finite", "integers", "empty"])
    assert.equal(await findNonFinite(checkpoint, name, pool), undefined, name);
  const stacked = await findNonFinite(checkpoint, "stacked", pool);
  assert.deepEqual([stacked?.count, stacked?.place, stacked?.value], [2, [0, 1, 2], Infinity]);
});

test("places beyond the first piece that is read are those of the tensor", async (t) => {
  const directory = temporaryDirectory(t);
  const columns = PIECE_BYTES / 2;
  const bits = new Uint16Array(2 * columns + 1);
  bits[2 * columns] = 0x7fc0;
  const values = new Uint8Array(bits.buffer);
  await writeCheckpoint(directory, { tensors: { long: { dtype: "BF16", shape: [2 * columns + 1, 1], values } } });
  await using checkpoint = await openCheckpoint(directory);
  const found = await findNonFinite(checkpoint, "long", new BufferPool());
  assert.deepEqual([found?.count, found?.place], [1, [2 * columns, 0]]);
});
