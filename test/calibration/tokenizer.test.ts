import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import native from "@anush008/tokenizers";
import { readPlainText } from "../../src/calibration/text.js";
import { readTokenTensor } from "../../src/calibration/token-tensor.js";
import { loadTokenizer } from "../../src/calibration/tokenizer.js";
import { CheckpointError } from "../../src/errors.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL, ROOT, SHARED, skipWithout } from "../helpers/cli.js";

const BOOKS = join(SHARED, "text/books-valid.txt");
const GOLDEN = join(SHARED, "golden/models");
const FIXTURES = join(ROOT, "test/fixtures/tokenizers");
const STORIES = join(SHARED, "models/stories260k");

function readJson(name: string): object {
  return JSON.parse(readFileSync(join(DEMO_MODEL, name), "utf8")) as object;
}

/** How many leading ids agree. */
function agreement(actual: Int32Array, expected: Int32Array): number {
  const firstDifference = expected.findIndex((id, i) => actual[i] !== id);
  return firstDifference === -1 ? expected.length : firstDifference;
}

/** What Hugging Face's library gives for the whole text in one call, in this process. */
async function referenceIds(definition: object, text: string): Promise<Int32Array> {
  const tokenizer = native.Tokenizer.fromString(JSON.stringify(definition));
  return Int32Array.from((await tokenizer.encode(text, null, { addSpecialTokens: true })).getIds());
}

async function goldenIds(file: string, tensor: string): Promise<Int32Array> {
  const { rows } = await readTokenTensor({ file: join(GOLDEN, file), tensor });
  return Int32Array.from(rows.flatMap((row) => [...row]));
}

