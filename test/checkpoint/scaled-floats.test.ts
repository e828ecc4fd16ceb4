/** Weights of eight bits with scales: every code, every way in which scales lie, and what is not read. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { BufferPool } from "../../src/checkpoint/buffer-pool.js";
import { openCheckpoint, type Checkpoint } from "../../src/checkpoint/checkpoint.js";
import { findNonFinite } from "../../src/checkpoint/non-finite.js";
import { EIGHT_BIT_FLOATS } from "../../src/checkpoint/scaled-floats.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

/** As section 3 of the specification writes values: S.E.M in binary. */
function valueOf(bits: string): number {
  const [sign = "", exponent = "", fraction = ""] = bits.split(".");
  const bias = exponent.length === 4 ? 7 : 15;
  const isTop = !exponent.includes("0");
  const magnitude =
    isTop && exponent.length === 4 && fraction === "111"
      ? NaN
      : isTop && exponent.length === 5
        ? fraction === "00"
          ? Infinity
          : NaN
        : exponent.includes("1")
          ? parseInt(`1${fraction}`, 2) * 2 ** (parseInt(exponent, 2) - bias - fraction.length)
          : parseInt(fraction, 2) * 2 ** (1 - bias - fraction.length);
  return sign === "1" ? -magnitude : magnitude;
}

test("all 256 codes of both kinds are the specification's, its named ones among them", () => {
  for (const [dtype, width] of [
    ["F8_E4M3", 4],
    ["F8_E5M2", 5],
  ] as const) {
    const codes = EIGHT_BIT_FLOATS.get(dtype);
    assert.equal(codes?.length, 256);
    codes.forEach((value, code) => {
      const bits = code.toString(2).padStart(8, "0");
      const expected = valueOf(`${bits[0] ?? ""}.${bits.slice(1, 1 + width)}.${bits.slice(1 + width)}`);
      assert.ok(Object.is(value, expected), `${dtype} ${code}: ${value}, not ${expected}`);
    });
  }
  const [e4m3, e5m2] = [EIGHT_BIT_FLOATS.get("F8_E4M3"), EIGHT_BIT_FLOATS.get("F8_E5M2")];
  // largest, smallest normal, largest and smallest subnormal
  assert.deepEqual(
    [0x7e, 0x08, 0x07, 0x01].map((code) => e4m3?.[code]),
    [448, 2 ** -6, 0.875 * 2 ** -6, 2 ** -9],
  );
  assert.deepEqual(
    [0x7b, 0x04, 0x03, 0x01].map((code) => e5m2?.[code]),
    [57344, 2 ** -14, 0.75 * 2 ** -14, 2 ** -16],
  );
});

const [ROWS, COLUMNS] = [130, 200];
const CODES = Uint8Array.from({ length: ROWS * COLUMNS }, (_, i) => (i * 37) % 127);

async function open(t: TestContext, scales: Readonly<Record<string, TestTensor>>): Promise<Checkpoint> {
  const directory = temporaryDirectory(t);
  await writeCheckpoint(directory, {
    config: {},
    tensors: { "m.weight": { dtype: "F8_E4M3", shape: [ROWS, COLUMNS], values: CODES }, ...scales },
  });
  return openCheckpoint(directory);
}

const scale = (shape: readonly number[], dtype = "F32"): TestTensor => {
  const size = shape.reduce((product, each) => product * each, 1);
  return { dtype, shape, values: Float32Array.from({ length: size }, (_, i) => (i + 2) / 4) };
};

const LAYOUTS: readonly (readonly [name: string, scales: TestTensor, at: (row: number, column: number) => number])[] = [
  ["weight_scale_inv", scale([2, 2]), (row, column) => 2 * Math.floor(row / 128) + Math.floor(column / 128)],
  ["weight_scale_inv", scale([2, 2], "BF16"), (row, column) => 2 * Math.floor(row / 128) + Math.floor(column / 128)],
  ["weight_scale_inv", scale([1]), () => 0],
  ["weight_scale", scale([]), () => 0],
  ["weight_scale", scale([ROWS, 1]), (row) => row],
  ["weight_scale", scale([ROWS], "F16"), (row) => row],
];

for (const [name, scales, at] of LAYOUTS) {
  test(`${name} of ${scales.dtype} [${scales.shape.join(", ")}] is that of each weight, in blocks that end at the edge too`, async (t) => {
    await using checkpoint = await open(t, { [`m.${name}`]: scales, "m.input_scale": scale([1]) });
    assert.deepEqual([...checkpoint.packing].sort(), ["m.input_scale", `m.${name}`].sort());
    const codes = EIGHT_BIT_FLOATS.get("F8_E4M3") as Float32Array;
    const expected = Float32Array.from(CODES, (code, i) => {
      const place = at(Math.floor(i / COLUMNS), i % COLUMNS);
      return (codes[code] as number) * (scales.values[place] as number);
    });
    assert.deepEqual(await checkpoint.readTensor("m.weight"), expected);
    assert.deepEqual(await checkpoint.readRows("m.weight", 127, 3), expected.slice(127 * COLUMNS));
  });
}

test("a code that is no number is found with its place", async (t) => {
  const directory = temporaryDirectory(t);
  const values = CODES.with(3 * COLUMNS + 5, 0x7f);
  const weight = { dtype: "F8_E4M3", shape: [ROWS, COLUMNS], values };
  await writeCheckpoint(directory, { config: {}, tensors: { "m.weight": weight, "m.weight_scale": scale([1]) } });
  await using checkpoint = await openCheckpoint(directory);
  const found = await findNonFinite(checkpoint, "m.weight", new BufferPool());
  assert.deepEqual([found?.count, found?.place, found?.value], [1, [3, 5], NaN]);
});

test("scales of another number, of another type, or none, make no weight", async (t) => {
  for (const scales of [
    {},
    { "m.weight_scale": scale([3, 2]) },
    { "m.weight_scale": scale([2, 3]) },
    { "m.weight_scale": { dtype: "F8_E8M0", shape: [1], values: Uint8Array.of(127) } },
  ]) {
    await using checkpoint = await open(t, scales);
    assert.equal(checkpoint.packed.size, 0);
    await assert.rejects(checkpoint.readTensor("m.weight"), { code: "E_TENSOR_DTYPE" });
  }
});
