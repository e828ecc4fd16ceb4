/** Limits that evaluations are to keep. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { GateError } from "../../src/errors.js";
import { checkLimits, expectLimitsKept } from "../../src/evaluation/limits.js";

const estimate = (value: number) => ({ value, low: value - 1, high: value + 1 });
const reference = (ratio: number, divergence: number) => ({
  ...{ model: "dense", perplexity: 10, top1Agreement: estimate(0.9) },
  ...{ perplexityRatio: estimate(ratio), klDivergence: estimate(divergence) },
});

test("a value that equals its limit keeps it, and what is no number keeps none", () => {
  const all = { perplexity: 12, perplexityRatio: 1.2, klDivergence: 0.2 };
  const isKept = (perplexity: number, ratio: number, divergence: number): boolean[] =>
    checkLimits(all, { perplexity, reference: reference(ratio, divergence) }).map((limit) => limit.isKept);
  assert.deepEqual(isKept(12, 1.2, 0.2), [true, true, true]);
  assert.deepEqual(isKept(12.01, 1.2, 0.21), [false, true, false]);
  assert.deepEqual(isKept(NaN, NaN, Infinity), [false, false, false]);
  assert.deepEqual(checkLimits({ klDivergence: 1 }, { perplexity: 1, reference: undefined })[0]?.isKept, false);
  assert.deepEqual(checkLimits({}, { perplexity: 1, reference: undefined }), []);
});

test("only the limits that are not kept are named", () => {
  const limits = checkLimits(
    { perplexity: 9, klDivergence: 1 },
    { perplexity: 12.3456789, reference: reference(1, 0.5) },
  );
  assert.throws(
    () => expectLimitsKept({ model: "m", limits }),
    (error) => error instanceof GateError && error.message === "m does not keep --max-ppl 9: it is 12.3457.",
  );
  expectLimitsKept({ model: "m", limits: limits.slice(1) });
  expectLimitsKept({ model: "m" });
});
