/** What every format of states promises, and what each of them stores, against plain float64 specifications. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { NumericalError } from "../../src/errors.js";
import { BLOCK, dynamicLevels } from "../../src/training/formats/dynamic-code.js";
import {
  BF16,
  DYNAMIC8,
  DYNAMIC8_UNSIGNED,
  FP32,
  FP8_E4M3,
  FP8_E5M2,
  STATE_FORMATS,
  type StateFormat,
} from "../../src/training/formats/formats.js";
import { fp8Encoder, fp8Values, type Fp8Kind } from "../../src/training/formats/fp8.js";
import { assertSameBits } from "../helpers/compare.js";
import { createRandom, normals } from "../reference/random.js";

function packed(format: StateFormat, values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(format.bytesFor(values.length)).fill(0xa5);
  format.pack(values, bytes);
  return bytes;
}

function unpacked(format: StateFormat, bytes: Uint8Array, elements: number): Float32Array {
  const values = new Float32Array(elements).fill(NaN);
  format.unpack(bytes, values);
  return values;
}

function roundTrip(format: StateFormat, values: Float32Array): Float32Array {
  return unpacked(format, packed(format, values), values.length);
}

const isUnsigned = (format: StateFormat): boolean => format === DYNAMIC8_UNSIGNED;
const LOSSY = STATE_FORMATS.filter((format) => format !== FP32);

/** Half of them zero, magnitudes over many orders, as a format may be given. */
function stateLike(elements: number, seed: number, format: StateFormat): Float32Array {
  const random = createRandom(seed);
  return normals(elements, seed + 1).map((value) => {
    const kept = random() < 0.5 ? 0 : 1;
    const scaled = kept * value * 10 ** (-6 * random());
    return isUnsigned(format) ? Math.abs(scaled) : scaled + 0;
  });
}

/** The neighbours of a positive f32. */
function neighbours(value: number): [below: number, above: number] {
  const bits = new Int32Array(Float32Array.of(value).buffer)[0];
  const [below, above] = new Float32Array(Int32Array.of(bits - 1, bits + 1).buffer);
  return [below, above];
}

