/** Data as it lies there: Parquet, conversations, folders, data sets by name, and what of it is counted. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { loadCalibration, loadEvaluation, type CalibrationOptions } from "../../src/calibration/corpus.js";
import { openDocuments } from "../../src/calibration/documents.js";
import { filesOf } from "../../src/calibration/text-source.js";
import { loadTokenizer } from "../../src/calibration/tokenizer.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL } from "../helpers/cli.js";
import { repositoryPath } from "../helpers/paths.js";

const FIXTURES = repositoryPath("test/fixtures/text");
const OPTIONS: CalibrationOptions = { modelDirectory: DEMO_MODEL, nsamples: 4, seqlen: 8, seed: 0, vocabSize: 4096 };
/** What make.py of the fixtures writes. */
const TEXTS = Array.from(
  { length: 5 },
  (_, i) => `On day ${i} — ½ of it — nothing whatever happened, and nobody wrote it down but me.`,
);

function write(t: TestContext, files: Readonly<Record<string, string>>): string {
  const folder = temporaryDirectory(t);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}

const linesOf = (records: readonly unknown[]): string => records.map((record) => JSON.stringify(record)).join("\n");

async function textsOf(files: readonly string[], field?: string): Promise<Record<string, unknown>> {
  const chatTemplate = (): never => assert.fail("no conversations here");
  await using documents = await openDocuments(files, { field, chatTemplate });
  const { count, empty, withoutField } = documents;
  const texts = await Promise.all(Array.from({ length: count }, async (_, i) => (await documents.read(i)).text));
  return { texts, empty, withoutField };
}

test("Parquet gives the documents that JSON lines give, in every compression that Node has", async () => {
  for (const name of ["none", "snappy", "gzip", "brotli", "plain-encoding"])
    assert.deepEqual(
      await textsOf([join(FIXTURES, `${name}.parquet`)]),
      { texts: TEXTS, empty: 0, withoutField: 0 },
      name,
    );
  const zstd = textsOf([join(FIXTURES, "zstd.parquet")]);
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 15)) assert.deepEqual((await zstd)["texts"], TEXTS);
  else await assert.rejects(zstd, new RegExp(`zstd, which this Node \\(${process.versions.node}\\) cannot unpack`));
});

test("records of an array end where they end, whatever their strings hold", async (t) => {
  const texts = ['a "]} , [" b', "back\\slash\\", "[", "½ ]"];
  const records = texts.map((text, i) => (i % 2 === 0 ? { text, further: [[{ a: "}" }], {}] } : text));
  const folder = write(t, {
    "a.json": ` [ ${records.map((record) => JSON.stringify(record, null, 1)).join("\n, ")}\n]\n `,
  });
  assert.deepEqual((await textsOf([join(folder, "a.json")]))["texts"], texts);
});

test("a field may lie inside another; records without it and empty texts are counted", async () => {
  const file = join(FIXTURES, "nested.parquet");
  const texts = [...TEXTS.slice(0, 3), "  "];
  assert.deepEqual(await textsOf([file], "data.text"), { texts, empty: 1, withoutField: 1 });
  await assert.rejects(textsOf([file], "body"), /no record has "body"; they have "data", "messages"/);
  await assert.rejects(textsOf([file], "data.size"), /row 1: "data\.size" is neither a text/);
});

test("counts are those of what was read, tokenised and drawn", async (t) => {
  const records = [{ text: TEXTS[0] }, { text: " " }, { other: 1 }, { text: "Short." }];
  const folder = write(t, { "lines.jsonl": linesOf(records) });
  const { counts } = await loadCalibration({ file: join(folder, "lines.jsonl") }, { ...OPTIONS, nsamples: 9 });
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  const lengths = await Promise.all(
    [TEXTS[0], " ", "Short."].map(async (text) => (await tokenizer.encode(text)).length),
  );
  const tokens = lengths.reduce((sum, length) => sum + length);
  assert.deepEqual(counts, { texts: 3, tokens, empty: 1, withoutField: 1, tooShort: 2 }, "all three were drawn");
});

