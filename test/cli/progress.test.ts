import assert from "node:assert/strict";
import { test } from "node:test";
import { createLineProgress, createLiveProgress, estimateRemaining } from "../../src/cli/progress.js";
import type { EngineEvent } from "../../src/contract.js";
import { createMemoryLogger } from "../../src/logging.js";

const START: EngineEvent = { type: "start", blocks: 4, device: "cpu", resumedBlocks: 0, fraction: 0 };
const stage = (fraction: number): EngineEvent => ({ type: "stage", block: 1, blocks: 4, stage: "solve", fraction });
const BLOCK: EngineEvent = {
  type: "block",
  block: 1,
  blocks: 4,
  zeros: 70,
  elements: 100,
  loss: 1.23456,
  seconds: 2,
  fraction: 0.5,
};

function fakeTerminal(): { columns: number; written: string[]; write(text: string): void } {
  const written: string[] = [];
  return { columns: 60, written, write: (text) => void written.push(text) };
}

test("remaining time is extrapolated from the share of work, and unknown before there is enough", () => {
  assert.equal(estimateRemaining(0.25, 1000), 3000);
  assert.equal(estimateRemaining(1, 1000), 0);
  assert.equal(estimateRemaining(0.019, 1000), undefined);
});

test("the live line has a bar, time passed and left, block and stage, is redrawn at most ten times a second and is removed at the end", () => {
  let time = 0;
  const terminal = fakeTerminal();
  terminal.columns = 120;
  const progress = createLiveProgress(terminal, () => time);
  progress.handle(START);
  for (let i = 1; i <= 50; i++) {
    time += 10;
    progress.handle(stage(i / 100));
  }
  assert.equal(terminal.written.length, 1 + 5, "500 ms: the first drawing and five more");
  progress.handle(BLOCK);
  time += 100;
  progress.handle(stage(0.5));
  const last = (): string => terminal.written.at(-1) ?? "";
  assert.match(last(), /█{10}░{10} 50% · 0\.60 s, ETA 0\.40 s · block 2\/4 · solve, last loss 1\.235$/);
  time += 100;
  progress.tick();
  assert.match(last(), / 50% · 0\.70 s, ETA 0\.30 s · /, "time passes though nothing is told");
  time += 9900;
  progress.tick();
  assert.match(last(), / 50% · 10\.6 s, ETA 0\.00 s · /);
  terminal.columns = 40;
  progress.tick();
  assert.equal(last().length, "\r\u001b[2K".length + 39, "fits the terminal");
  progress.finish();
  assert.equal(terminal.written.at(-1), "\r\u001b[2K");
});

test("there is no estimate before two per cent are done, and a cell is told with its number", () => {
  let time = 0;
  const terminal = fakeTerminal();
  terminal.columns = 120;
  const progress = createLiveProgress(terminal, () => (time += 1000));
  const cell = { number: 3, total: 12, label: "wanda 2:4" };
  progress.handle({ type: "stage", block: null, stage: "allocation", fraction: 0.01, cell });
  assert.match(terminal.written.at(-1) ?? "", / 1% · [\d.]+ s · cell 3\/12 wanda 2:4 · allocation$/);
});

test("a log line steps in front of the live line", () => {
  const terminal = fakeTerminal();
  const progress = createLiveProgress(terminal, () => 0);
  progress.handle(START);
  progress.around(() => terminal.write("log\n"));
  assert.deepEqual(terminal.written.slice(1, 3), ["\r\u001b[2K", "log\n"]);
  assert.match(terminal.written[3] ?? "", /4 blocks on cpu/);
});

test("without a terminal there is one log line per block, with its numbers as fields", () => {
  let time = 0;
  const logger = createMemoryLogger();
  const progress = createLineProgress(logger, () => time);
  progress.handle(START);
  time = 2000;
  progress.handle(stage(0.4));
  progress.handle(BLOCK);
  assert.equal(logger.lines.length, 1);
  assert.equal(logger.lines[0]?.message, "block 2/4: 70.0% zeros, loss 1.235, 2.0 s · 50%, ETA 2.0 s");
  assert.deepEqual(logger.lines[0]?.fields, {
    ...{ block: 2, blocks: 4, zeros: 70, elements: 100, loss: 1.23456, seconds: 2, fraction: 0.5, etaSeconds: 2 },
  });
});

test("without a terminal something is said after thirty seconds of silence", () => {
  let time = 0;
  const logger = createMemoryLogger();
  const progress = createLineProgress(logger, () => time);
  for (time = 1000; time <= 65_000; time += 1000) progress.handle(stage(time / 100_000));
  assert.deepEqual(
    logger.lines.map(({ message }) => message),
    ["block 2/4 · solve · 30%, ETA 1 min 10 s", "block 2/4 · solve · 60%, ETA 40.0 s"],
  );
});

test("a resumed run says so", () => {
  const logger = createMemoryLogger();
  createLineProgress(logger, () => 0).handle({
    type: "start",
    blocks: 4,
    device: "cpu",
    resumedBlocks: 2,
    fraction: 0,
  });
  assert.match(logger.lines[0]?.message ?? "", /^resuming after 2 of 4 blocks/);
});

test("tokens of generated sequences are counted on the live line", () => {
  let time = 0;
  const terminal = fakeTerminal();
  const progress = createLiveProgress(terminal, () => time);
  time = 1000;
  progress.handle({ type: "tokens", done: 32, total: 128, fraction: 0.25 });
  assert.match(terminal.written.at(-1) ?? "", / 25% · 1\.0 s, ETA 3\.0 s · token 32/);
});