describe("every format", () => {
  test("has a name of its own and takes the bytes it says per element", () => {
    assert.equal(new Set(STATE_FORMATS.map(({ name }) => name)).size, STATE_FORMATS.length);
    const perElement = (format: StateFormat): number => format.bytesFor(2 ** 20) / 2 ** 20;
    assert.deepEqual(STATE_FORMATS.map(perElement), [4, 2, 1 + 4 / 2 ** 20, 1 + 4 / 2 ** 20, 1 + 4 / 256, 1 + 4 / 256]);
    assert.deepEqual(
      STATE_FORMATS.map((format) => [0, 1, 255, 256, 257].map((elements) => format.bytesFor(elements))),
      [
        [0, 4, 1020, 1024, 1028],
        [0, 2, 510, 512, 514],
        [4, 5, 259, 260, 261],
        [4, 5, 259, 260, 261],
        [0, 5, 259, 260, 265],
        [0, 5, 259, 260, 265],
      ],
    );
  });

  for (const format of STATE_FORMATS) {
    test(`${format.name} keeps zeros zeros, makes no new sign and leaves its values alone, at any length and offset`, () => {
      fc.assert(
        fc.property(
          fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constantFrom(255, 256, 257, 1023, 1024, 1025, 3000)),
          fc.integer({ min: 0, max: 7 }),
          fc.integer({ min: 0, max: 3 }),
          fc.nat(1000),
          (elements, byteOffset, offset, seed) => {
            const whole = stateLike(elements + offset, seed, format);
            const values = whole.subarray(offset);
            const before = values.slice();
            const memory = new Uint8Array(format.bytesFor(elements) + byteOffset + 3).fill(0xee);
            const bytes = memory.subarray(byteOffset, byteOffset + format.bytesFor(elements));
            format.pack(values, bytes);
            assertSameBits(values, before, "values");
            assert.ok(memory.subarray(0, byteOffset).every((byte) => byte === 0xee));
            assert.ok(memory.subarray(memory.length - 3).every((byte) => byte === 0xee));
            assert.deepEqual(bytes.slice(), packed(format, values), "bytes do not depend on where they lie");
            const back = unpacked(format, bytes, elements);
            back.forEach((value, i) => {
              if (before[i] === 0) assert.ok(Object.is(value, 0), `entry ${i} was 0, is ${value}`);
              else assert.ok(value === 0 || Math.sign(value) === Math.sign(before[i]), `entry ${i}`);
            });
          },
        ),
        { numRuns: 60, seed: 5 },
      );
    });

    test(`${format.name} refuses lengths that do not fit`, () => {
      const bytes = new Uint8Array(format.bytesFor(10));
      assert.throws(() => format.pack(new Float32Array(9), bytes), RangeError);
      assert.throws(() => format.unpack(bytes, new Float32Array(11)), RangeError);
    });
  }

  for (const format of LOSSY) {
    test(`${format.name} stores -0 as +0`, () => {
      assertSameBits(roundTrip(format, Float32Array.of(-0, 1, -0)).fill(0, 1, 2), new Float32Array(3), format.name);
      assertSameBits(roundTrip(format, Float32Array.of(-0, -0)), new Float32Array(2), format.name);
    });

    test(`${format.name} refuses NaN and infinities wherever they are`, () => {
      for (const bad of [NaN, Infinity, -Infinity]) {
        for (const at of [0, 1, 2, 3, 255, 256, 299, 300]) {
          const values = new Float32Array(301).fill(0.5);
          values[at] = bad;
          assert.throws(
            () => packed(format, values),
            (error: Error) => error instanceof NumericalError && error.code === "E_STATE_NOT_FINITE",
            `${bad} at ${at}`,
          );
        }
      }
      const negativeNaN = new Float32Array(Uint32Array.of(0xff800001).buffer);
      assert.throws(() => packed(format, negativeNaN), NumericalError);
    });
  }
});

describe("fp32", () => {
  test("keeps every bit, also of NaNs, infinities, subnormals and -0", () => {
    const words = Uint32Array.of(0x80000000, 0x7fc00001, 0xff800001, 0x7f800000, 1, 0x807fffff, 0x3f800000);
    assertSameBits(roundTrip(FP32, new Float32Array(words.buffer)), new Float32Array(words.buffer), "fp32");
  });
});

describe("bf16", () => {
  test("rounds to nearest, ties to even, and comes back as the upper half of an f32", () => {
    const bits = (word: number): number => new Float32Array(Uint32Array.of(word).buffer)[0];
    const cases: readonly (readonly [number, number])[] = [
      [0x3f808000, 0x3f800000], // a tie, down to even
      [0x3f818000, 0x3f820000], // a tie, up to even
      [0x3f808001, 0x3f810000],
      [0x3f807fff, 0x3f800000],
      [0xbf818000, 0xbf820000],
      [0x00018000, 0x00020000], // subnormal
    ];
    for (const [word, expected] of cases) assert.equal(roundTrip(BF16, Float32Array.of(bits(word)))[0], bits(expected));
  });

  test("refuses what would round to infinity and takes the largest that does not", () => {
    const largest = new Float32Array(Uint32Array.of(0x7f7f7fff).buffer);
    assert.equal(roundTrip(BF16, largest)[0], new Float32Array(Uint32Array.of(0x7f7f0000).buffer)[0]);
    const [, beyond] = neighbours(largest[0]);
    assert.throws(() => packed(BF16, Float32Array.of(beyond)), /beyond the largest BF16/);
    assert.throws(() => packed(BF16, Float32Array.of(-beyond)), NumericalError);
  });
});

interface Fp8Case {
  readonly kind: Fp8Kind;
  readonly format: StateFormat;
  /** Code of the largest finite value. */
  readonly last: number;
  readonly smallest: number;
}
const FP8: readonly Fp8Case[] = [
  {
    kind: { name: "fp8-e4m3", fractionBits: 3, bias: 7, largest: 448 },
    format: FP8_E4M3,
    last: 0x7e,
    smallest: 2 ** -9,
  },
  {
    kind: { name: "fp8-e5m2", fractionBits: 2, bias: 15, largest: 57344 },
    format: FP8_E5M2,
    last: 0x7b,
    smallest: 2 ** -16,
  },
];

