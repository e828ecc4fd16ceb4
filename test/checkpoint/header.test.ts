/** Hostile safetensors headers, one test per attack, and properties of encoding and parsing. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  encodeHeader,
  HEADER_SIZE_CAP,
  parseHeader,
  parseHeaderLength,
  RANK_CAP,
  type SafetensorsHeader,
} from "../../src/checkpoint/header.js";
import { CheckpointError } from "../../src/errors.js";

const FILE = "model.safetensors";

function lengthBytes(length: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, length, true);
  return bytes;
}

/** Parse a header given as text in a file with so many data bytes. */
function parse(text: string, dataBytes = 0): SafetensorsHeader {
  const json = new TextEncoder().encode(text);
  return parseHeader(json, FILE, 8 + json.byteLength + dataBytes);
}

/** The error's code and message, checked to be a CheckpointError that names the file. */
function refusal(code: string, message: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof CheckpointError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    assert.ok(error.message.startsWith(FILE), error.message);
    return true;
  };
}

const refuses = (name: string, text: string, code: string, message: RegExp, dataBytes = 0): void => {
  test(name, () => {
    assert.throws(() => parse(text, dataBytes), refusal(code, message));
  });
};

const entry = (dtype: string, shape: string, offsets: string): string =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`;
const U8 = (begin: number, end: number): string => entry("U8", `[${end - begin}]`, `[${begin},${end}]`);

describe("header length", () => {
  test("a plain length is taken", () => {
    assert.equal(parseHeaderLength(lengthBytes(2n), FILE, 10), 2);
  });
  test("a file of fewer than 8 bytes is refused as truncated", () => {
    assert.throws(() => parseHeaderLength(new Uint8Array(3), FILE, 3), refusal("E_FILE_TRUNCATED", /3 bytes long/));
  });
  test("a length over the cap is refused, however large the file", () => {
    const length = BigInt(HEADER_SIZE_CAP + 1);
    assert.throws(
      () => parseHeaderLength(lengthBytes(length), FILE, 2 ** 40),
      refusal("E_HEADER_TOO_LARGE", /100000001 bytes/),
    );
  });
  test("a length that fills all 64 bits is refused and printed exactly", () => {
    assert.throws(
      () => parseHeaderLength(lengthBytes(2n ** 64n - 1n), FILE, 100),
      refusal("E_HEADER_TOO_LARGE", /18446744073709551615/),
    );
  });
  test("a length whose low word looks harmless but whose high word is set is refused", () => {
    assert.throws(
      () => parseHeaderLength(lengthBytes(2n ** 32n + 2n), FILE, 100),
      refusal("E_HEADER_TOO_LARGE", /4294967298/),
    );
  });
  test("a header that would end behind the file is refused as truncated", () => {
    assert.throws(
      () => parseHeaderLength(lengthBytes(93n), FILE, 100),
      refusal("E_FILE_TRUNCATED", /ends at byte 101, but the file at byte 100/),
    );
  });
  test("a length of zero is refused", () => {
    assert.throws(() => parseHeaderLength(lengthBytes(0n), FILE, 100), refusal("E_HEADER_INVALID", /0 bytes/));
  });
});

describe("header text", () => {
  refuses(
    "a header that begins with white space is refused",
    " {}",
    "E_HEADER_INVALID",
    /begins with byte 32; expected "\{"/,
  );
  refuses("an array in place of the object is refused", "[]", "E_HEADER_INVALID", /begins with byte 91/);
  refuses(
    "a header cut off in the middle is refused",
    `{"a":${U8(0, 1).slice(0, -3)}`,
    "E_HEADER_INVALID",
    /not valid JSON/,
    1,
  );
  refuses("text after the object is refused", "{}{}", "E_HEADER_INVALID", /expected the end of the document/);
  refuses(
    "zero bytes as padding are refused",
    "{}\u0000\u0000",
    "E_HEADER_INVALID",
    /expected the end of the document/,
  );
  refuses("a trailing comma is refused", `{"a":${U8(0, 1)},}`, "E_HEADER_INVALID", /expected a string/, 1);
  refuses("single quotes are refused", "{'a':1}", "E_HEADER_INVALID", /expected a string/);
  refuses("a raw control character in a name is refused", '{"a\u0001":1}', "E_HEADER_INVALID", /control character/);
  refuses("half a surrogate pair in a name is refused", '{"a\\ud800":1}', "E_HEADER_INVALID", /surrogate/);
  refuses("an unknown escape in a name is refused", '{"a\\x41":1}', "E_HEADER_INVALID", /unknown escape/);
  refuses("a name without an end is refused", '{"aaaa', "E_HEADER_INVALID", /expected a string that ends/);
  refuses(
    "nesting beyond the cap is refused instead of exhausting the stack",
    `{"a":${"[".repeat(100_000)}`,
    "E_HEADER_INVALID",
    /nested deeper than 16/,
  );

  test("bytes that are not UTF-8 are refused", () => {
    const json = Uint8Array.from([...new TextEncoder().encode('{"'), 0xff, ...new TextEncoder().encode('":1}')]);
    assert.throws(() => parseHeader(json, FILE, 8 + json.byteLength), refusal("E_HEADER_INVALID", /not valid UTF-8/));
  });
  test("an overlong UTF-8 encoding of a slash is refused", () => {
    const json = Uint8Array.of(0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x3a, 0x31, 0x7d);
    assert.throws(() => parseHeader(json, FILE, 8 + json.byteLength), refusal("E_HEADER_INVALID", /not valid UTF-8/));
  });
  test("padding with spaces is accepted", () => {
    assert.deepEqual(parse("{}      ").tensors, []);
  });
  test("a name of 20 MB is parsed without overflowing any stack", () => {
    const name = "x".repeat(20_000_000);
    assert.equal(parse(`{"${name}":${U8(0, 1)}}`, 1).tensors[0]?.name.length, name.length);
  });
  test("20 MB of quotes behind backslashes are parsed in linear time", () => {
    assert.equal(parse(`{"${'\\"'.repeat(10_000_000)}":${U8(0, 1)}}`, 1).tensors[0]?.name.length, 10_000_000);
  });
});

