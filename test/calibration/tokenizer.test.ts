import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Tokenizer } from "@huggingface/tokenizers";
import { readPlainText } from "../../src/calibration/text.js";
import { readTokenTensor } from "../../src/calibration/token-tensor.js";
import { loadTokenizer } from "../../src/calibration/tokenizer.js";
import { CheckpointError } from "../../src/errors.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL, SHARED, skipWithout } from "../helpers/cli.js";

const BOOKS = join(SHARED, "text/books-valid.txt");
const GOLDEN = join(SHARED, "golden/models");
const STORIES = join(SHARED, "models/stories260k");

function readJson(name: string): object {
  return JSON.parse(readFileSync(join(DEMO_MODEL, name), "utf8")) as object;
}

/** How many leading ids agree. */
function agreement(actual: Int32Array, expected: Int32Array): number {
  const firstDifference = expected.findIndex((id, i) => actual[i] !== id);
  return firstDifference === -1 ? expected.length : firstDifference;
}

async function goldenIds(file: string, tensor: string): Promise<Int32Array> {
  const { rows } = await readTokenTensor({ file: join(GOLDEN, file), tensor });
  return Int32Array.from(rows.flatMap((row) => [...row]));
}

test("the demo model's texts have the ids of the reference tokenizer", { skip: skipWithout(GOLDEN) }, async () => {
  const tokenizer = loadTokenizer(DEMO_MODEL);
  for (const [name, tensor] of [
    ["calibration.txt", "calib"],
    ["evaluation.txt", "evaluation"],
  ] as const) {
    const expected = await goldenIds("demo-self.safetensors", tensor);
    assert.equal(
      agreement(tokenizer.encode(readPlainText(join(DEMO_MODEL, name)).text), expected),
      expected.length,
      name,
    );
  }
});

test(
  "a long text with CRLF line ends has the reference ids, although it is encoded in pieces",
  { skip: skipWithout(BOOKS) },
  async () => {
    const expected = await goldenIds("demo.safetensors", "books_valid");
    const { text } = readPlainText(BOOKS);
    assert.ok(text.length > 300_000, "longer than one piece");
    assert.equal(agreement(loadTokenizer(DEMO_MODEL).encode(text), expected), expected.length);
  },
);

test("ids of a text encoded in pieces equal those of one call", () => {
  const tokenizer = loadTokenizer(DEMO_MODEL);
  const unit = "He said:  \"Well—  it's 12345 \n\n o'clock\",\tand <s> left. \r\n  \u00a0 naïve 😀 e\u0301. ";
  const long = unit.repeat(9000); // 600,000 characters: three pieces
  const library = new Tokenizer(readJson("tokenizer.json"), readJson("tokenizer_config.json"));
  const whole = (library.encode(long) as { readonly ids: readonly number[] }).ids;
  assert.ok(whole.length > 100_000);
  assert.equal(agreement(tokenizer.encode(long), Int32Array.from(whole)), whole.length);
  assert.equal(tokenizer.encode(long).length, whole.length);
});

test("special tokens are the tokenizer's own: one <s> in front, none behind", () => {
  assert.deepEqual([...loadTokenizer(DEMO_MODEL).encode("")], [1]);
  const ids = loadTokenizer(DEMO_MODEL).encode("a</s>b");
  assert.equal(ids[0], 1);
  assert.equal(ids[2], 2);
});

test("the examples of stories260k's SentencePiece tokenizer agree", { skip: skipWithout(STORIES) }, () => {
  const golden = JSON.parse(readFileSync(join(GOLDEN, "stories260k.json"), "utf8")) as {
    tokenizer: { text: string; ids: number[] }[];
  };
  const tokenizer = loadTokenizer(STORIES);
  assert.ok(golden.tokenizer.length >= 5);
  for (const { text, ids } of golden.tokenizer)
    assert.deepEqual([...tokenizer.encode(text)], ids, JSON.stringify(text));
});

