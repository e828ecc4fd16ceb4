/** Perplexity of dense models against the papers' released evaluation code on the same token ids. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { createTestContext } from "../helpers/engine.js";
import { needsShared, repositoryPath, sharedPath } from "../helpers/paths.js";

// Two independent float32 forwards differ by less than 1e-4 relative on these models.
const TOLERANCE = 1e-4;

function assertPerplexity(actual: number, expected: number): void {
  assert.ok(Math.abs(actual / expected - 1) < TOLERANCE, `${actual}, expected ${expected}`);
}

test("the dense demo model has the released code's perplexity on its own samples", async () => {
  const file = repositoryPath("test/fixtures/models/demo-self.safetensors");
  const context = createTestContext();
  const report = await evaluatePerplexity(
    { model: repositoryPath("models/demo"), text: { file, tensor: "evaluation" }, seqlen: 256, maxWindows: undefined },
    context,
  );
  const golden = JSON.parse(readFileSync(repositoryPath("test/fixtures/models/demo-self.json"), "utf8")) as {
    results: { method: string; released: { ppl: { evaluation: number } } }[];
  };
  const dense = golden.results.find((result) => result.method === "dense");
  assert.ok(dense);
  assertPerplexity(report.perplexity, dense.released.ppl.evaluation);
  assert.equal(report.windows, 64);
  assert.equal(report.tokens, 64 * 255);
  assert.ok(Math.abs(Math.exp(report.nll) - report.perplexity) < 1e-9);
  assert.deepEqual(context.events.at(-1), { type: "windows", done: 64, total: 64, fraction: 1 });
});

test("the text gives the same number as its token ids, and windows can be limited", async () => {
  const model = repositoryPath("models/demo");
  const text = { file: repositoryPath("models/demo/evaluation.txt") };
  const ids = { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "evaluation" };
  const limited = { model, seqlen: 256, maxWindows: 5 };
  const [fromText, fromIds] = [
    await evaluatePerplexity({ ...limited, text }, createTestContext()),
    await evaluatePerplexity({ ...limited, text: ids }, createTestContext()),
  ];
  assert.equal(fromText.windows, 5);
  assert.equal(fromText.perplexity, fromIds.perplexity);
  assert.notEqual(fromText.textSha256, fromIds.textSha256);
});

const stories = needsShared("models/stories260k");
for (const [split, expected] of [
  ["eval_t10", 3.93953],
  ["eval_t08", 2.86723],
] as const) {
  test(`dense stories260k has the released code's perplexity on ${split}`, stories, async () => {
    const file = sharedPath("golden/models/stories260k.safetensors") ?? "";
    const model = sharedPath("models/stories260k") ?? "";
    const report = await evaluatePerplexity(
      { model, text: { file, tensor: split }, seqlen: 256, maxWindows: undefined },
      createTestContext(),
    );
    assertPerplexity(report.perplexity, expected);
  });
}

test(
  "the dense demo model has the released code's perplexity on a novel it never saw",
  needsShared("golden/models/demo.safetensors"),
  async () => {
    const text = { file: sharedPath("golden/models/demo.safetensors") ?? "", tensor: "books_valid" };
    const report = await evaluatePerplexity(
      { model: repositoryPath("models/demo"), text, seqlen: 256, maxWindows: undefined },
      createTestContext(),
    );
    assertPerplexity(report.perplexity, 36.85248565673828);
  },
);
