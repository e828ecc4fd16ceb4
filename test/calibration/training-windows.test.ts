/** Which windows the steps of a training see. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { TrainingWindows } from "../../src/calibration/training-windows.js";

const SEQLEN = 10;

function tokensOf(count: number, isContinuous: boolean) {
  return { ids: Int32Array.from({ length: count }, (_, i) => i), isContinuous, sha256: "", description: "" };
}

const startsOf = (windows: TrainingWindows, steps: number, size: number): number[] =>
  Array.from({ length: steps }, (_, i) => windows.ofStep(i + 1, size)).flatMap((some) =>
    some.map((ids) => {
      assert.equal(ids.length, SEQLEN);
      ids.forEach((id, i) => assert.equal(id, (ids[0] as number) + i));
      return ids[0] as number;
    }),
  );

test("a pass sees windows that do not overlap, each once, in an order of its own; the next cuts elsewhere", () => {
  const windows = new TrainingWindows(tokensOf(205, true), SEQLEN, 3);
  assert.equal(windows.count, 19);
  const all = startsOf(windows, 19, 6);
  const passes = Array.from({ length: 6 }, (_, pass) => all.slice(19 * pass, 19 * (pass + 1)));
  for (const pass of passes) {
    const sorted = [...pass].sort((a, b) => a - b);
    sorted.forEach((start, i) => assert.equal(start, (sorted[0] as number) + i * SEQLEN));
    assert.notDeepEqual(pass, sorted);
    assert.ok((sorted[18] as number) + SEQLEN <= 205);
  }
  assert.ok(new Set(passes.map((pass) => Math.min(...pass))).size >= 3);
  assert.notDeepEqual(
    startsOf(new TrainingWindows(tokensOf(205, true), SEQLEN, 4), 9, 2),
    startsOf(windows, 9, 2),
    "another seed, another order",
  );
});

test("a step sees the same windows whatever was asked for before, across passes too", () => {
  const [forward, backward] = [0, 1].map(() => new TrainingWindows(tokensOf(95, true), SEQLEN, 0)) as [
    TrainingWindows,
    TrainingWindows,
  ];
  const steps = [...Array(12).keys()].map((i) => i + 1);
  const inOrder = new Map(steps.map((step) => [step, forward.ofStep(step, 3)]));
  for (const step of steps.toReversed()) assert.deepEqual(backward.ofStep(step, 3), inOrder.get(step));
});

test("stored rows are taken as they are, and a text of one window and a little is one window anywhere in it", () => {
  const rows = startsOf(new TrainingWindows(tokensOf(70, false), SEQLEN, 0), 7, 2);
  assert.deepEqual(
    [...rows.slice(0, 7)].sort((a, b) => a - b),
    [0, 10, 20, 30, 40, 50, 60],
  );
  const little = new TrainingWindows(tokensOf(13, true), SEQLEN, 0);
  assert.equal(little.count, 1);
  const starts = startsOf(little, 40, 1);
  assert.deepEqual(
    [...new Set(starts)].sort((a, b) => a - b),
    [0, 1, 2, 3],
  );
  assert.deepEqual(startsOf(new TrainingWindows(tokensOf(10, true), SEQLEN, 0), 2, 1), [0, 0]);
});
