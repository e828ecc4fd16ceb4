/** Exhaustive and property tests of the f16 and bf16 conversions against a plain float64 specification. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { bytesPerElement, isFloatDtype, narrow, widen, type FloatDtype } from "../../src/checkpoint/dtype.js";

interface Format {
  readonly dtype: "F16" | "BF16";
  readonly fractionBits: number;
  readonly bias: number;
  readonly infinity: number;
}
const FORMATS: readonly Format[] = [
  { dtype: "F16", fractionBits: 10, bias: 15, infinity: 0x7c00 },
  { dtype: "BF16", fractionBits: 7, bias: 127, infinity: 0x7f80 },
];

/** The value of a finite, non-negative bit pattern, straight from the definition of the format. */
function valueOf(format: Format, magnitude: number): number {
  const exponent = magnitude >>> format.fractionBits;
  const fraction = (magnitude & ((1 << format.fractionBits) - 1)) / 2 ** format.fractionBits;
  return exponent === 0 ? fraction * 2 ** (1 - format.bias) : (1 + fraction) * 2 ** (exponent - format.bias);
}

const ALL_PATTERNS = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);

function widenPatterns(patterns: Uint16Array, dtype: FloatDtype): Float32Array {
  const out = new Float32Array(patterns.length).fill(9);
  widen(new Uint8Array(patterns.buffer, patterns.byteOffset, patterns.byteLength), dtype, out);
  return out;
}

function narrowValues(
  values: Float32Array,
  dtype: FloatDtype,
): { patterns: Uint16Array; overflowed: number; underflowed: number } {
  const patterns = new Uint16Array(values.length).fill(0xdead);
  return { patterns, ...narrow(values, dtype, new Uint8Array(patterns.buffer)) };
}

/** Nearest pattern by search, ties to the even pattern: the specification of rounding. */
function nearestPattern(format: Format, table: Float64Array, value: number): number {
  const magnitude = Math.abs(value);
  let low = 0;
  let high = table.length - 1; // table[high] stands for infinity: the next power of two, as IEEE 754 rounds
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (table[middle] <= magnitude) low = middle;
    else high = middle - 1;
  }
  let nearest = low;
  if (low < table.length - 1) {
    const below = magnitude - table[low];
    const above = table[low + 1] - magnitude;
    if (above < below || (above === below && low % 2 === 1)) nearest = low + 1;
  }
  return nearest === 0 || value >= 0 ? nearest : nearest | 0x8000;
}

/** Values of all finite magnitudes, then the value that rounding treats as infinity. */
function magnitudeTable(format: Format): Float64Array {
  const table = new Float64Array(format.infinity + 1);
  for (let i = 0; i < format.infinity; i++) table[i] = valueOf(format, i);
  table[format.infinity] = 2 * valueOf(format, format.infinity - (1 << format.fractionBits));
  return table;
}

for (const format of FORMATS) {
  const { dtype } = format;
  describe(dtype, () => {
    test("widens all 65536 patterns to the value the format defines", () => {
      const out = widenPatterns(ALL_PATTERNS, dtype);
      for (let pattern = 0; pattern < 1 << 16; pattern++) {
        const magnitude = pattern & 0x7fff;
        const value = out[pattern];
        if (magnitude > format.infinity) {
          assert.ok(Number.isNaN(value), `pattern ${pattern} should be NaN, is ${value}`);
          continue;
        }
        const expected = magnitude === format.infinity ? Infinity : valueOf(format, magnitude);
        assert.ok(Object.is(value, pattern >= 0x8000 ? -expected : expected), `pattern ${pattern}: ${value}`);
      }
    });

    test("restores all 65536 patterns, except that -0 becomes +0 and NaN becomes some NaN of the same sign", () => {
      const { patterns, overflowed, underflowed } = narrowValues(widenPatterns(ALL_PATTERNS, dtype), dtype);
      for (let pattern = 0; pattern < 1 << 16; pattern++) {
        if ((pattern & 0x7fff) > format.infinity) {
          assert.ok((patterns[pattern] & 0x7fff) > format.infinity, `pattern ${pattern} is no longer NaN`);
          assert.equal(patterns[pattern] & 0x8000, pattern & 0x8000);
        } else {
          assert.equal(patterns[pattern], pattern === 0x8000 ? 0 : pattern);
        }
      }
      assert.deepEqual({ overflowed, underflowed }, { overflowed: 0, underflowed: 0 });
    });

    test("rounds every midpoint to the even neighbour, and its two f32 neighbours to the nearer one", () => {
      const table = magnitudeTable(format);
      const values: number[] = [];
      const bits = new Int32Array(1);
      const single = new Float32Array(bits.buffer);
      for (let i = 0; i < format.infinity; i++) {
        single[0] = (table[i] + table[i + 1]) / 2; // exact in f32: one more fraction bit than the format has
        const midpoint = bits[0];
        for (const neighbour of [midpoint - 1, midpoint, midpoint + 1]) {
          bits[0] = neighbour;
          values.push(single[0], -single[0]);
        }
      }
      checkRounding(format, table, Float32Array.from(values));
    });

    test("rounds arbitrary f32 bit patterns as the float64 search does and counts overflow and underflow", () => {
      const table = magnitudeTable(format);
      // A fixed xorshift sequence over all 32 bits: every exponent, both signs, subnormals included.
      const bits = new Uint32Array(200_000);
      let state = 0x9e3779b9;
      for (let i = 0; i < bits.length; i++) {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        bits[i] = state;
      }
      checkRounding(
        format,
        table,
        new Float32Array(bits.buffer).filter((value) => Number.isFinite(value)),
      );
    });

    test("keeps NaN whose payload lies only in the dropped bits, and infinities", () => {
      const values = new Float32Array(Uint32Array.of(0x7f800001, 0xff800001, 0x7f800000, 0xff800000).buffer);
      const { patterns, overflowed } = narrowValues(values, dtype);
      assert.ok((patterns[0] & 0x7fff) > format.infinity);
      assert.ok((patterns[1] & 0x7fff) > format.infinity);
      assert.deepEqual([...patterns.subarray(2)], [format.infinity, format.infinity | 0x8000]);
      assert.equal(overflowed, 0);
    });
  });
}

