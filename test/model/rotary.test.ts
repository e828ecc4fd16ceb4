/**
 * Rotary tables against values derived here from the papers' formulas in doubles: by wavelength for llama3, by turns
 * within the context for yarn, by the base for dynamic, by divisors for longrope. Tables hold float32: 2e-7 relative.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigObject } from "../../src/model/config.js";
import { readRotaryTable, rotaryAngles, type RotaryKeys } from "../../src/model/rotary.js";

const FLOAT32 = 2e-7;

function readTable(config: object, headDim: number, keys: RotaryKeys = {}): ReturnType<typeof readRotaryTable> {
  return readRotaryTable(new ConfigObject({ ...config }, "config.json"), headDim, keys);
}

function assertClose(actual: ArrayLike<number>, expected: readonly number[]): void {
  assert.equal(actual.length, expected.length);
  expected.forEach((value, i) =>
    assert.ok(Math.abs((actual[i] ?? NaN) - value) <= FLOAT32 * Math.abs(value), `${i}: ${actual[i]} is not ${value}`),
  );
}

/** base^(-2i / dimensions) by logarithms. */
function plain(base: number, dimensions: number): number[] {
  return Array.from({ length: dimensions / 2 }, (_, i) => Math.exp((-2 * i * Math.log(base)) / dimensions));
}

test("without scaling, frequencies fall geometrically from 1 over the whole head", () => {
  const { dimensions, at } = readTable({ rope_theta: 500000 }, 16);
  assert.equal(dimensions, 16);
  assertClose(at(8).inverseFrequencies, plain(500000, 16));
  assertClose(readTable({}, 16).at(8).inverseFrequencies, plain(10000, 16));
});

test("with Hunyuan's alpha the base of a dynamic scaling has grown for all lengths", () => {
  const scaling = {
    type: "dynamic",
    alpha: 1000,
    factor: 1,
    mscale: 1,
    mscale_all_dim: 1,
    beta_fast: 32,
    beta_slow: 1,
  };
  const { at } = readTable({ rope_theta: 10000, rope_scaling: scaling, max_position_embeddings: 64 }, 16);
  for (const tokens of [8, 64]) assertClose(at(tokens).inverseFrequencies, plain(10000 * 1000 ** (16 / 14), 16));
});

test("longrope takes Phi-MoE's own factors for short and for long sequences", () => {
  const factors = { short_factor: [1, 1], long_factor: [2, 4], short_mscale: 1.243, long_mscale: 1.19 };
  const scaling = { type: "longrope", original_max_position_embeddings: 8, ...factors };
  const { at } = readTable({ rope_scaling: scaling, max_position_embeddings: 128 }, 4);
  assert.deepEqual([at(8).attentionFactor, at(9).attentionFactor], [1.243, 1.19]);
  assertClose(at(9).inverseFrequencies, [1 / 2, 1 / 100 / 4]);
});

test("linear scaling divides every frequency, keyed type or rope_type, in 4.x and 5.x files", () => {
  const expected = plain(1000, 8).map((frequency) => frequency / 4);
  for (const config of [
    { rope_theta: 1000, rope_scaling: { type: "linear", factor: 4 } },
    { rope_theta: 1000, rope_scaling: { rope_type: "linear", factor: 4 } },
    { rope_parameters: { rope_type: "linear", factor: 4, rope_theta: 1000 } },
  ])
    assertClose(readTable(config, 8).at(8).inverseFrequencies, expected);
});

test("llama3 scaling keeps short wavelengths, divides long ones and blends between", () => {
  const scaling = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
  const config = { rope_theta: 10000, rope_scaling: { ...scaling, original_max_position_embeddings: 128 } };
  const kinds = new Set<string>();
  const expected = plain(10000, 32).map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency;
    if (wavelength < 128 / 4) return kinds.add("kept") && frequency;
    if (wavelength > 128 / 1) return kinds.add("divided") && frequency / 8;
    const kept = (128 / wavelength - 1) / (4 - 1);
    return kinds.add("blended") && frequency * (kept + (1 - kept) / 8);
  });
  assert.equal(kinds.size, 3);
  assertClose(readTable(config, 32).at(8).inverseFrequencies, expected);
});

test("yarn keeps what turns often within the original context, divides what does not turn, blends by index", () => {
  const scaling = { type: "yarn", factor: 4, original_max_position_embeddings: 2048 };
  const config = { rope_theta: 10000, max_position_embeddings: 8192, rope_scaling: scaling };
  const { inverseFrequencies, attentionFactor } = readTable(config, 64).at(8);
  const frequencies = plain(10000, 64);
  // The index at which a frequency turns r times in 2048 positions: base^(-2i/64) · 2048 / 2π = r.
  const indexOf = (turns: number): number => (32 * Math.log(2048 / (2 * Math.PI * turns))) / Math.log(10000);
  const [first, last] = [Math.floor(indexOf(32)), Math.ceil(indexOf(1))];
  assert.ok(0 < first && last < 32, `${first} to ${last}`);
  const expected = frequencies.map((frequency, i) => {
    if (i <= first) return frequency;
    if (i >= last) return frequency / 4;
    const divided = (i - first) / (last - first);
    return frequency * (1 - divided) + (frequency / 4) * divided;
  });
  assertClose(inverseFrequencies, expected);
  assertClose([attentionFactor ?? 1], [1 + Math.log(4) / 10]);
});

