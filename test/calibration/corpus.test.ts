import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import {
  loadCalibration,
  loadEvaluation,
  loadTrainingTokens,
  type CalibrationOptions,
} from "../../src/calibration/corpus.js";
import { tokenRowLength } from "../../src/calibration/token-tensor.js";
import { MersenneTwister } from "../../src/calibration/random.js";
import { concatenateIds } from "../../src/calibration/ids.js";
import { loadTokenizer } from "../../src/calibration/tokenizer.js";
import { encodeHeader } from "../../src/checkpoint/header.js";
import { CalibrationError } from "../../src/errors.js";
import { DEMO_MODEL } from "../helpers/cli.js";
import { repositoryPath } from "../helpers/paths.js";

const folder = mkdtempSync(join(tmpdir(), "prune-corpus-"));
after(() => rmSync(folder, { recursive: true }));

const OPTIONS: CalibrationOptions = { modelDirectory: DEMO_MODEL, nsamples: 3, seqlen: 8, seed: 0, vocabSize: 4096 };
const TEXT = Array.from({ length: 40 }, (_, i) => `The ${i}th day was like the one before it.`).join("\n");

const DOCUMENTS = Array.from(
  { length: 12 },
  (_, i) => `${JSON.stringify({ text: `On day ${i} — ½ of it — nothing whatever happened.` })}\n`,
).join("");

function write(name: string, content: string | Uint8Array): string {
  const file = join(folder, name);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
  return file;
}

/** A safetensors file of one or more tensors given as raw little-endian bytes. */
function writeTensors(
  name: string,
  tensors: Record<string, { dtype: string; shape: number[]; bytes: Uint8Array }>,
): string {
  const layouts = Object.entries(tensors).map(([key, { dtype, shape, bytes }]) => ({
    name: key,
    dtype,
    shape,
    byteLength: bytes.byteLength,
  }));
  const header = encodeHeader(layouts);
  return write(
    name,
    Buffer.concat([header.bytes, ...header.tensors.map((entry) => tensors[entry.name]?.bytes ?? new Uint8Array())]),
  );
}

function int32(values: readonly number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(values).buffer);
}

/** Ids 0, 1, 2, … in rows. */
function countingRows(rows: number, columns: number): { dtype: string; shape: number[]; bytes: Uint8Array } {
  return { dtype: "I32", shape: [rows, columns], bytes: int32(Array.from({ length: rows * columns }, (_, i) => i)) };
}

function lists(sequences: readonly Int32Array[]): number[][] {
  return sequences.map((sequence) => [...sequence]);
}

test("a text gives windows at the places Python's generator draws", async () => {
  const file = write("text.txt", TEXT);
  const ids = await (await loadTokenizer(DEMO_MODEL)).encode(TEXT);
  const random = new MersenneTwister(7);
  const expected = Array.from({ length: 3 }, () => {
    const start = random.randomInteger(0, ids.length - 8 - 1);
    return [...ids.slice(start, start + 8)];
  });
  const calibration = await loadCalibration({ file }, { ...OPTIONS, seed: 7 });
  assert.deepEqual(lists(calibration.sequences), expected);
  const hash = createHash("sha256").update(int32(expected.flat())).digest("hex");
  assert.equal(calibration.sha256, hash);
});

test("documents follow the C4 rule: draw until one is longer than the window, then a window of it", async () => {
  const texts = ["short", TEXT, "also short", TEXT.slice(100, 400), "x"];
  const lines = texts.map((text) => JSON.stringify({ text, url: "…" })).join("\n");
  const plain = write("documents.jsonl", `${lines}\n\n`);
  const packed = write("documents.jsonl.gz", gzipSync(lines));
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  const random = new MersenneTwister(0);
  const expected: number[][] = [];
  while (expected.length < 6) {
    const ids = await tokenizer.encode(texts[random.randomInteger(0, texts.length - 1)] ?? "");
    if (ids.length <= 8) continue;
    const start = random.randomInteger(0, ids.length - 8 - 1);
    expected.push([...ids.slice(start, start + 8)]);
  }
  for (const file of [plain, packed]) {
    const { sequences } = await loadCalibration({ file }, { ...OPTIONS, nsamples: 6 });
    assert.deepEqual(lists(sequences), expected, file);
  }
});