test("the demo model's texts have the ids of the reference tokenizer", { skip: skipWithout(GOLDEN) }, async () => {
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  for (const [name, tensor] of [
    ["calibration.txt", "calib"],
    ["evaluation.txt", "evaluation"],
  ] as const) {
    const expected = await goldenIds("demo-self.safetensors", tensor);
    assert.equal(
      agreement(await tokenizer.encode(readPlainText(join(DEMO_MODEL, name)).text), expected),
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
    assert.equal(agreement(await (await loadTokenizer(DEMO_MODEL)).encode(text), expected), expected.length);
  },
);

test("ids of a text encoded in pieces equal those of one call", async () => {
  using tokenizer = await loadTokenizer(DEMO_MODEL);
  const unit =
    "He said:  \"Well—  it's 12345 \n\n o'clock\",\tand <s> left. \r\n  \u00a0 naïve 😀 e\u0301 \ufeff \u0085  x. ";
  const long = unit.repeat(8000); // over 600,000 characters: three pieces
  const whole = await referenceIds(readJson("tokenizer.json"), long);
  assert.ok(whole.length > 100_000);
  assert.deepEqual(await tokenizer.encode(long), whole);
});

test("a run of white space that is more than ASCII's is not cut", async (t) => {
  const directory = temporaryDirectory(t);
  const base = JSON.parse(readFileSync(join(FIXTURES, "whitespace/tokenizer.json"), "utf8")) as {
    model: { vocab: Record<string, number>; merges: string[] };
  };
  base.model = { ...base.model, vocab: { ...base.model.vocab, ħĠ: 258 }, merges: ["ħ Ġ"] }; // of U+0085's second byte and a space
  writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(base));
  using tokenizer = await loadTokenizer(directory);
  const ids = await tokenizer.encode("\u0085 ".repeat(140_000)); // longer than a piece
  assert.deepEqual([ids.length, ids.findIndex((id) => id !== 194 && id !== 258)], [280_000, -1]);
});

test("special tokens are the tokenizer's own: one <s> in front, none behind", async () => {
  assert.deepEqual([...(await (await loadTokenizer(DEMO_MODEL)).encode(""))], [1]);
  const ids = await (await loadTokenizer(DEMO_MODEL)).encode("a</s>b");
  assert.equal(ids[0], 1);
  assert.equal(ids[2], 2);
});

test("the examples of stories260k's SentencePiece tokenizer agree", { skip: skipWithout(STORIES) }, async () => {
  const golden = JSON.parse(readFileSync(join(GOLDEN, "stories260k.json"), "utf8")) as {
    tokenizer: { text: string; ids: number[] }[];
  };
  const tokenizer = await loadTokenizer(STORIES);
  assert.ok(golden.tokenizer.length >= 5);
  for (const { text, ids } of golden.tokenizer)
    assert.deepEqual([...(await tokenizer.encode(text))], ids, JSON.stringify(text));
});

test("classes that add <s> by configuration obey add_bos_token over the post-processor", async (context) => {
  const directory = mkdtempSync(join(tmpdir(), "prune-tokenizer-"));
  context.after(() => rmSync(directory, { recursive: true }));
  const definition = JSON.parse(readFileSync(join(DEMO_MODEL, "tokenizer.json"), "utf8")) as Record<string, unknown>;
  const firstId = async (
    changes: Record<string, unknown>,
    config: Record<string, unknown>,
  ): Promise<number | undefined> => {
    writeFileSync(join(directory, "tokenizer.json"), JSON.stringify({ ...definition, ...changes }));
    writeFileSync(join(directory, "tokenizer_config.json"), JSON.stringify(config));
    return (await (await loadTokenizer(directory)).encode("a"))[0];
  };
  const withoutTemplate = { post_processor: null };
  assert.equal(await firstId(withoutTemplate, { tokenizer_class: "LlamaTokenizerFast", bos_token: "<s>" }), 1);
  assert.equal(await firstId(withoutTemplate, { tokenizer_class: "LlamaTokenizer", bos_token: { content: "<s>" } }), 1);
  assert.notEqual(await firstId(withoutTemplate, { tokenizer_class: "PreTrainedTokenizerFast", bos_token: "<s>" }), 1);
  assert.notEqual(await firstId({}, { tokenizer_class: "LlamaTokenizer", bos_token: "<s>", add_bos_token: false }), 1);
});

test("a model without tokenizer.json is refused with the way out", async (context) => {
  const directory = mkdtempSync(join(tmpdir(), "prune-tokenizer-"));
  context.after(() => rmSync(directory, { recursive: true }));
  await assert.rejects(
    loadTokenizer(directory),
    (error: unknown) =>
      error instanceof CheckpointError && error.code === "E_TOKENIZER_MISSING" && /token ids/.test(error.hint ?? ""),
  );
  writeFileSync(join(directory, "tokenizer.json"), "{");
  await assert.rejects(loadTokenizer(directory), { code: "E_TOKENIZER" });
  writeFileSync(join(directory, "tokenizer.json"), "{}");
  await assert.rejects(loadTokenizer(directory), { code: "E_TOKENIZER" });
  assert.equal(existsSync(join(directory, "tokenizer_config.json")), false);
});

test("a text to be continued begins as any text does, and is not closed", async () => {
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  assert.deepEqual([...tokenizer.opening], [1]);
  const ids = await tokenizer.encodeOpening("It was a dark night");
  assert.deepEqual(ids, await tokenizer.encode("It was a dark night"));
  assert.equal(await tokenizer.decode(ids), "It was a dark night");
  assert.equal(await tokenizer.decode(new Int32Array(0)), "");
});

test("tokens of texts are those that the tokenizer knows and that are not special", async () => {
  const tokenizer = await loadTokenizer(DEMO_MODEL);
  assert.deepEqual(
    [0, 1, 2, 3, 4095, 4096].map((id) => tokenizer.isOfText(id)),
    [false, false, false, true, true, false],
  );
});

test("a beginning-of-text token opens texts also where the tokenizer does not put it there; what closes them does not", async (t) => {
  const directory = temporaryDirectory(t);
  const closing = [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }];
  const special_tokens = { "</s>": { id: "</s>", ids: [2], tokens: ["</s>"] } };
  const write = (name: string, text: object): void => writeFileSync(join(directory, name), JSON.stringify(text));
  const post_processor = { type: "TemplateProcessing", single: closing, pair: closing, special_tokens };
  write("tokenizer.json", { ...readJson("tokenizer.json"), post_processor });
  write("tokenizer_config.json", { bos_token: { content: "<s>" } });
  const tokenizer = await loadTokenizer(directory);
  assert.deepEqual([...tokenizer.opening], [1]);
  const closed = [...(await tokenizer.encode("dark"))];
  assert.equal(closed.at(-1), 2);
  assert.deepEqual([...(await tokenizer.encodeOpening("dark"))], [1, ...closed.slice(0, -1)]);
  write("tokenizer_config.json", { bos_token: null });
  assert.deepEqual([...(await loadTokenizer(directory)).opening], []);
});

/** Of all that tells the library's notions of letters, digits and white space from JavaScript's and ASCII's. */
const TEXTS = [
  "add ½ cup, x² ٣ Ⅳ and 12 ① 四〇 ৩ 1,234.5",
  "a\u0085b\ufeffc\u00a0d\u2028e\u3000f \u200b g\t\t\n\n  h \u1680\u180e i ",
  "Ünïcödé Ǆ İstanbul ſt ﬁ Ａ Å e\u0301 न्दी ไทย 中文字 한국어 العربية שלום Ελλάς ქართ 😀👨‍👩‍👧 𝔘𝟙",
  "don't (stop)! «¿qué?» — it’s $5+5=10^2; a_b~c|d `x` “y” 。、！",
  "",
  " ",
  "the the  the\r\nthe\u0000\u0007",
];

