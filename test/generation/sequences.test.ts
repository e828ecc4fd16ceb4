/** Which sequences grow when, on a model that only counts: what follows n tokens of sum s is (7 s + n) mod 10. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NumericalError } from "../../src/errors.js";
import { growSequences, type GrowthOptions, type TokenModel } from "../../src/generation/sequences.js";

interface CountingModel extends TokenModel {
  /** Sequences per pass. */
  readonly passes: number[];
  logitsMade: number;
}

/** @param spread how much the other tokens may be drawn: 0 for never */
function countingModel(spread = 0, spoil?: (ids: readonly number[]) => boolean): CountingModel {
  const rows: number[][] = [];
  const passes: number[] = [];
  return {
    passes,
    logitsMade: 0,
    advance(ids, positions, onBlock) {
      passes.push(ids.length);
      ids.forEach((id, row) => {
        const before = positions[row] === 0 ? [] : (rows[row] as number[]);
        assert.equal(before.length, positions[row], "a row goes on where it was");
        rows[row] = [...before, id];
      });
      onBlock();
      return Promise.resolve();
    },
    logits() {
      this.logitsMade++;
      const active = passes.at(-1) as number;
      const logits = new Float32Array(active * 10).fill(spread === 0 ? -1e4 : -spread);
      rows.slice(0, active).forEach((ids, row) => {
        const next = (7 * ids.reduce((sum, id) => sum + id, 0) + ids.length) % 10;
        logits[row * 10 + next] = spoil?.(ids) === true ? NaN : 0;
      });
      return Promise.resolve(logits);
    },
    move(from, to) {
      rows[to] = rows[from] as number[];
    },
  };
}

const OPTIONS: GrowthOptions = {
  sampling: { temperature: 1, topK: 0, topP: 1 },
  greedyTokens: 0,
  endTokens: new Set(),
  seqlen: 6,
  rows: 2,
  seed: 0,
  target: { sequences: 3 },
  start: (index) => [index + 1],
  onBlock: () => undefined,
  onPass: () => undefined,
};

const grow = async (changes: Partial<GrowthOptions> = {}, model = countingModel()): Promise<number[][]> =>
  (await growSequences(model, { ...OPTIONS, ...changes })).sequences.map((ids) => [...ids]);

test("sequences are as long as they may be, each goes on from its own start", async () => {
  // 1 → 7·1+1 = 8; 1, 8 → 7·9+2 = 65 → 5; 1, 8, 5 → 7·14+3 = 101 → 1; …
  assert.deepEqual(await grow(), [
    [1, 8, 5, 1, 9, 3],
    [2, 5, 1, 9, 3, 5],
    [3, 2, 7, 7, 7, 7],
  ]);
});

test("a token that ends a text ends a sequence, is part of it, and means nothing in a start", async () => {
  assert.deepEqual(await grow({ endTokens: new Set([5, 1]) }), [
    [1, 8, 5],
    [2, 5],
    [3, 2, 7, 7, 7, 7],
  ]);
});

test("the number of rows changes what is fed together, and nothing else", async () => {
  const changes = { endTokens: new Set([5, 4]), target: { sequences: 9 }, seqlen: 12 };
  const expected = await grow({ ...changes, rows: 1 }, countingModel(1));
  assert.ok(new Set(expected.map((ids) => ids.length)).size > 3, "lengths differ");
  for (const rows of [2, 3, 4, 9, 20]) assert.deepEqual(await grow({ ...changes, rows }, countingModel(1)), expected);
  const model = countingModel(1);
  await grow({ ...changes, rows: 4 }, model);
  assert.equal(Math.max(...model.passes), 4);
  assert.equal(model.passes.at(-1), 1, "rows without a successor go");
});

test("another seed draws other tokens; the same seed the same", async () => {
  const of = (seed: number): Promise<number[][]> => grow({ seed, seqlen: 12 }, countingModel(1));
  assert.deepEqual(await of(3), await of(3));
  assert.notDeepEqual(await of(3), await of(4));
  const [first, second] = await grow({ start: () => [1], seqlen: 12 }, countingModel(0.1));
  assert.notDeepEqual(first, second, "each sequence draws for itself");
});