test("stored ids are the first rows, cut and never tokenised", async () => {
  const file = writeTensors("ids.safetensors", { calib: countingRows(5, 10) });
  const { sequences } = await loadCalibration({ file }, OPTIONS);
  assert.deepEqual(lists(sequences), [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [10, 11, 12, 13, 14, 15, 16, 17],
    [20, 21, 22, 23, 24, 25, 26, 27],
  ]);
});

test("fewer rows than asked for are all taken, and the description says so", async () => {
  const file = writeTensors("few.safetensors", { calib: countingRows(2, 9) });
  const { sequences, description } = await loadCalibration({ file }, OPTIONS);
  assert.equal(sequences.length, 2);
  assert.match(description, /first 2 rows \(fewer than the 3 asked for\), 8 of 9 tokens each/);
  assert.equal(await tokenRowLength({ file }), 9);
});

test("ids may be stored as I64, U16 and U32", async () => {
  const values = [0, 1, 300, 4095];
  const stored: Record<string, Uint8Array> = {
    I64: new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer),
    U16: new Uint8Array(Uint16Array.from(values).buffer),
    U32: new Uint8Array(Uint32Array.from(values).buffer),
  };
  for (const [dtype, bytes] of Object.entries(stored)) {
    const file = writeTensors(`${dtype}.safetensors`, { ids: { dtype, shape: [2, 2], bytes } });
    assert.deepEqual(
      lists((await loadCalibration({ file }, { ...OPTIONS, seqlen: 2 })).sequences),
      [
        [0, 1],
        [300, 4095],
      ],
      dtype,
    );
  }
});

test("a file with several tensors of ids needs a name, and takes it", async () => {
  const file = writeTensors("two.safetensors", {
    calib: countingRows(2, 8),
    evaluation: countingRows(3, 8),
    logits: { dtype: "F32", shape: [1, 2], bytes: new Uint8Array(8) },
  });
  await assert.rejects(
    loadCalibration({ file }, OPTIONS),
    hasCode("E_TOKEN_TENSOR", /calib.*evaluation|evaluation.*calib/),
  );
  assert.equal((await loadCalibration({ file, tensor: "evaluation" }, OPTIONS)).sequences.length, 3);
  await assert.rejects(
    loadCalibration({ file, tensor: "logits" }, OPTIONS),
    hasCode("E_TOKEN_TENSOR", /is F32 \[1, 2\]/),
  );
  await assert.rejects(
    loadCalibration({ file, tensor: "other" }, OPTIONS),
    hasCode("E_TOKEN_TENSOR", /no tensor "other"/),
  );
});

test("evaluation cuts a text into consecutive windows and drops the remainder", async () => {
  const file = write("evaluation.txt", TEXT);
  const ids = await (await loadTokenizer(DEMO_MODEL)).encode(TEXT);
  const evaluation = await loadEvaluation({ file }, { modelDirectory: DEMO_MODEL, seqlen: 50, vocabSize: 4096 });
  assert.equal(evaluation.sequences.length, Math.floor(ids.length / 50));
  assert.deepEqual([...(evaluation.sequences[1] ?? [])], [...ids.slice(50, 100)]);
  assert.equal(evaluation.sequences[0]?.[0], 1, "the stream begins with <s>, later windows do not");
  assert.equal(evaluation.textSha256, createHash("sha256").update(TEXT).digest("hex"));
  const first = await loadEvaluation(
    { file },
    { modelDirectory: DEMO_MODEL, seqlen: 50, vocabSize: 4096, maxWindows: 1 },
  );
  assert.equal(first.sequences.length, 1);
  assert.equal(first.textSha256, evaluation.textSha256);
});