test("conversations are written by the model's template, and their special tokens are not put there twice", async (t) => {
  const template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
  const model = temporaryDirectory(t);
  copyFileSync(join(DEMO_MODEL, "tokenizer.json"), join(model, "tokenizer.json"));
  writeFileSync(
    join(model, "tokenizer_config.json"),
    JSON.stringify({ bos_token: "<s>", tokenizer_class: "LlamaTokenizer", chat_template: template }),
  );
  const folder = write(t, {
    "chats.jsonl": linesOf([{ messages: [{ role: "user", content: "What of day one?" }], prompt: "unused" }]),
  });
  const options = { ...OPTIONS, modelDirectory: model, seqlen: 4 };
  const { sequences } = await loadEvaluation({ file: join(folder, "chats.jsonl") }, options);
  const tokenizer = await loadTokenizer(model);
  const ids = await tokenizer.encode("user: What of day one?\n"); // which puts <s> in front
  assert.deepEqual(
    sequences.flatMap((sequence) => [...sequence]),
    [...ids.slice(0, ids.length - (ids.length % 4))],
  );
  assert.equal(ids[0], 1);
  // The same from Parquet, where messages are a list of structs beside other columns.
  const { counts } = await loadCalibration({ file: join(FIXTURES, "nested.parquet") }, options);
  assert.equal(counts?.texts, 5);
});

test("WikiText-2 by name: rows, empty ones among them, joined by a space to calibrate and by two line ends to evaluate", async (t) => {
  const rows = ["", " = Days = \n", "", ` ${TEXTS[0]} \n`, ` ${TEXTS[1]} \n`, ""];
  const folder = write(t, { "wiki.raw": ` \n = Days = \n \n ${TEXTS[0]} \n ${TEXTS[1]} \n\n` });
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  const joined = await tokenizer.encode(rows.join("\n\n"));
  const options = { ...OPTIONS, seqlen: joined.length };
  for (const file of [join(FIXTURES, "wikitext.parquet"), join(folder, "wiki.raw")]) {
    const { sequences, counts } = await loadEvaluation({ file, set: "wikitext2" }, options);
    assert.deepEqual(sequences, [joined], file);
    assert.deepEqual([counts?.texts, counts?.empty], [6, 3]);
    const ids = await tokenizer.encode(rows.join(" "));
    const drawn = await loadCalibration(
      { file, set: "wikitext2" },
      { ...OPTIONS, nsamples: 1, seqlen: ids.length - 1 },
    );
    assert.deepEqual(drawn.sequences, [ids.slice(0, -1)], "the only window there is");
  }
});

test("of a folder the records are taken, else the texts; a glob takes what it matches; several texts are documents", async (t) => {
  const folder = write(t, {
    "data/b.jsonl": linesOf(TEXTS.slice(0, 2).map((text) => ({ text }))),
    "data/a/c.json": JSON.stringify(TEXTS.slice(2, 4).map((text) => ({ text }))),
    "data/README.md": "Not data.",
    "data/.hidden.jsonl": "{}",
    "notes/one.txt": TEXTS[0],
    "notes/two.md": TEXTS[1],
    "notes/three.bin": "\u0000",
  });
  const names = (place: string): string[] => filesOf(join(folder, place)).map((file) => file.slice(folder.length + 1));
  assert.deepEqual(names("data"), ["data/a/c.json", "data/b.jsonl"]);
  assert.deepEqual(names("notes"), ["notes/one.txt", "notes/two.md"]);
  assert.deepEqual(names("**/*.{jsonl,md}"), ["data/README.md", "data/b.jsonl", "notes/two.md"]);
  const texts = [2, 3, 0, 1].map((i) => TEXTS[i]);
  assert.deepEqual((await textsOf(filesOf(join(folder, "data"))))["texts"], texts);
  assert.deepEqual((await textsOf(filesOf(join(folder, "notes"))))["texts"], TEXTS.slice(0, 2));
});