test("so many tokens after the start are the most probable, the others drawn", async () => {
  const [greedy = []] = await grow({ greedyTokens: 5 }, countingModel(0.1));
  assert.deepEqual(greedy, [1, 8, 5, 1, 9, 3]);
  const [mixed = []] = await grow({ greedyTokens: 2, seqlen: 20 }, countingModel(0.1));
  assert.deepEqual(mixed.slice(0, 3), [1, 8, 5]);
  const next = (ids: readonly number[]): number => (7 * ids.reduce((sum, id) => sum + id, 0) + ids.length) % 10;
  assert.ok(mixed.slice(3).some((id, index) => id !== next(mixed.slice(0, index + 3))));
  assert.notEqual(mixed[3], next(mixed.slice(0, 3)), "the third is drawn, with this seed another one");
});

test("a start of several tokens is fed token by token, without asking for logits before its end", async () => {
  const model = countingModel();
  const start = (): readonly number[] => [1, 8, 5, 1];
  assert.deepEqual(await grow({ start, target: { sequences: 1 } }, model), [[1, 8, 5, 1, 9, 3]]);
  assert.deepEqual([model.passes.length, model.logitsMade], [5, 2]);
});

test("a start that is as long as a sequence may be is one", async () => {
  const model = countingModel();
  assert.deepEqual(await grow({ start: () => [4, 4, 4, 4, 4, 4] }, model), new Array(3).fill([4, 4, 4, 4, 4, 4]));
  assert.equal(model.passes.length, 0);
});

test("where tokens are wanted, no more sequences are begun than may be needed, and the rest is given up", async () => {
  const model = countingModel();
  const { sequences, generated } = await growSequences(model, { ...OPTIONS, target: { tokens: 9 } });
  assert.deepEqual(
    sequences.map((ids) => [...ids]),
    [
      [1, 8, 5, 1, 9, 3],
      [2, 5, 1, 9, 3, 5],
    ],
  );
  assert.equal(model.passes.length, 5);
  assert.equal(generated, 10);
  // Three that end after 3, 2 and more: 3 + 2 + 4 are enough, so the third is cut where it stands.
  const cut = await growSequences(countingModel(), { ...OPTIONS, endTokens: new Set([5, 1]), target: { tokens: 9 } });
  assert.deepEqual(
    cut.sequences.map((ids) => [...ids]),
    [
      [1, 8, 5],
      [2, 5],
      [3, 2, 7, 7],
    ],
  );
});

test("the first tokens are the same for any number of rows where tokens are wanted", async () => {
  const of = async (rows: number): Promise<number[]> => {
    const changes = { rows, endTokens: new Set([5, 4]), target: { tokens: 40 }, seqlen: 9 };
    return (await grow(changes, countingModel(1))).flat().slice(0, 40);
  };
  const expected = await of(1);
  assert.equal(expected.length, 40);
  for (const rows of [2, 3, 7]) assert.deepEqual(await of(rows), expected);
});

test("logits that are not finite are an error that names sequence and token", async () => {
  const spoil = (ids: readonly number[]): boolean => ids[0] === 2 && ids.length === 3;
  await assert.rejects(grow({}, countingModel(0, spoil)), (error) => {
    assert.ok(error instanceof NumericalError);
    assert.equal(error.code, "E_NON_FINITE_LOGITS");
    assert.deepEqual(error.details, { sequence: 1, token: 3 });
    return true;
  });
});

test("whoever listens may stop between blocks, and hears the lengths after every pass", async () => {
  const heard: (readonly number[])[] = [];
  await grow({ onPass: (lengths) => void heard.push(lengths) });
  assert.deepEqual(heard.slice(0, 2), [
    [2, 2],
    [3, 3],
  ]);
  assert.deepEqual(heard.at(-1), [6, 6, 6]);
  const stop = new Error("stop");
  const onBlock = (): void => {
    throw stop;
  };
  await assert.rejects(grow({ onBlock }), stop);
});
