/**
 * Every family: sequences that grow by what blocks remember (keys and values, states) are those that grow by running the whole forward for
 * every token, and so are the logits they are drawn from.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { StepRunner } from "../../src/forward/step-runner.js";
import { growSequences, type GrowthOptions, type TokenModel } from "../../src/generation/sequences.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { fixturePath, fixtures, type Fixture } from "../helpers/architectures.js";
import { recomputedModel } from "../helpers/recomputed-model.js";
import { relativeError } from "../helpers/tensors.js";

/** The same products and sums in float32 in another order; correct forwards of these models differ by up to 3e-5. */
const TOLERANCE = 3e-5;

/** Longer than every window of these models. */
const SEQLEN = 18;

/** Context that phi3_longrope was trained with first: beyond it every frequency is another. */
const ORIGINAL = 16;

/** Five sequences on three rows: some end early, so that rows are taken over by others and moved. */
const GROWTH: Omit<GrowthOptions, "seqlen"> = {
  sampling: { temperature: 1, topK: 20, topP: 0.95 },
  greedyTokens: 2,
  endTokens: new Set([2, 31, 65, 100]),
  rows: 3,
  seed: 11,
  target: { sequences: 5 },
  start: (index, random) => [1, 7 + index, ...(index === 1 ? [20, 21, 22] : []), random.randomInteger(3, 150)],
  onBlock: () => undefined,
  onPass: () => undefined,
};

interface Recorded {
  readonly sequences: readonly Int32Array[];
  readonly logits: readonly Float32Array[];
  readonly moves: number;
}

async function grow(model: TokenModel, seqlen: number, changes: Partial<GrowthOptions> = {}): Promise<Recorded> {
  const logits: Float32Array[] = [];
  let moves = 0;
  const recording: TokenModel = {
    advance: (...step) => model.advance(...step),
    async logits() {
      const made = await model.logits();
      logits.push(made);
      return made;
    },
    move(from, to) {
      moves++;
      model.move(from, to);
    },
  };
  const { sequences } = await growSequences(recording, { ...GROWTH, seqlen, ...changes });
  return { sequences, logits, moves };
}

async function compare(model: Model, seqlen: number, changes: Partial<GrowthOptions> = {}): Promise<Recorded> {
  await using cached = await StepRunner.open(model, { rows: 3, tokens: seqlen, weightBytes: 2 ** 30 });
  const actual = await grow(cached, seqlen, changes);
  const expected = await grow(await recomputedModel(model, actual.sequences, seqlen), seqlen, changes);
  assert.deepEqual(actual.sequences, expected.sequences);
  assert.equal(actual.logits.length, expected.logits.length);
  actual.logits.forEach((logits, pass) => {
    const error = relativeError(logits, expected.logits[pass] as Float32Array);
    assert.ok(error < TOLERANCE, `logits of pass ${pass}: ${error}`);
  });
  return actual;
}

async function compareFixture({ directory }: Fixture): Promise<void> {
  await using model = await openModel(directory);
  const { sequences } = await compare(model, SEQLEN);
  const lengths = sequences.map(({ length }) => length);
  assert.equal(lengths.length, 5);
  assert.ok(lengths.includes(SEQLEN), `some sequence is whole: ${lengths.join(", ")}`);
}

for (const fixture of fixtures()) {
  test(`${fixture.folder}: a remembered past is a recomputed one`, { skip: fixture.skip }, () =>
    compareFixture(fixture),
  );
}

for (const folder of ["mistral", "bloom"]) {
  test(`${folder}: what is remembered outgrows the room that was made for it, and rows move`, async () => {
    await using model = await openModel(fixturePath(folder));
    const { sequences, moves } = await compare(model, 68, {
      target: { sequences: 3 },
      endTokens: new Set([5, 9, 150]),
    });
    const lengths = sequences.map(({ length }) => length);
    assert.ok(lengths.includes(68) && Math.min(...lengths) < 68 && moves > 0, `${lengths.join(", ")}; ${moves} moves`);
  });
}

test("a rotary scaling that goes by the length of a sequence takes the longest that there may be", async () => {
  await using model = await openModel(fixturePath("phi3_longrope"));
  for (const seqlen of [ORIGINAL, ORIGINAL + 1]) {
    const table = model.architecture.rotaryTables.get("default");
    const isLong = table?.at(seqlen).inverseFrequencies[1] !== table?.at(2).inverseFrequencies[1];
    assert.equal(isLong, seqlen > ORIGINAL);
    await compare(model, seqlen, { endTokens: new Set(), target: { sequences: 2 } });
  }
});
