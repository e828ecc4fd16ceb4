/** The command's work on the demo model's first blocks: what is written, read back as a run reads it, and what is refused. */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { loadCalibration } from "../../src/calibration/corpus.js";
import { hashIds } from "../../src/calibration/ids.js";
import { loadTokenizer } from "../../src/calibration/tokenizer.js";
import type { GenerationConfig, GenerationReport } from "../../src/contract.js";
import { InterruptedError, PruneError } from "../../src/errors.js";
import { generateCalibration } from "../../src/generation/generate-calibration.js";
import { createMemoryLogger } from "../../src/logging.js";
import { fixturePath } from "../helpers/architectures.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { readTensors, rowsOf, tensorOf } from "../helpers/tensors.js";

const scratch = mkdtempSync(join(tmpdir(), "prune-generation-"));
const model = join(scratch, "model");
before(() => writeShortDemo(model, { blocks: 2 }));
after(() => rmSync(scratch, { recursive: true }));

const SIZE = { nsamples: 5, seqlen: 24 };

let files = 0;
/** @param changes `out` is a name in the scratch directory */
async function generate(
  changes: Partial<GenerationConfig> = {},
  context = createTestContext(),
): Promise<GenerationReport> {
  const { out = `out-${files++}.safetensors` } = changes;
  return generateCalibration(
    {
      model,
      force: false,
      seed: 0,
      temperature: undefined,
      topK: undefined,
      topP: undefined,
      greedyTokens: 4,
      prompts: undefined,
      batchSize: undefined,
      memoryBytes: 2 ** 30,
      ...SIZE,
      ...changes,
      out: join(scratch, out),
    },
    context,
  );
}

const idsOf = (report: GenerationReport): Int32Array[] => rowsOf(tensorOf(readTensors(report.out), "ids"));

/** The same model with other words of generation_config.json. */
function withGenerationConfig(name: string, text: string): string {
  const directory = join(scratch, name);
  cpSync(model, directory, { recursive: true });
  writeFileSync(join(directory, "generation_config.json"), text);
  return directory;
}

const refusal = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof PruneError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  return true;
};

test("full rows of ids that a run takes as they are", async () => {
  const context = createTestContext();
  const report = await generate({}, context);
  const rows = idsOf(report);
  assert.deepEqual([rows.length, ...new Set(rows.map(({ length }) => length))], [5, 24]);
  const source = { file: report.out };
  const read = await loadCalibration(source, { modelDirectory: model, ...SIZE, seed: 0, vocabSize: 4096 });
  assert.deepEqual(read.sequences, rows);
  assert.equal(read.sha256, report.sha256);
  assert.ok(
    rows.every(([first, second = 0]) => first === 1 && second > 2),
    "a beginning of text, then a drawn token",
  );
  assert.equal(new Set(rows.map(([, second]) => second)).size, 5);
  assert.deepEqual(
    [report.sequences, report.tokens, report.ended, report.passes, report.batchSize, report.generatedTokens],
    [5, 120, 0, 23, 5, 5 * 22],
  );
  assert.deepEqual(report.sampling, {
    seed: 0,
    temperature: 1,
    topK: 50,
    topP: 1,
    greedyTokens: 4,
    endTokens: [2],
  });
  assert.deepEqual([report.blocksInMemory, report.blocks], [2, 2]);
  assert.deepEqual(context.events.at(-1), { type: "tokens", done: 120, total: 120, fraction: 1 });
  assert.equal(context.events.length, 23);
});

test("the same options give the same bytes, however many grow at a time and whatever stays in memory", async () => {
  const [first, again] = [await generate(), await generate()];
  assert.deepEqual(readFileSync(first.out), readFileSync(again.out));
  const small = await generate({ batchSize: 2 });
  assert.deepEqual([small.batchSize, small.passes > 23], [2, true]);
  assert.equal(small.sha256, first.sha256);
  const logger = createMemoryLogger();
  const streamed = await generate({ memoryBytes: 4000 }, createTestContext({ logger }));
  assert.match(logger.lines.map(({ message }) => message).join(), /do not fit in --memory/);
  assert.deepEqual([streamed.batchSize, streamed.blocksInMemory], [1, 0]);
  assert.equal(streamed.sha256, first.sha256);
  const partly = await generate({ memoryBytes: 9_000_000, batchSize: 5 });
  assert.equal(partly.blocksInMemory, 1);
  assert.equal(partly.sha256, first.sha256);
});