test("texts of all scripts have the reference ids under every kind of step", async (t) => {
  const base = JSON.parse(readFileSync(join(FIXTURES, "digits/tokenizer.json"), "utf8")) as Record<string, unknown>;
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const before = (...steps: object[]): object => ({
    pre_tokenizer: { type: "Sequence", pretokenizers: [...steps, bytes] },
  });
  const special = { id: "þ", ids: [254], tokens: ["þ"] };
  const around = [{ SpecialToken: { id: "þ", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  const words = { "[UNK]": 0, a: 1, the: 2, "##e": 3, "½": 4, t: 5, "##h": 6 };
  const kinds: Readonly<Record<string, object>> = {
    splits: before(
      { type: "Digits", individual_digits: true },
      { type: "Punctuation", behavior: "MergedWithNext" },
      { type: "Split", pattern: { Regex: "\\p{L}+" }, behavior: "MergedWithPrevious", invert: true },
    ),
    metaspace: before({ type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true }),
    normalizers: {
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "NFKC" },
          { type: "Replace", pattern: { Regex: "\\s{2,}|½" }, content: "▁" },
          { type: "Prepend", prepend: "▁" },
        ],
      },
      ...before(),
    },
    template: {
      post_processor: { type: "TemplateProcessing", single: around, pair: around, special_tokens: { þ: special } },
    },
    cutAndPadded: {
      truncation: null,
      post_processor: {
        type: "RobertaProcessing",
        sep: ["ÿ", 255],
        cls: ["þ", 254],
        trim_offsets: true,
        add_prefix_space: false,
      },
    },
    addedTokens: {
      added_tokens: [
        { id: 258, content: "the", single_word: true, lstrip: true, rstrip: false, normalized: true, special: false },
        { id: 259, content: "½ ", single_word: false, lstrip: false, rstrip: true, normalized: false, special: true },
      ],
    },
    smallVocabulary: {
      model: { ...(base["model"] as object), vocab: { a: 0, Ġ: 1, t: 2 }, merges: [], unk_token: "a" },
    },
    wordPiece: {
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: words,
      },
    },
    unigram: {
      pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
      model: {
        type: "Unigram",
        unk_id: 0,
        vocab: [
          ["<unk>", 0],
          ["▁", -1],
          ["▁the", -2],
          ["a", -3],
          ["½", -4],
          ["<0xC2>", -9],
        ],
        byte_fallback: false,
      },
    },
  };
  const directory = temporaryDirectory(t);
  const file = join(directory, "tokenizer.json");
  for (const [kind, changes] of Object.entries(kinds)) {
    const definition = { ...base, ...changes };
    // Truncation and padding are what whoever cuts texts leaves aside.
    const padding = {
      strategy: { Fixed: 3000 },
      direction: "Right",
      pad_to_multiple_of: null,
      pad_id: 0,
      pad_type_id: 0,
      pad_token: "!",
    };
    const truncation = { max_length: 3, strategy: "LongestFirst", stride: 0, direction: "Right" };
    writeFileSync(file, JSON.stringify(kind === "cutAndPadded" ? { ...definition, truncation, padding } : definition));
    using tokenizer = await loadTokenizer(directory);
    for (const text of TEXTS)
      assert.deepEqual(
        await tokenizer.encode(text),
        await referenceIds(definition, text),
        `${kind}: ${JSON.stringify(text)}`,
      );
  }
});

test("digits and white space beyond ASCII have the ids that Hugging Face's library gave", async () => {
  for (const name of ["digits", "whitespace"]) {
    const folder = join(FIXTURES, name);
    const expected = JSON.parse(readFileSync(join(folder, "expected-ids.json"), "utf8")) as number[];
    using tokenizer = await loadTokenizer(folder);
    const text = readFileSync(join(folder, "text.txt"), "utf8"); // its line ends are part of what was encoded
    assert.deepEqual([...(await tokenizer.encode(text))], expected, name);
  }
});

test("where the library ends its process, or cannot answer, there is an error that names the file", async (t) => {
  const directory = temporaryDirectory(t);
  const base = JSON.parse(readFileSync(join(FIXTURES, "digits/tokenizer.json"), "utf8")) as Record<string, unknown>;
  const write = (changes: object): void =>
    writeFileSync(join(directory, "tokenizer.json"), JSON.stringify({ ...base, ...changes }));
  const refused = (reason: RegExp) => (error: unknown) =>
    error instanceof CheckpointError && error.code === "E_TOKENIZER" && reason.test(error.message);

  write({ normalizer: { type: "Precompiled", precompiled_charsmap: "AAAA" } });
  await assert.rejects(loadTokenizer(directory), refused(/tokenizer\.json: .*gave up: .*Precompiled/));
  write({ pre_tokenizer: { type: "FixedLength", length: 0 } });
  await assert.rejects(loadTokenizer(directory), refused(/gave up: .*chunk size/));
  const catastrophic = { type: "Split", pattern: { Regex: "(x+x+)+y" }, behavior: "Isolated", invert: false };
  write({ pre_tokenizer: catastrophic });
  using tokenizer = await loadTokenizer(directory);
  await assert.rejects(tokenizer.encode("x".repeat(300)), refused(/gave up: .*retry-limit/));
  await assert.rejects(tokenizer.encode("y"), refused(/gave up/), "what ended stays ended");
  write({ model: { ...(base["model"] as object), dropout: 0.1 } });
  await assert.rejects(loadTokenizer(directory), refused(/"dropout" is 0\.1/));
  write({ model: { type: "Unigram", unk_id: null, vocab: [["a", -1]] }, pre_tokenizer: null });
  using narrow = await loadTokenizer(directory);
  await assert.rejects(narrow.encode("b"), refused(/unk_id/));
  assert.deepEqual([...(await narrow.encode("a"))], [0], "an answer that was refused ends nothing");
});