test("stored evaluation rows of another length are joined and cut anew", async () => {
  const file = writeTensors("rows.safetensors", { evaluation: countingRows(3, 4) });
  const options = { modelDirectory: DEMO_MODEL, vocabSize: 4096 };
  const asStored = await loadEvaluation({ file }, { ...options, seqlen: 4 });
  assert.deepEqual(lists(asStored.sequences), [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9, 10, 11],
  ]);
  assert.equal(
    asStored.textSha256,
    createHash("sha256")
      .update(int32([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]))
      .digest("hex"),
  );
  const joined = await loadEvaluation({ file }, { ...options, seqlen: 5 });
  assert.deepEqual(lists(joined.sequences), [
    [0, 1, 2, 3, 4],
    [5, 6, 7, 8, 9],
  ]);
});

test("evaluation documents are joined by one space", async () => {
  const file = write(
    "evaluation.jsonl",
    [{ text: "One day" }, { text: "it rained." }].map((line) => JSON.stringify(line)).join("\n"),
  );
  const { sequences } = await loadEvaluation({ file }, { modelDirectory: DEMO_MODEL, seqlen: 2, vocabSize: 4096 });
  const ids = await (await loadTokenizer(DEMO_MODEL)).encode("One day it rained.");
  assert.deepEqual(lists(sequences).flat(), [...ids.slice(0, ids.length - (ids.length % 2))]);
});