for (const { kind, format, last, smallest } of FP8) {
  describe(kind.name, () => {
    const values = fp8Values(kind);
    const encode = (some: readonly number[], divisor = 1): number[] => {
      const codes = new Uint8Array(some.length).fill(0xa5);
      fp8Encoder(kind)(Float32Array.from(some), divisor, codes);
      return [...codes];
    };

    test("its 256 codes are sign, exponent and fraction, with the specials where the format has them", () => {
      for (let code = 0; code <= last; code++) {
        const bits = code.toString(2).padStart(7, "0");
        const exponent = parseInt(bits.slice(0, 7 - kind.fractionBits), 2);
        const fraction = parseInt(bits.slice(7 - kind.fractionBits), 2);
        const implicit = exponent === 0 ? 0 : 2 ** kind.fractionBits;
        const expected = (implicit + fraction) * 2 ** (Math.max(exponent, 1) - kind.bias - kind.fractionBits);
        assert.equal(values[code], expected, `code ${code}`);
        assert.ok(Object.is(values[code | 0x80], -expected), `code ${code | 0x80}`);
      }
      assert.equal(values[1], smallest);
      assert.equal(values[last], kind.largest);
      const specials = Array.from({ length: 0x7f - last }, (_, i) => values[last + 1 + i]);
      assert.deepEqual(specials, last === 0x7e ? [NaN] : [Infinity, NaN, NaN, NaN]);
    });

    test("every finite value is its own code, except -0", () => {
      for (let code = 0; code <= last; code++) {
        assert.deepEqual(encode([values[code]]), [code]);
        assert.deepEqual(encode([-values[code]]), [code === 0 ? 0 : code | 0x80]);
      }
    });

    test("every tie goes to the even code and its neighbours to theirs, subnormals too", () => {
      for (let code = 0; code < last; code++) {
        const tie = (values[code] + values[code + 1]) / 2; // exact in f32: one bit more
        const [below, above] = neighbours(tie);
        const even = code % 2 === 0 ? code : code + 1;
        const negative = (one: number): number => (one === 0 ? 0 : one | 0x80);
        assert.deepEqual(encode([below, tie, above]), [code, even, code + 1], `above code ${code}`);
        assert.deepEqual(
          encode([-below, -tie, -above]),
          [code, even, code + 1].map(negative),
          `below code ${code | 0x80}`,
        );
      }
    });

    test("beyond the largest value it saturates", () => {
      const [, beyond] = neighbours(kind.largest);
      const large = [kind.largest, beyond, 2 * kind.largest, 3e38];
      assert.deepEqual(encode(large), [last, last, last, last]);
      assert.deepEqual(
        encode(large.map((value) => -value)),
        large.map(() => last | 0x80),
      );
    });

    test("random quotients go to the nearest code", () => {
      const finite = values.subarray(0, last + 1);
      const random = createRandom(3);
      const some = Float32Array.from({ length: 20_000 }, () => 2 ** (35 * random() - 18) * (random() < 0.5 ? -1 : 1));
      const codes = new Uint8Array(some.length);
      const divisor = Math.fround(0.7);
      fp8Encoder(kind)(some, divisor, codes);
      some.forEach((value, i) => {
        const quotient = Math.abs(Math.fround(value / divisor));
        const nearest = finite.reduce((best, one) => Math.min(best, Math.abs(one - quotient)), Infinity);
        const code = codes[i];
        assert.equal(Math.abs(Math.abs(values[code]) - quotient), nearest, `${value}`);
        assert.equal(code >= 0x80, value < 0 && (code & 0x7f) > 0);
      });
    });

    test("the scale is 1.05 of what the largest magnitude needs, stored first, and values come back times it", () => {
      const some = normals(700, 4).map((value) => 0.02 * value);
      some[333] = -0.9; // the largest
      const bytes = packed(format, some);
      const scale = new DataView(bytes.buffer).getFloat32(0, true);
      assert.equal(scale, Math.fround((1.05 * Math.fround(0.9)) / kind.largest));
      const divisor = Math.fround(scale + 1e-12);
      const codes = new Uint8Array(some.length);
      fp8Encoder(kind)(some, divisor, codes);
      assert.deepEqual(bytes.subarray(4), codes);
      const expected = Float32Array.from(codes, (code) => values[code] * scale);
      assertSameBits(unpacked(format, bytes, some.length), expected, "unpacked");
      // Normal codes: half a unit of the fraction. 1e-12 beside the scale, and two roundings, are far below it.
      expected.forEach((value, i) => {
        const bound = Math.max(Math.abs(some[i]) * 2 ** -(kind.fractionBits + 1), (scale * smallest) / 2) * 1.0001;
        assert.ok(Math.abs(value - some[i]) <= bound, `${some[i]} came back as ${value}`);
      });
    });

    test("the scale is 1e-8 at least, and at the largest f32 nothing overflows", () => {
      const scaleOf = (value: number): number =>
        new DataView(packed(format, Float32Array.of(value)).buffer).getFloat32(0, true);
      assert.equal(scaleOf(0), Math.fround(1e-8));
      assert.equal(scaleOf(1e-12), Math.fround(1e-8));
      const huge = neighbours(2 ** 127)[1];
      const [back] = roundTrip(format, Float32Array.of(huge));
      assert.ok(Math.abs(back / huge - 1) <= 2 ** -(kind.fractionBits + 1) * 1.0001);
    });

    test("what is stored a second time moves by one more rounding at most", () => {
      const some = stateLike(3000, 6, format);
      const once = roundTrip(format, some);
      const largest = Math.max(...once.map(Math.abs));
      const scale = Math.fround(Math.max(1e-8, (1.05 * largest) / kind.largest));
      const twice = roundTrip(format, once);
      twice.forEach((value, i) => {
        const bound = Math.max(Math.abs(once[i]) * 2 ** -(kind.fractionBits + 1), (scale * smallest) / 2) * 1.0001;
        assert.ok(Math.abs(value - once[i]) <= bound, `${once[i]} came back as ${value}`);
      });
    });
  });
}