describe("header entries", () => {
  refuses(
    "a tensor named twice is refused",
    `{"a":${U8(0, 1)},"a":${U8(1, 2)}}`,
    "E_HEADER_DUPLICATE",
    /key "a" occurs twice/,
    2,
  );
  refuses(
    "a tensor named twice in different escapes is refused",
    `{"a":${U8(0, 1)},"\\u0061":${U8(1, 2)}}`,
    "E_HEADER_DUPLICATE",
    /"a"/,
    2,
  );
  refuses(
    "two data_offsets in one tensor are refused",
    '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}}',
    "E_HEADER_DUPLICATE",
    /data_offsets/,
    1,
  );
  refuses(
    "a tensor that is no object is refused",
    '{"a":7}',
    "E_HEADER_INVALID",
    /tensor "a" is 7; expected an object/,
  );
  refuses(
    "a missing dtype is refused",
    '{"a":{"shape":[1],"data_offsets":[0,1]}}',
    "E_HEADER_INVALID",
    /dtype is missing/,
    1,
  );
  refuses(
    "a dtype that is a number is refused",
    '{"a":{"dtype":1,"shape":[1],"data_offsets":[0,1]}}',
    "E_HEADER_INVALID",
    /dtype is 1/,
    1,
  );
  refuses(
    "a missing shape is refused",
    '{"a":{"dtype":"U8","data_offsets":[0,1]}}',
    "E_HEADER_INVALID",
    /shape is missing/,
    1,
  );
  refuses(
    "a negative dimension is refused",
    `{"a":${entry("U8", "[-1]", "[0,1]")}}`,
    "E_HEADER_INVALID",
    /shape is \[-1\]/,
    1,
  );
  refuses(
    "a fractional dimension is refused",
    `{"a":${entry("U8", "[1.5]", "[0,1]")}}`,
    "E_HEADER_INVALID",
    /shape is \[1\.5\]/,
    1,
  );
  refuses(
    "a dimension written with an exponent is refused",
    `{"a":${entry("U8", "[1e0]", "[0,1]")}}`,
    "E_HEADER_INVALID",
    /shape is \[1e0\]/,
    1,
  );
  refuses(
    "a dimension beyond safe integers is refused",
    `{"a":${entry("U8", "[9007199254740993]", "[0,1]")}}`,
    "E_HEADER_INVALID",
    /9007199254740993/,
    1,
  );
  refuses(
    "a dimension given as a string is refused",
    `{"a":${entry("U8", '["1"]', "[0,1]")}}`,
    "E_HEADER_INVALID",
    /shape is \["1"\]/,
    1,
  );
  refuses(
    "a shape whose product overflows is refused",
    `{"a":${entry("U8", "[4294967296,4294967296]", "[0,1]")}}`,
    "E_HEADER_INVALID",
    /more elements than can be counted/,
    1,
  );
  refuses(
    "a product that overflows before a zero dimension is refused",
    `{"a":${entry("U8", "[4294967296,4294967296,0]", "[0,0]")}}`,
    "E_HEADER_INVALID",
    /counted/,
  );
  refuses(
    "more dimensions than the cap are refused",
    `{"a":${entry("U8", `[${new Array(RANK_CAP + 1).fill(1).join()}]`, "[0,1]")}}`,
    "E_HEADER_INVALID",
    /65 dimensions/,
    1,
  );
  refuses(
    "one offset is refused",
    `{"a":${entry("U8", "[1]", "[1]")}}`,
    "E_HEADER_INVALID",
    /data_offsets is \[1\]/,
    1,
  );
  refuses("three offsets are refused", `{"a":${entry("U8", "[1]", "[0,1,2]")}}`, "E_HEADER_INVALID", /data_offsets/, 1);
  refuses(
    "a negative offset is refused",
    `{"a":${entry("U8", "[1]", "[-1,0]")}}`,
    "E_HEADER_INVALID",
    /data_offsets is \[-1, 0\]/,
    1,
  );
  refuses(
    "an offset beyond safe integers is refused",
    `{"a":${entry("U8", "[1]", "[0,18446744073709551615]")}}`,
    "E_HEADER_INVALID",
    /data_offsets/,
    1,
  );
  refuses(
    "reversed offsets are refused",
    `{"a":${entry("U8", "[1]", "[2,1]")}}`,
    "E_OFFSETS_INVALID",
    /begins at byte 2, after its end at byte 1/,
    2,
  );
  refuses(
    "a shape that needs more bytes than the offsets hold is refused",
    `{"a":${entry("F32", "[2,3]", "[0,20]")}}`,
    "E_SHAPE_MISMATCH",
    /\[2, 3\] of F32 takes 24 bytes, but data_offsets \[0, 20\] hold 20/,
    20,
  );
});