function hasCode(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof CalibrationError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

const REFUSALS: readonly { what: string; file: () => string; code: string; message: RegExp }[] = [
  {
    what: "a text shorter than one window",
    file: () => write("tiny.txt", "Hello"),
    code: "E_TEXT_TOO_SHORT",
    message: /tiny\.txt: \d tokens; one window of 8 needs at least 9/,
  },
  {
    what: "documents that are all too short",
    file: () => write("tiny.jsonl", '{"text":"a"}\n{"text":"b"}\n'),
    code: "E_TEXT_TOO_SHORT",
    message: /longest of 2 documents: 2 tokens; one window of 8/,
  },
  {
    what: "a line that is not JSON",
    file: () => write("bad.jsonl", '{"text":"a"}\n{"text": \n'),
    code: "E_TEXT_JSON",
    message: /bad\.jsonl:2: not valid JSON/,
  },
  {
    what: "a text that is none",
    file: () => write("untexted.jsonl", '{"text":"a"}\n\n{"text":5}\n'),
    code: "E_TEXT_JSON",
    message: /untexted\.jsonl:3: "text" is neither a text nor a list of messages/,
  },
  {
    what: "records of which none has text, naming what they have",
    file: () => write("fields.jsonl", '{"id":1,"content":"b"}\n'),
    code: "E_TEXT_FIELD",
    message: /fields\.jsonl: no record has "text" or "messages"; they have "id", "content"/,
  },
  {
    what: "an array that ends early",
    file: () => write("early.json", '[{"text":"a"},\n{"text":"b"'),
    code: "E_TEXT_JSON",
    message: /early\.json: record 2: the file ends within it/,
  },
  {
    what: "an array with something behind it",
    file: () => write("behind.json", '[{"text":"a"}]\n{"text":"b"}'),
    code: "E_TEXT_JSON",
    message: /behind\.json: record 2: something follows the array/,
  },
  {
    what: "an array with a hole",
    file: () => write("hole.json", '[{"text":"a"},,{"text":"b"}]'),
    code: "E_TEXT_JSON",
    message: /hole\.json: record 2: an element is missing/,
  },
  {
    what: "conversations for a model without a chat template",
    file: () => write("chat.jsonl", '{"messages":[{"role":"user","content":"Well?"}]}\n'),
    code: "E_CHAT_TEMPLATE",
    message: /has no chat template/,
  },
  {
    what: "a gzip file that is cut off",
    file: () => write("cut.json.gz", gzipSync(DOCUMENTS).subarray(0, 60)),
    code: "E_TEXT_GZIP",
    message: /cut\.json\.gz: cannot be unpacked: unexpected end of file/,
  },
  {
    what: "a gzip file made to fill a disk",
    file: () => write("bomb.jsonl.gz", gzipSync(Buffer.alloc(2 ** 26 + 1, " "))),
    code: "E_TEXT_GZIP",
    message: /bomb\.jsonl\.gz: cannot be unpacked: it is over 200 times/,
  },
  {
    what: "a document without an end",
    file: () => write("endless.jsonl", `{"text":"${"a".repeat(2 ** 25)}"}`),
    code: "E_TEXT_TOO_LONG",
    message: /endless\.jsonl:1: over \d+ bytes in a record/,
  },
  {
    what: "documents that are not UTF-8",
    file: () => write("latin.jsonl", Buffer.from('{"text":"a"}\n\n{"text":"caf\xe9"}\n', "latin1")),
    code: "E_TEXT_ENCODING",
    message: /latin\.jsonl:3: is not valid UTF-8/,
  },
  {
    what: "gzipped documents that are not UTF-8",
    file: () => write("latin.jsonl.gz", gzipSync(Buffer.from('{"text":"caf\xe9"}\n', "latin1"))),
    code: "E_TEXT_ENCODING",
    message: /latin\.jsonl\.gz:1: is not valid UTF-8/,
  },
  {
    what: "half of a surrogate pair",
    file: () => write("half.jsonl", '{"text":"\\ud83d\\ude00"}\n{"text":"\\ud83d"}\n'),
    code: "E_TEXT_ENCODING",
    message: /half\.jsonl:2: "text" holds half of a surrogate pair/,
  },
  {
    what: "UTF-16",
    file: () => write("utf16.txt", Buffer.from("\ufeffa text", "utf16le")),
    code: "E_TEXT_ENCODING",
    message: /utf16\.txt:1: is not valid UTF-8 but UTF-16/,
  },
  {
    what: "a Git LFS pointer",
    file: () => write("pointer.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
    code: "E_TEXT_EXTENSION",
    message: /pointer\.txt: is a Git LFS pointer/,
  },
  {
    what: "a Parquet file that is cut off",
    file: () => write("train.jsonl", "PAR1\u0015\u0004"),
    code: "E_TEXT_PARQUET",
    message: /train\.jsonl: cannot be read as Parquet/,
  },
  {
    what: "columns in a compression that is not read",
    file: () => repositoryPath("test/fixtures/text/lz4.parquet"),
    code: "E_TEXT_PARQUET",
    message: /compressed with LZ4_RAW/,
  },
  {
    what: "a compressed Parquet file",
    file: () => write("twice.parquet.gz", gzipSync(readFileSync(repositoryPath("test/fixtures/text/none.parquet")))),
    code: "E_TEXT_EXTENSION",
    message: /twice\.parquet\.gz: is a compressed Parquet file/,
  },
  {
    what: "a folder without texts",
    file: () => write("void/x.bin", "x").replace(/x\.bin$/, ""),
    code: "E_TEXT_MISSING",
    message: /no files of text are there/,
  },
  {
    what: "a broken gzip file",
    file: () => write("broken.jsonl.gz", "not gzip"),
    code: "E_TEXT_GZIP",
    message: /broken\.jsonl\.gz: cannot be unpacked/,
  },
  {
    what: "a missing file",
    file: () => join(folder, "absent.txt"),
    code: "E_TEXT_MISSING",
    message: /absent\.txt: no such file/,
  },
  { what: "an empty file", file: () => write("empty.txt", ""), code: "E_TEXT_EMPTY", message: /empty\.txt: is empty/ },
  {
    what: "a table",
    file: () => write("text.csv", "a,b"),
    code: "E_TEXT_EXTENSION",
    message: /text\.csv: unknown kind of file/,
  },
  {
    what: "bytes that are no text",
    file: () => write("noise", Uint8Array.of(0x61, 0, 0x62, 1)),
    code: "E_TEXT_EXTENSION",
    message: /noise: unknown kind of file/,
  },
  {
    what: "bytes that are not UTF-8",
    file: () => write("latin.txt", Uint8Array.of(0x61, 0x0a, 0x62, 0xe9, 0x62)),
    code: "E_TEXT_ENCODING",
    message: /latin\.txt:2: is not valid UTF-8/,
  },
  {
    what: "an id outside the vocabulary",
    file: () =>
      writeTensors("large.safetensors", {
        ids: { dtype: "I32", shape: [1, 8], bytes: int32([1, 2, 4096, 0, 0, 0, 0, 0]) },
      }),
    code: "E_TOKEN_ID",
    message: /token id 4096 at sequence 0, position 2 is outside the model's vocabulary of 4096/,
  },
  {
    what: "stored rows shorter than a window",
    file: () => writeTensors("narrow.safetensors", { ids: countingRows(2, 4) }),
    code: "E_TOKEN_ROWS",
    message: /narrow\.safetensors#ids: rows of 4 tokens; --seqlen asks for 8/,
  },
  {
    what: "a negative id",
    file: () =>
      writeTensors("negative.safetensors", {
        ids: { dtype: "I32", shape: [1, 8], bytes: int32([1, -1, 0, 0, 0, 0, 0, 0]) },
      }),
    code: "E_TOKEN_ID",
    message: /token id -1 at sequence 0, position 1/,
  },
  {
    what: "an id that no int32 holds",
    file: () =>
      writeTensors("wide.safetensors", {
        ids: { dtype: "I64", shape: [1, 2], bytes: new Uint8Array(BigInt64Array.of(0n, 2n ** 40n).buffer) },
      }),
    code: "E_TOKEN_ID",
    message: /token id 1099511627776 at sequence 0, position 1/,
  },
];

for (const { what, file, code, message } of REFUSALS) {
  test(`refuses ${what}, naming the values`, async () => {
    await assert.rejects(loadCalibration({ file: file() }, OPTIONS), hasCode(code, message));
  });
}

test("evaluation refuses a text shorter than one window, with both numbers", async () => {
  const file = write("short-evaluation.txt", "Hello");
  await assert.rejects(
    loadEvaluation({ file }, { modelDirectory: DEMO_MODEL, seqlen: 100, vocabSize: 4096 }),
    hasCode("E_TEXT_TOO_SHORT", /\d tokens; one window of 100 needs at least 100/),
  );
});

test("a training takes a text as a whole, tokenised once for calibration and training", async () => {
  const file = write("whole.txt", TEXT);
  const encoded = new Map<string, Int32Array>();
  const calibration = await loadCalibration({ file }, { ...OPTIONS, encoded });
  const { ids, isContinuous } = await loadTrainingTokens({ file }, { ...OPTIONS, tokens: 10, encoded });
  assert.equal(ids, encoded.get(file), "the very same array");
  assert.deepEqual(ids, await (await loadTokenizer(DEMO_MODEL)).encode(TEXT));
  assert.equal(isContinuous, true);
  assert.deepEqual(calibration.sequences, (await loadCalibration({ file }, OPTIONS)).sequences);
});

test("a training takes documents in an order drawn from the seed, until there are tokens enough", async () => {
  const texts = Array.from({ length: 30 }, (_, i) => `Document ${i} says that ${i} is ${i}.`);
  const file = write("documents.jsonl", texts.map((text) => JSON.stringify({ text })).join("\n"));
  const load = (seed: number, tokens: number) => loadTrainingTokens({ file }, { ...OPTIONS, seed, tokens });
  const [few, more, all] = [await load(0, 40), await load(0, 100), await load(0, 1e6)];
  assert.ok(few.ids.length >= 40 && few.ids.length < 80, `${few.ids.length}`);
  assert.deepEqual(more.ids.subarray(0, few.ids.length), few.ids, "the same documents first");
  assert.ok(all.ids.length > more.ids.length);
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  const each = await Promise.all(texts.map((text) => tokenizer.encode(text)));
  assert.equal(all.ids.length, concatenateIds(each).length, "each once");
  assert.notDeepEqual((await load(1, 40)).ids, few.ids);
  assert.notEqual(few.sha256, more.sha256);
});

test("a training takes all rows of stored ids, each cut; what is shorter than a window is refused", async () => {
  const file = writeTensors("rows.safetensors", {
    ids: { dtype: "I32", shape: [3, 5], bytes: int32([...Array(15).keys()]) },
  });
  const options = { ...OPTIONS, seqlen: 4, tokens: 4 };
  const { ids, isContinuous } = await loadTrainingTokens({ file }, options);
  assert.deepEqual([...ids], [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]);
  assert.equal(isContinuous, false);
  await assert.rejects(loadTrainingTokens({ file }, { ...options, seqlen: 6 }), /rows of 5 tokens/);
  await assert.rejects(
    loadTrainingTokens({ file: write("short.txt", "Too short.") }, { ...OPTIONS, seqlen: 64, tokens: 64 }),
    (error: unknown) => error instanceof CalibrationError && error.code === "E_TEXT_TOO_SHORT",
  );
  await assert.rejects(
    loadTrainingTokens({ file }, { ...options, vocabSize: 9 }),
    /token id 10 .*outside the model's vocabulary of 9/,
  );
});

test("content decides what a file is, in any case of its ending, gzipped or not, with or without a byte order mark", async () => {
  const sequencesOf = async (file: string): Promise<number[][]> =>
    lists((await loadCalibration({ file }, OPTIONS)).sequences);
  const documents = await sequencesOf(write("plain.jsonl", DOCUMENTS));
  const text = await sequencesOf(write("plain.txt", TEXT));
  const rows = await sequencesOf(writeTensors("rows.safetensors", { ids: countingRows(3, 8) }));
  const marked = `\ufeff${DOCUMENTS}`;
  for (const [name, content] of [
    ["c4-train.00000-of-01024.json.gz", gzipSync(DOCUMENTS)],
    ["marked.jsonl", marked],
    ["MARKED.JSONL.GZ", gzipSync(marked)],
    ["lines.json", DOCUMENTS],
    ["lines.NDJSON", DOCUMENTS],
    ["unpacked.jsonl.gz", DOCUMENTS],
    ["packed.jsonl", gzipSync(DOCUMENTS)],
    ["without-ending", DOCUMENTS],
    ["lines.txt", DOCUMENTS],
    ["array.json", `\ufeff[${DOCUMENTS.trim().replaceAll("\n", " ,\n ")}]\n`],
    ["array.json.gz", gzipSync(`[${DOCUMENTS.trim().replaceAll("\n", ",")}]`)],
    [
      "strings.json",
      `[\n${DOCUMENTS.trim()
        .replaceAll(/^\{"text":(.*)\}$/gm, "$1")
        .replaceAll("\n", ",\n")}\n]`,
    ],
    ["python.jsonl", DOCUMENTS.replaceAll('{"text"', '{"score": NaN, "text"')],
  ] as const)
    assert.deepEqual(await sequencesOf(write(name, content)), documents, name);
  for (const [name, content] of [
    ["UPPER.TXT", TEXT],
    ["marked.txt", `\ufeff${TEXT}`],
    ["packed.txt.gz", gzipSync(TEXT)],
    ["packed.txt", gzipSync(`\ufeff${TEXT}`)],
    ["wiki.test.raw", TEXT],
    ["notes.md", TEXT],
    ["text-without-ending", TEXT],
  ] as const)
    assert.deepEqual(await sequencesOf(write(name, content)), text, name);
  const stored = readFileSync(join(folder, "rows.safetensors"));
  for (const name of ["ROWS.SAFETENSORS", "rows.bin", "rows.txt"])
    assert.deepEqual(await sequencesOf(write(name, stored)), rows, name);
});