for (const [format, isSigned] of [
  [DYNAMIC8, true],
  [DYNAMIC8_UNSIGNED, false],
] as const) {
  describe(format.name, () => {
    const levels = dynamicLevels(isSigned);

    /** Nearest level by search, ties to the larger one, in f64: the specification. */
    const nearest = (quotient: number): number => {
      let best = 0;
      levels.forEach((level, code) => {
        if (Math.abs(level - quotient) <= Math.abs(levels[best] - quotient)) best = code;
      });
      return best;
    };

    /** Codes of quotients, by a block whose scale is 1. */
    const codesOf = (quotients: readonly number[]): number[] => {
      const codes: number[] = [];
      for (let first = 0; first < quotients.length; first += BLOCK - 1) {
        const some = quotients.slice(first, first + BLOCK - 1);
        const bytes = packed(format, Float32Array.of(1, ...some));
        assert.equal(new DataView(bytes.buffer).getFloat32(0, true), 1);
        codes.push(...bytes.subarray(5));
      }
      return codes;
    };

    test("has 256 ascending levels, 0 and 1 among them, whose decades have twice as many each", () => {
      assert.equal(levels.length, 256);
      levels.forEach((level, code) => assert.ok(code === 0 || level > levels[code - 1], `level ${code}`));
      assert.equal(levels[255], 1);
      assert.equal(levels[isSigned ? 127 : 0], 0);
      for (let decade = 0; decade < 7; decade++) {
        const [from, to] = [10 ** (decade - 7), 10 ** (decade - 6)];
        const inside = levels.filter((level) => level > from && level < to);
        assert.equal(inside.length, (isSigned ? 1 : 2) * 2 ** decade, `decade ${decade}`);
        const mean = inside.reduce((sum, level) => sum + level, 0) / inside.length;
        assert.ok(Math.abs(mean / (0.55 * to) - 1) < 1e-6, `midpoints of decade ${decade} lie evenly`);
      }
      const negative = levels.filter((level) => level < 0);
      assert.deepEqual(
        negative.map((level) => -level).reverse(),
        isSigned ? levels.slice(128, 255) : new Float32Array(),
      );
    });

    test("levels are those of the published construction", () => {
      // create_dynamic_map(signed).
      const expected = isSigned
        ? [-0.99296875, 5.5e-7, 3.25e-6, 7.75e-6, 0.10703125, 0.99296875]
        : [3.25e-7, 7.75e-7, 2.125e-6, 0.103515625, 0.996484375];
      for (const value of expected) assert.ok(levels.includes(Math.fround(value)), `${value}`);
    });

    test("every level is its own code", () => {
      assert.deepEqual(
        codesOf([...levels]),
        Array.from(levels, (_, code) => code),
      );
    });

    test("halfway between two levels it goes to the larger one, and a unit in the last place decides", () => {
      for (let code = 0; code < 255; code++) {
        const middle = (levels[code] + levels[code + 1]) / 2;
        const rounded = Math.fround(middle);
        const [lower, upper] = neighbours(Math.abs(rounded)).map((value) => (middle < 0 ? -value : value));
        const [below, above] = middle < 0 ? [upper, lower] : [lower, upper];
        const expected = [below, rounded, above].map(nearest);
        assert.deepEqual(codesOf([below, rounded, above]), expected, `between ${code} and ${code + 1}`);
        assert.deepEqual([expected[0], expected[2]], [code, code + 1]);
        if (rounded === middle) assert.equal(expected[1], code + 1);
      }
    });

    test("the first and last quotient of every prefix goes to the nearest level", () => {
      const quotients: number[] = [];
      for (let prefix = 0x3300; prefix <= 0x3f80; prefix++) {
        const words = Uint32Array.of(prefix << 16, Math.min((prefix << 16) + 0xffff, 0x3f800000));
        quotients.push(...new Float32Array(words.buffer));
      }
      const all = isSigned ? [...quotients, ...quotients.map((value) => -value)] : quotients;
      assert.deepEqual(codesOf(all), all.map(nearest));
    });

    test("every block has its own scale, the last one ragged, and values come back times it", () => {
      for (const elements of [1, 255, 256, 257, 1000]) {
        const values = stateLike(elements, elements, format).map((value, i) => value * 10 ** -(i >> 8));
        const bytes = packed(format, values);
        const blocks = Math.ceil(elements / BLOCK);
        const back = unpacked(format, bytes, elements);
        for (let block = 0; block < blocks; block++) {
          const some = values.subarray(block * BLOCK, (block + 1) * BLOCK);
          const scale = some.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          assert.equal(new DataView(bytes.buffer).getFloat32(4 * block, true), scale, `block ${block}`);
          some.forEach((value, i) => {
            const code = bytes[4 * blocks + block * BLOCK + i];
            assert.equal(code, nearest(scale === 0 ? 0 : Math.fround(value / scale)));
            assert.equal(back[block * BLOCK + i], Math.fround(levels[code] * scale));
          });
        }
      }
    });

    test("blocks of tiny values keep their digits: the scale has no floor", () => {
      const values = Float32Array.of(1e-30, 4e-31, 9e-32);
      const back = roundTrip(format, values);
      back.forEach((value, i) =>
        assert.ok(Math.abs(value / values[i] - 1) < 0.06, `${values[i]} came back as ${value}`),
      );
    });

    if (!isSigned) {
      test("refuses a negative value, even one that would be stored as 0", () => {
        for (const value of [-1, -1e-30]) {
          assert.throws(
            () => packed(format, Float32Array.of(2, value)),
            (error: Error) => error instanceof NumericalError && error.code === "E_STATE_NEGATIVE",
          );
        }
      });
    }
  });
}