test("yarn takes its bounds and its attention factor from the config where they are given", () => {
  const scaling = { type: "yarn", factor: 2, original_max_position_embeddings: 512 };
  const read = (extra: object): ReturnType<ReturnType<typeof readTable>["at"]> =>
    readTable({ max_position_embeddings: 1024, rope_scaling: { ...scaling, ...extra } }, 32).at(8);
  assert.equal(read({ attention_factor: 1.25 }).attentionFactor, 1.25);
  assertClose(
    [read({ mscale: 2, mscale_all_dim: 1 }).attentionFactor ?? 1],
    [(1 + 0.2 * Math.log(2)) / (1 + 0.1 * Math.log(2))],
  );
  // Both bounds at 3.5 of 16 indices: everything up to 3 is kept, everything from 4 on divided.
  const turns = (512 / (2 * Math.PI)) * Math.exp((-2 * 3.5 * Math.log(10000)) / 32);
  const { inverseFrequencies } = read({ beta_fast: turns, beta_slow: turns });
  assertClose(
    inverseFrequencies,
    plain(10000, 32).map((frequency, i) => (i < 4 ? frequency : frequency / 2)),
  );
});

test("dynamic scaling changes nothing within the trained context and grows the base beyond it", () => {
  const config = { rope_theta: 10000, max_position_embeddings: 64, rope_scaling: { type: "dynamic", factor: 3 } };
  const { at } = readTable(config, 16);
  assertClose(at(8).inverseFrequencies, plain(10000, 16));
  assertClose(at(64).inverseFrequencies, plain(10000, 16));
  // factor · length / trained - (factor - 1) = 3 · 160 / 64 - 2 = 5.5
  assertClose(at(160).inverseFrequencies, plain(10000 * 5.5 ** (16 / 14), 16));
});

test("longrope has divisors for short and for long sequences and scales cos and sin in both", () => {
  const [short, long] = [
    [1, 1.1, 1.2, 1.3],
    [1, 2, 4, 8],
  ];
  const scaling = { type: "longrope", short_factor: short, long_factor: long };
  const config = { max_position_embeddings: 64, original_max_position_embeddings: 16, rope_scaling: scaling };
  const { at } = readTable(config, 8);
  assertClose(
    at(16).inverseFrequencies,
    plain(10000, 8).map((frequency, i) => frequency / (short[i] ?? NaN)),
  );
  assertClose(
    at(17).inverseFrequencies,
    plain(10000, 8).map((frequency, i) => frequency / (long[i] ?? NaN)),
  );
  const factor = Math.sqrt(1 + Math.log(64 / 16) / Math.log(16)); // = √1.5
  assertClose([at(16).attentionFactor ?? 1, at(17).attentionFactor ?? 1], [factor, factor]);
});

test("cos and sin are of position times frequency, times the attention factor", () => {
  const scaling = { type: "yarn", factor: 1, attention_factor: 2, original_max_position_embeddings: 64 };
  const table = readTable({ max_position_embeddings: 64, rope_scaling: scaling }, 4);
  const { cos, sin } = rotaryAngles(table, 3);
  assertClose(cos, [2, 2, 2 * Math.cos(1), 2 * Math.cos(0.01), 2 * Math.cos(2), 2 * Math.cos(0.02)]);
  assertClose(sin, [0, 0, 2 * Math.sin(1), 2 * Math.sin(0.01), 2 * Math.sin(2), 2 * Math.sin(0.02)]);
});

test("a fraction of the head is rotated, with frequencies of that fraction", () => {
  for (const config of [{ partial_rotary_factor: 0.5 }, { rope_parameters: { partial_rotary_factor: 0.5 } }, {}]) {
    const { dimensions, at } = readTable(config, 16, { fraction: 0.5 });
    assert.equal(dimensions, 8);
    assertClose(at(8).inverseFrequencies, plain(10000, 8));
  }
  assert.equal(readTable({ partial_rotary_factor: 0.5 }, 16).dimensions, 16, "families without the key rotate all");
  assert.throws(() => readTable({ partial_rotary_factor: 0.2 }, 16, { fraction: 1 }), /0\.2 of a head of 16 are 3 dim/);
});

test("unknown scalings and incomplete ones are refused by key and value", () => {
  assert.throws(() => readTable({ rope_scaling: { type: "spiral" } }, 8), {
    code: "E_ROPE",
    message: /rope scaling "spiral" is not supported; known: default, .*llama3, yarn, dynamic, longrope/,
  });
  assert.throws(
    () => readTable({ rope_scaling: { type: "linear" } }, 8),
    /rope_scaling: "factor" is nothing; expected/,
  );
  const config = {
    max_position_embeddings: 64,
    rope_scaling: { type: "longrope", long_factor: [1], short_factor: [1] },
  };
  assert.throws(() => readTable(config, 8), /"long_factor" is \[1\]; expected a list of 4 numbers/);
});