test("every option that decides what is drawn changes it", async () => {
  const { sha256 } = await generate();
  for (const changes of [
    { seed: 1 },
    { temperature: 0.5 },
    { topK: 3 },
    { topP: 0.3 },
    { greedyTokens: 9 },
    { nsamples: 4 },
    { seqlen: 23 },
  ])
    assert.notEqual((await generate(changes)).sha256, sha256, JSON.stringify(changes));
  // One token to choose from is the most probable one, at any temperature.
  assert.equal((await generate({ topK: 1 })).sha256, (await generate({ greedyTokens: 24 })).sha256);
});

test("texts are what the tokenizer makes of the sequences, one document each", async () => {
  const report = await generate({ out: "texts.jsonl" });
  const tokenizer = await loadTokenizer(model);
  const texts = readFileSync(report.out, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { text: string }).text);
  const ids = idsOf(await generate()); // nothing ends early, so rows are sequences
  assert.deepEqual(texts, await Promise.all(ids.map((row) => tokenizer.decode(row))));
  assert.ok(texts.every((text) => text.length > 24 && !text.includes("<s>")));
  assert.equal(report.sha256, hashIds(ids));
  const plain = await generate({ out: "texts.txt" });
  assert.equal(readFileSync(plain.out, "utf8"), texts.map((text) => `${text}\n`).join(""));
});

test("texts are continued line by line, in turn", async () => {
  const prompts = join(scratch, "prompts.txt");
  writeFileSync(prompts, "Once upon a time\n\nIt was a dark night\n");
  const report = await generate({ out: "continued.jsonl", prompts });
  const lines = readFileSync(report.out, "utf8").trimEnd().split("\n");
  const begins = lines.map((line) => (JSON.parse(line) as { text: string }).text.slice(0, 16));
  assert.deepEqual(
    begins,
    [0, 1, 0, 1, 0].map((i) => ["Once upon a time", "It was a dark ni"][i]),
  );
  assert.equal(new Set(lines).size, 5, "each goes on in its own way");
  await assert.rejects(generate({ prompts, seqlen: 4 }), refusal("E_PROMPT_LONG", /prompts\.txt:1: \d tokens/));
  writeFileSync(prompts, "\n \n");
  await assert.rejects(generate({ prompts }), refusal("E_TEXT_EMPTY", /no text to be continued/));
});

test("what the checkpoint says of sampling is heeded, unless an option says otherwise", async () => {
  const said = { temperature: 0.5, top_k: 7, top_p: 0.9, eos_token_id: [2, 13, 5], do_sample: false };
  const directory = withGenerationConfig("said", JSON.stringify(said));
  const logger = createMemoryLogger();
  const { sampling } = await generate({ model: directory }, createTestContext({ logger }));
  assert.deepEqual([sampling.temperature, sampling.topK, sampling.topP, sampling.endTokens], [0.5, 7, 0.9, [2, 13, 5]]);
  assert.equal(logger.lines.filter(({ message }) => message.includes("generation_config.json")).length, 3);
  const options = { temperature: 1, topK: 50, topP: 1 };
  const asked = await generate({ model: directory, ...options });
  assert.deepEqual([asked.sampling.temperature, asked.sampling.topK, asked.sampling.topP], [1, 50, 1]);
  const one = withGenerationConfig("one", `{ "eos_token_id": 13, "temperature": null }`);
  assert.deepEqual((await generate({ model: one })).sampling.endTokens, [13]);
});