test("classes that add <s> by configuration obey add_bos_token over the post-processor", (context) => {
  const directory = mkdtempSync(join(tmpdir(), "prune-tokenizer-"));
  context.after(() => rmSync(directory, { recursive: true }));
  const definition = JSON.parse(readFileSync(join(DEMO_MODEL, "tokenizer.json"), "utf8")) as Record<string, unknown>;
  const firstId = (changes: Record<string, unknown>, config: Record<string, unknown>): number | undefined => {
    writeFileSync(join(directory, "tokenizer.json"), JSON.stringify({ ...definition, ...changes }));
    writeFileSync(join(directory, "tokenizer_config.json"), JSON.stringify(config));
    return loadTokenizer(directory).encode("a")[0];
  };
  const withoutTemplate = { post_processor: null };
  assert.equal(firstId(withoutTemplate, { tokenizer_class: "LlamaTokenizerFast", bos_token: "<s>" }), 1);
  assert.equal(firstId(withoutTemplate, { tokenizer_class: "LlamaTokenizer", bos_token: { content: "<s>" } }), 1);
  assert.notEqual(firstId(withoutTemplate, { tokenizer_class: "PreTrainedTokenizerFast", bos_token: "<s>" }), 1);
  assert.notEqual(firstId({}, { tokenizer_class: "LlamaTokenizer", bos_token: "<s>", add_bos_token: false }), 1);
});

test("a model without tokenizer.json is refused with the way out", (context) => {
  const directory = mkdtempSync(join(tmpdir(), "prune-tokenizer-"));
  context.after(() => rmSync(directory, { recursive: true }));
  assert.throws(
    () => loadTokenizer(directory),
    (error: unknown) =>
      error instanceof CheckpointError && error.code === "E_TOKENIZER_MISSING" && /token ids/.test(error.hint ?? ""),
  );
  writeFileSync(join(directory, "tokenizer.json"), "{");
  assert.throws(() => loadTokenizer(directory), { code: "E_TOKENIZER" });
  writeFileSync(join(directory, "tokenizer.json"), "{}");
  assert.throws(() => loadTokenizer(directory), { code: "E_TOKENIZER" });
  assert.equal(existsSync(join(directory, "tokenizer_config.json")), false);
});

test("a text to be continued begins as any text does, and is not closed", () => {
  const tokenizer = loadTokenizer(DEMO_MODEL);
  assert.deepEqual([...tokenizer.opening], [1]);
  const ids = tokenizer.encodeOpening("It was a dark night");
  assert.deepEqual(ids, tokenizer.encode("It was a dark night"));
  assert.equal(tokenizer.decode(ids), "It was a dark night");
  assert.equal(tokenizer.decode(new Int32Array(0)), "");
});

test("tokens of texts are those that the tokenizer knows and that are not special", () => {
  const tokenizer = loadTokenizer(DEMO_MODEL);
  assert.deepEqual(
    [0, 1, 2, 3, 4095, 4096].map((id) => tokenizer.isOfText(id)),
    [false, false, false, true, true, false],
  );
});

test("a beginning-of-text token opens texts also where the tokenizer does not put it there; what closes them does not", (t) => {
  const directory = temporaryDirectory(t);
  const closing = [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }];
  const special_tokens = { "</s>": { id: "</s>", ids: [2], tokens: ["</s>"] } };
  const write = (name: string, text: object): void => writeFileSync(join(directory, name), JSON.stringify(text));
  const post_processor = { type: "TemplateProcessing", single: closing, pair: closing, special_tokens };
  write("tokenizer.json", { ...readJson("tokenizer.json"), post_processor });
  write("tokenizer_config.json", { bos_token: { content: "<s>" } });
  const tokenizer = loadTokenizer(directory);
  assert.deepEqual([...tokenizer.opening], [1]);
  const closed = [...tokenizer.encode("dark")];
  assert.equal(closed.at(-1), 2);
  assert.deepEqual([...tokenizer.encodeOpening("dark")], [1, ...closed.slice(0, -1)]);
  write("tokenizer_config.json", { bos_token: null });
  assert.deepEqual([...loadTokenizer(directory).opening], []);
});
