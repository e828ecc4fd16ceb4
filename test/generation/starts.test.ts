/** What sequences begin with. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MersenneTwister } from "../../src/calibration/random.js";
import { loadTokenizer } from "../../src/calibration/tokenizer.js";
import { drawnStart } from "../../src/generation/starts.js";
import { DEMO_MODEL } from "../helpers/cli.js";

const random = new MersenneTwister(0);

test("every token that is not special is drawn about as often, and no other", () => {
  const start = drawnStart(12, undefined, { beginToken: 3, endTokens: [0, 7] });
  const counts = new Map<number, number>();
  for (let index = 0; index < 9000; index++) {
    const [begin, drawn = -1, ...more] = start(index, random);
    assert.deepEqual([begin, more], [3, []]);
    counts.set(drawn, (counts.get(drawn) ?? 0) + 1);
  }
  assert.deepEqual(
    [...counts.keys()].sort((a, b) => a - b),
    [1, 2, 4, 5, 6, 8, 9, 10, 11],
  );
  // 1000 expected of each, with a standard deviation of 30.
  assert.ok(
    [...counts.values()].every((count) => Math.abs(count - 1000) < 150),
    [...counts.values()].join(", "),
  );
});

test("ids that the tokenizer does not know, or knows as special, are not drawn", async () => {
  const start = drawnStart(20_000, await loadTokenizer(DEMO_MODEL), { beginToken: undefined, endTokens: [] });
  const drawn = Array.from({ length: 4000 }, (_, index) => start(index, random));
  assert.ok(drawn.every(([begin, id = 0]) => begin === 1 && id > 2 && id < 4096));
  assert.ok(drawn.some(([, id = 0]) => id > 4000));
});

test("without a token that begins a text the drawn one stands alone", () => {
  const start = drawnStart(2, undefined, { beginToken: undefined, endTokens: [1] });
  assert.deepEqual(start(0, random), [0]);
});