test("sequences that end early are joined, so that every row is full", async () => {
  // The tokens of the commonest words and marks end a text.
  const ends = [...new Set([...(await (await loadTokenizer(model)).encode(", the and of. to a he I was"))])].slice(1);
  const directory = withGenerationConfig("ends", JSON.stringify({ eos_token_id: ends }));
  const report = await generate({ model: directory });
  assert.ok(report.ended >= 5, `${report.ended} ended`);
  const joined = Int32Array.from(idsOf(report).flatMap((row) => [...row]));
  assert.equal(joined.length, 120);
  const begins = joined.filter((id) => id === 1).length;
  assert.ok(begins > 5 && joined[0] === 1, `${begins} beginnings`);
  joined.forEach((id, place) => {
    if (id === 1 && place > 24)
      assert.ok(joined.subarray(place - 24, place).includes(1) || ends.includes(joined[place - 1] as number));
  });
  const texts = await generate({ model: directory, out: "early.jsonl" });
  assert.equal(texts.sequences, 5);
  assert.ok(texts.tokens < 120);
});

test("a model without a tokenizer gives ids, and no text", async () => {
  const bare = fixturePath("llama");
  const report = await generate({ model: bare });
  assert.ok(
    idsOf(report)
      .flatMap((row) => [...row])
      .every((id) => id >= 0 && id < 160),
  );
  await assert.rejects(generate({ model: bare, out: "bare.txt" }), refusal("E_TOKENIZER_MISSING", /tokenizer\.json/));
});

test("files are never overwritten unasked, and checked before any work", async () => {
  writeFileSync(join(scratch, "there.txt"), "mine");
  await assert.rejects(generate({ out: "there.txt" }), refusal("E_OUTPUT_EXISTS", /never overwritten unasked/));
  assert.equal(readFileSync(join(scratch, "there.txt"), "utf8"), "mine");
  const report = await generate({ out: "there.txt", force: true });
  assert.notEqual(readFileSync(report.out, "utf8"), "mine");
  await assert.rejects(generate({ out: "none/a.txt" }), refusal("E_OUTPUT_PARENT", /does not exist/));
  await assert.rejects(generate({ out: "model", force: true }), refusal("E_OUTPUT_EXISTS", /is not a file/));
});

test("a broken generation_config.json, too many positions and weights that are not finite are told by code", async () => {
  for (const [text, message] of [
    ["{", /not valid JSON/],
    ["[]", /must hold a JSON object/],
    [`{"temperature": 0}`, /"temperature" is 0; expected a number above 0/],
    [`{"top_k": -1}`, /"top_k" is -1/],
    [`{"top_p": 1.5}`, /"top_p" is 1.5/],
    [`{"eos_token_id": "x"}`, /"eos_token_id" is "x"/],
  ] as const) {
    const directory = withGenerationConfig("broken", text);
    await assert.rejects(generate({ model: directory }), refusal("E_GENERATION_CONFIG", message));
  }
  await assert.rejects(
    generate({ model: fixturePath("gpt2"), seqlen: 41 }),
    refusal("E_SEQLEN_POSITIONS", /40 tokens/),
  );
  const directory = join(scratch, "spoilt");
  cpSync(model, directory, { recursive: true });
  const file = join(directory, "model.safetensors");
  const bytes = readFileSync(file);
  bytes.writeUInt16LE(0x7fc0, bytes.length - 2); // the last bfloat16, of the final norm, is NaN
  writeFileSync(file, bytes);
  const out = "spoilt.txt";
  await assert.rejects(generate({ model: directory, out }), refusal("E_NON_FINITE_LOGITS", /^sequence 0, token 2: /));
  assert.ok(!existsSync(join(scratch, out)));
});

test("a stop leaves nothing behind", async () => {
  let asked = 0;
  const context = createTestContext({ stop: { requested: () => (++asked > 5 ? "SIGINT" : undefined) } });
  await assert.rejects(generate({ out: "stopped.safetensors" }, context), InterruptedError);
  assert.equal(asked, 6, "heard between two blocks");
  assert.ok(!existsSync(join(scratch, "stopped.safetensors")));
  assert.ok(!existsSync(join(scratch, "stopped.safetensors.partial")));
});