function checkRounding(format: Format, table: Float64Array, values: Float32Array): void {
  const { patterns, overflowed, underflowed } = narrowValues(values, format.dtype);
  let expectedOverflowed = 0;
  let expectedUnderflowed = 0;
  values.forEach((value, i) => {
    const expected = nearestPattern(format, table, value);
    if ((expected & 0x7fff) === format.infinity) expectedOverflowed++;
    if (expected === 0 && value !== 0) expectedUnderflowed++;
    assert.equal(patterns[i], expected, `${value}`);
  });
  assert.equal(overflowed, expectedOverflowed);
  assert.equal(underflowed, expectedUnderflowed);
}

test("widen and narrow accept bytes at any offset of their buffer and any length", () => {
  fc.assert(
    fc.property(
      fc.constantFrom<FloatDtype>("F32", "F16", "BF16"),
      fc.integer({ min: 0, max: 9 }),
      fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constantFrom(4095, 4096, 4097, 8193)),
      fc.integer(),
      (dtype, offset, length, seed) => {
        const width = dtype === "F32" ? 4 : 2;
        // Patterns with exponent bits below all-ones and no -0, so that the round trip is exact.
        const aligned = new Uint8Array(length * width).map((_, i) => ((seed + i * 37) & 0x3f) | 1);
        const unaligned = new Uint8Array(offset + length * width + 3).fill(0xee);
        unaligned.set(aligned, offset);
        const expected = new Float32Array(length);
        widen(aligned, dtype, expected);
        const values = new Float32Array(length + 1).fill(9);
        widen(unaligned.subarray(offset, offset + length * width), dtype, values.subarray(0, length));
        assert.deepEqual(values.subarray(0, length), expected);
        assert.equal(values[length], 9);

        const back = new Uint8Array(offset + length * width + 3).fill(0xee);
        const report = narrow(expected, dtype, back.subarray(offset, offset + length * width));
        assert.deepEqual(back, unaligned);
        assert.deepEqual(report, { overflowed: 0, underflowed: 0 });
      },
    ),
  );
});

test("narrowing f32 to F32 copies every bit but the sign of zero", () => {
  const bits = Uint32Array.of(0x80000000, 0, 1, 0x80000001, 0x7f800001, 0xffffffff, 0x3f800000, 0x7f7fffff);
  const out = new Uint32Array(bits.length);
  const report = narrow(new Float32Array(bits.buffer), "F32", new Uint8Array(out.buffer));
  assert.deepEqual([...out], [0, ...bits.subarray(1)]);
  assert.deepEqual(report, { overflowed: 0, underflowed: 0 });
});

test("lengths that do not fit each other are refused", () => {
  assert.throws(() => widen(new Uint8Array(7), "BF16", new Float32Array(4)), /7 bytes are not 4 elements of BF16/);
  assert.throws(() => narrow(new Float32Array(2), "F32", new Uint8Array(4)), RangeError);
});

test("only F32, F16 and BF16 are computed with, and sub-byte or unknown dtypes have no byte width", () => {
  assert.deepEqual(["F32", "F16", "BF16", "F64", "F8_E4M3", "I8", "f32"].map(isFloatDtype), [
    true,
    true,
    true,
    false,
    false,
    false,
    false,
  ]);
  assert.deepEqual(["BOOL", "I16", "BF16", "U32", "C64", "I64"].map(bytesPerElement), [1, 2, 2, 4, 8, 8]);
  assert.deepEqual(
    ["F4", "F6_E2M3", "F7", "constructor", "__proto__"].map(bytesPerElement),
    new Array(5).fill(undefined),
  );
});