describe("header offsets", () => {
  refuses(
    "overlapping tensors are refused and both named",
    `{"a":${U8(0, 4)},"b":${U8(2, 6)}}`,
    "E_OFFSETS_INVALID",
    /tensor "b": begins at byte 2, inside tensor "a"/,
    6,
  );
  refuses(
    "two tensors over the same bytes are refused",
    `{"a":${U8(0, 4)},"b":${U8(0, 4)}}`,
    "E_OFFSETS_INVALID",
    /inside tensor/,
    4,
  );
  refuses(
    "a hole between tensors is refused",
    `{"a":${U8(0, 4)},"b":${U8(5, 6)}}`,
    "E_OFFSETS_INVALID",
    /"b".*leaves a hole/,
    6,
  );
  refuses("a hole before the first tensor is refused", `{"a":${U8(1, 4)}}`, "E_OFFSETS_INVALID", /leaves a hole/, 4);
  refuses(
    "bytes after the last tensor are refused",
    `{"a":${U8(0, 4)}}`,
    "E_OFFSETS_INVALID",
    /3 bytes after the last tensor/,
    7,
  );
  refuses(
    "a tensor that ends behind the file is refused as truncated",
    `{"a":${U8(0, 4)}}`,
    "E_FILE_TRUNCATED",
    /tensor "a": ends at byte 4 .* only 3 bytes/,
    3,
  );
  refuses(
    "an empty tensor inside another is refused",
    `{"a":${U8(0, 4)},"b":${U8(2, 2)}}`,
    "E_OFFSETS_INVALID",
    /"b"/,
    4,
  );

  test("empty tensors, scalars and tensors in any order of the header are accepted", () => {
    const { tensors } = parse(
      `{"b":${U8(4, 6)},"e":${U8(4, 4)},"a":${U8(0, 4)},"s":${entry("F32", "[]", "[6,10]")}}`,
      10,
    );
    assert.deepEqual(
      tensors.map(({ name, shape }) => [name, shape]),
      [
        ["a", [4]],
        ["e", [0]],
        ["b", [2]],
        ["s", []],
      ],
    );
  });
});

describe("header metadata and names", () => {
  refuses(
    "metadata that is a string is refused",
    '{"__metadata__":"pt"}',
    "E_HEADER_INVALID",
    /"__metadata__" is "pt"/,
  );
  refuses(
    "a metadata value that is a number is refused",
    '{"__metadata__":{"a":1}}',
    "E_HEADER_INVALID",
    /key "a" is 1; expected a string/,
  );

  test("absent, empty and null metadata are accepted", () => {
    for (const text of ["{}", '{"__metadata__":{}}', '{"__metadata__":null}'])
      assert.deepEqual(parse(text).metadata, {});
  });

  test("tensors named like parts of Object.prototype are only names", () => {
    const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
    const text = `{"__metadata__":{"__proto__":"x","format":"pt"},${names.map((name, i) => `"${name}":${U8(i, i + 1)}`).join()}}`;
    const { tensors, metadata } = parse(text, names.length);
    assert.deepEqual(
      tensors.map(({ name }) => name),
      names,
    );
    assert.deepEqual(Object.entries(metadata), [
      ["__proto__", "x"],
      ["format", "pt"],
    ]);
    assert.equal(Object.getPrototypeOf(metadata), Object.prototype);
    assert.equal(({} as Record<string, unknown>)["format"], undefined);
  });

  test("escape sequences in a name do not reach the terminal", () => {
    const text = `{"\\u001b[2J\\u202e\\u009b":${U8(0, 2)}}`;
    assert.throws(
      () => parse(text, 1),
      (error: unknown) =>
        error instanceof CheckpointError &&
        !/[\u001b\u009b\u202e]/.test(error.message) &&
        error.message.includes("\\u001b[2J"),
    );
  });

  test("an unknown or sub-byte dtype passes through by its byte range", () => {
    const { tensors } = parse(`{"a":${entry("F4", "[3,2]", "[0,3]")},"b":${entry("Q9_X", "[7]", "[3,8]")}}`, 8);
    assert.deepEqual(
      tensors.map(({ dtype, begin, end }) => [dtype, begin, end]),
      [
        ["F4", 0, 3],
        ["Q9_X", 3, 8],
      ],
    );
  });

  test("unknown keys of a tensor are ignored", () => {
    assert.equal(
      parse('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":{"x":[true,null,1.5e3]}}}', 1).tensors.length,
      1,
    );
  });
});

