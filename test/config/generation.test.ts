import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { resolveGenerationConfig } from "../../src/config/generation.js";
import { CheckpointError, PruneError, UsageError } from "../../src/errors.js";
import type { GenerationRequest } from "../../src/options/generation-options.js";
import { localModels } from "../helpers/paths.js";

const folder = mkdtempSync(join(tmpdir(), "prune-config-"));
after(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, "llama"));
writeFileSync(join(folder, "llama", "config.json"), JSON.stringify({ max_position_embeddings: 512 }));

const resolved = (request: GenerationRequest) =>
  resolveGenerationConfig(request, {
    workingDirectory: folder,
    freeMemoryBytes: 8001,
    findModel: localModels(folder),
    tokenRowLength: () => Promise.reject(new Error("no rows are asked for")),
  });

const BASE: GenerationRequest = { model: "llama", out: "o.jsonl" };

test("every default is filled in but what the checkpoint says", async () => {
  const { config, notes } = await resolved(BASE);
  assert.deepEqual(config, {
    model: join(folder, "llama"),
    out: join(folder, "o.jsonl"),
    force: false,
    nsamples: 128,
    seqlen: 512,
    seed: 0,
    greedyTokens: 4,
    prompts: undefined,
    memoryBytes: 4000,
  });
  assert.match(notes.map(({ message }) => message).join(), /sequences of 512 tokens, not 2048/);
});

test("texts of flags are read", async () => {
  const { config } = await resolved({
    ...BASE,
    out: "O.SafeTensors",
    family: "qwen2",
    nsamples: "3",
    seqlen: "64",
    seed: "9",
    temperature: "0.7",
    topK: "0",
    topP: "0.9",
    greedyTokens: "0",
    prompts: "p.txt",
    batchSize: "2",
    memory: "1MB",
    force: true,
  });
  assert.deepEqual(config, {
    model: join(folder, "llama"),
    family: "qwen2",
    out: join(folder, "O.SafeTensors"),
    force: true,
    nsamples: 3,
    seqlen: 64,
    seed: 9,
    temperature: 0.7,
    topK: 0,
    topP: 0.9,
    greedyTokens: 0,
    prompts: join(folder, "p.txt"),
    batchSize: 2,
    memoryBytes: 1e6,
  });
});

const REFUSED: readonly [GenerationRequest, typeof PruneError, string, RegExp][] = [
  [{ model: "llama" }, UsageError, "E_FLAG", /^--out: missing/],
  [{ out: "o.txt" }, UsageError, "E_FLAG", /^--model: missing/],
  [{ ...BASE, out: "o.parquet" }, UsageError, "E_OUT_EXTENSION", /"o\.parquet"/],
  [{ ...BASE, model: "none" }, CheckpointError, "E_MODEL_MISSING", /no such directory/],
  [{ ...BASE, temperature: "0" }, UsageError, "E_NUMBER", /^--temperature: "0" is not a number above 0/],
  [{ ...BASE, topP: "1.01" }, UsageError, "E_NUMBER", /^--top-p: "1.01" is not a number above 0 and at most 1/],
  [{ ...BASE, topP: "" }, UsageError, "E_NUMBER", /^--top-p/],
  [{ ...BASE, topP: 0 }, UsageError, "E_NUMBER", /^--top-p/],
  [{ ...BASE, topK: "-1" }, UsageError, "E_COUNT", /^--top-k/],
  [{ ...BASE, seqlen: "1" }, UsageError, "E_COUNT", /^--seqlen/],
  [{ ...BASE, batchSize: "0" }, UsageError, "E_COUNT", /^--batch-size/],
];

for (const [request, kind, code, message] of REFUSED) {
  test(`${JSON.stringify(request)} is refused with ${code}`, async () => {
    await assert.rejects(resolved(request), (error) => {
      assert.ok(error instanceof kind, String(error));
      assert.equal(error.code, code);
      assert.match(error.message, message);
      return true;
    });
  });
}
