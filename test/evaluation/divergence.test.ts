/**
 * Comparison with a reference model against plain float64 sums over full logits, on a tiny llama whose vocabulary of
 * 9,000 takes two tiles.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { estimateMean, exponential, measureDivergence } from "../../src/evaluation/divergence.js";
import { evaluatePerplexity, forwardModel } from "../../src/evaluation/perplexity.js";
import { applyFinalNorm, computeLogits, nextTokenStatistics, vocabularyTiles } from "../../src/forward/head.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";

const FIXTURE = repositoryPath("test/fixtures/architectures/llama");
const VOCABULARY = 9000;
const TOKENS = 12;

/** The fixture with a larger vocabulary; `strength` scales how far its blocks are from the fixture's. */
async function writeModel(t: TestContext, strength: number): Promise<string> {
  const directory = temporaryDirectory(t);
  await using checkpoint = await openCheckpoint(FIXTURE);
  const tensors: Record<string, TestTensor> = {};
  for (const [name, { shape }] of checkpoint.tensors) {
    const isVocabulary = name.includes("embed_tokens") || name.includes("lm_head");
    const values = isVocabulary
      ? Float32Array.from(
          { length: VOCABULARY * 48 },
          (_, i) => 0.4 * Math.sin(i * 0.37 + (name.includes("lm_head") ? 1 : 0)) + 0.3 * Math.cos(i * 1.7),
        )
      : (await checkpoint.readTensor(name)).map((value, i) => value + strength * Math.sin(i));
    tensors[name] = { dtype: "F32", shape: isVocabulary ? [VOCABULARY, 48] : shape, values };
  }
  const config = JSON.parse(readFileSync(join(FIXTURE, "config.json"), "utf8")) as object;
  await writeCheckpoint(directory, { tensors, config: { ...config, vocab_size: VOCABULARY } });
  return directory;
}

async function forward(model: Model, sequences: readonly Int32Array[], scratchFile: string) {
  const { width } = model.architecture.state;
  const states = await HiddenStates.create({
    sequences: sequences.length,
    tokens: TOKENS,
    width,
    memoryBytes: 2 ** 24,
    scratchFile,
  });
  await forwardModel(model, sequences, states, createTestContext());
  await applyFinalNorm(model, states, 2);
  const { logPartitions } = await nextTokenStatistics(model, states, sequences, { batch: 2 });
  return { model, states, logPartitions };
}

function logSoftmax(logits: Float32Array): Float64Array {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const partition = top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
  return Float64Array.from(logits, (logit) => logit - partition);
}

test("divergence and agreement are those of the full distributions", async (t) => {
  assert.equal(vocabularyTiles(VOCABULARY).length, 2);
  const sequences = [0, 1, 2].map((s) =>
    Int32Array.from({ length: TOKENS }, (_, i) => (i * 977 + s * 131) % VOCABULARY),
  );
  await using denseModel = await openModel(await writeModel(t, 0));
  await using changedModel = await openModel(await writeModel(t, 0.05));
  const scratch = temporaryDirectory(t);
  const reference = await forward(denseModel, sequences, join(scratch, "a"));
  const candidate = await forward(changedModel, sequences, join(scratch, "b"));
  const { klDivergences, agreements } = await measureDivergence(reference, candidate, { batch: 2 });
  const [p, q] = [
    await computeLogits(denseModel, reference.states, { batch: 1 }),
    await computeLogits(changedModel, candidate.states, { batch: 1 }),
  ];
  sequences.forEach((_, window) => {
    let divergence = 0;
    let agreement = 0;
    for (let token = 0; token < TOKENS - 1; token++) {
      const row = (window * TOKENS + token) * VOCABULARY;
      const [logP, logQ] = [
        logSoftmax(p.subarray(row, row + VOCABULARY)),
        logSoftmax(q.subarray(row, row + VOCABULARY)),
      ];
      divergence += logP.reduce((sum, value, v) => sum + Math.exp(value) * (value - logQ[v]), 0);
      agreement += Number(logP.indexOf(Math.max(...logP)) === logQ.indexOf(Math.max(...logQ)));
    }
    // 9,000 float32 terms of probability-weighted differences below 10: rounding stays under 1e-5.
    assert.ok(
      Math.abs(klDivergences[window] - divergence / (TOKENS - 1)) < 1e-5,
      `${klDivergences[window]}, expected ${divergence / (TOKENS - 1)}`,
    );
    assert.equal(agreements[window], agreement / (TOKENS - 1));
    assert.ok(divergence > 1e-3, "the two models should differ");
  });
});

test("a model compared with itself has divergence 0, agreement 1 and ratio 1", async () => {
  const model = repositoryPath("models/demo");
  const text = { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "evaluation" };
  const { reference, perplexity } = await evaluatePerplexity(
    { model, text, reference: model, seqlen: 256, maxWindows: 4 },
    createTestContext(),
  );
  assert.ok(reference);
  assert.equal(reference.perplexity, perplexity);
  assert.deepEqual(reference.perplexityRatio, { value: 1, low: 1, high: 1 });
  assert.deepEqual(reference.top1Agreement, { value: 1, low: 1, high: 1 });
  assert.ok(Math.abs(reference.klDivergence.value) < 1e-6);
});

test("means come with the interval of their standard error", () => {
  const { value, low, high } = estimateMean(Float64Array.of(1, 2, 3, 4));
  assert.equal(value, 2.5);
  // s = sqrt(5/3), s / sqrt(4) = 0.6455, times 1.96
  assert.ok(Math.abs(high - value - 1.2652) < 1e-4 && Math.abs(value - low - 1.2652) < 1e-4);
  assert.deepEqual(estimateMean(Float64Array.of(7)), { value: 7, low: 7, high: 7 });
  assert.deepEqual(exponential({ value: 0, low: 0, high: Math.log(2) }), { value: 1, low: 1, high: 2 });
});