const WIDTHS: Readonly<Record<string, number>> = { BOOL: 1, U8: 1, F16: 2, BF16: 2, F32: 4, I64: 8, F64: 8 };

test("what encodeHeader writes, parseHeader reads back, aligned and in the reference writer's order", () => {
  const layout = fc
    .record({
      dtype: fc.constantFrom(...Object.keys(WIDTHS)),
      shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }),
    })
    .map(({ dtype, shape }) => ({ dtype, shape, byteLength: shape.reduce((a, b) => a * b, 1) * (WIDTHS[dtype] ?? 0) }));
  const names = fc.string({ unit: "grapheme", maxLength: 12 }).filter((name) => name !== "__metadata__");
  fc.assert(
    fc.property(
      fc.dictionary(names, layout, { noNullPrototype: true }),
      fc.dictionary(fc.string({ unit: "grapheme" }), fc.string({ unit: "grapheme" })),
      (layouts, metadata) => {
        const tensors = Object.entries(layouts).map(([name, tensor]) => ({ name, ...tensor }));
        const encoded = encodeHeader(tensors, metadata);
        const dataBytes = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
        const length = parseHeaderLength(encoded.bytes, FILE, encoded.bytes.byteLength + dataBytes);
        assert.equal(length, encoded.bytes.byteLength - 8);
        assert.equal(length % 8, 0);
        const header = parseHeader(encoded.bytes.subarray(8), FILE, encoded.bytes.byteLength + dataBytes);
        assert.equal(header.dataOffset, encoded.bytes.byteLength);
        assert.deepEqual({ ...header.metadata }, { ...metadata });
        const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);
        assert.deepEqual([...header.tensors].sort(byName), [...encoded.tensors].sort(byName));
        for (const { dtype, begin } of encoded.tensors) assert.equal(begin % (WIDTHS[dtype] ?? 1), 0);
      },
    ),
  );
});

test("the header is the reference writer's, byte for byte", () => {
  const { bytes } = encodeHeader([
    { name: "b", dtype: "BF16", shape: [2], byteLength: 4 },
    { name: "a", dtype: "F16", shape: [], byteLength: 2 },
    { name: "c", dtype: "F32", shape: [0, 3], byteLength: 0 },
    { name: "a2", dtype: "BF16", shape: [1], byteLength: 2 },
  ]);
  const text =
    '{"__metadata__":{"format":"pt"},"c":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},' +
    '"a2":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[2,6]},' +
    '"a":{"dtype":"F16","shape":[],"data_offsets":[6,8]}}';
  assert.equal(new TextDecoder().decode(bytes.subarray(8)).trimEnd(), text);
  assert.equal(bytes.byteLength % 8, 0);
});

test("random damage to a header is either refused with a CheckpointError or leaves a valid tiling", () => {
  const { bytes } = encodeHeader([
    { name: "model.a", dtype: "F32", shape: [3, 2], byteLength: 24 },
    { name: "model.b", dtype: "BF16", shape: [5], byteLength: 10 },
  ]);
  const fileSize = bytes.byteLength + 34;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(bytes.byteLength - 9), fc.integer({ min: 0, max: 255 })), {
        minLength: 1,
        maxLength: 4,
      }),
      (changes) => {
        const json = bytes.slice(8);
        for (const [at, byte] of changes) json[at] = byte;
        let header: SafetensorsHeader;
        try {
          header = parseHeader(json, FILE, fileSize);
        } catch (error) {
          assert.ok(error instanceof CheckpointError, String(error));
          return;
        }
        const covered = header.tensors.reduce((sum, { begin, end }) => sum + end - begin, 0);
        assert.equal(covered, 34);
      },
    ),
    { numRuns: 2000 },
  );
});
