import assert from "node:assert/strict";
import { test } from "node:test";
import { createLineProgress, createLiveProgress, estimateRemaining } from "../../src/cli/progress.js";
import type { EngineEvent } from "../../src/contract.js";
import { createMemoryLogger } from "../../src/logging.js";

const START: EngineEvent = { type: "start", blocks: 4, device: "cpu", resumedBlocks: 0 };
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

test("remaining time is extrapolated from the share of work, and unknown before there is any", () => {
  assert.equal(estimateRemaining(0.25, 1000), 3000);
  assert.equal(estimateRemaining(1, 1000), 0);
  assert.equal(estimateRemaining(0, 1000), undefined);
});

test("the live line shows block, stage, loss and ETA, is redrawn at most ten times a second and is removed at the end", () => {
  let time = 0;
  const terminal = fakeTerminal();
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
  const last = terminal.written.at(-1) ?? "";
  assert.match(last, /block 2\/4 · solve · 50%, last loss 1\.235, ETA 0\.60 s/);
  assert.ok(last.length <= "\r\u001b[2K".length + 59, "fits the terminal");
  progress.finish();
  assert.equal(terminal.written.at(-1), "\r\u001b[2K");
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
  assert.equal(logger.lines[0]?.message, "block 2/4: 70.0% zeros, loss 1.235, 2.0 s, ETA 2.0 s");
  assert.deepEqual(logger.lines[0]?.fields, {
    block: 2,
    blocks: 4,
    zeros: 70,
    elements: 100,
    loss: 1.23456,
    seconds: 2,
    etaSeconds: 2,
  });
});

test("a resumed run extrapolates from the work of this run only", () => {
  let time = 0;
  const logger = createMemoryLogger();
  const progress = createLineProgress(logger, () => time);
  progress.handle({ ...START, resumedBlocks: 2 });
  time = 1000;
  progress.handle({ ...BLOCK, block: 2, fraction: 0.75 });
  assert.match(logger.lines[0]?.message ?? "", /resuming after 2 of 4 blocks/);
  assert.equal(logger.lines[1]?.fields["etaSeconds"], 1);
});

test("tokens of generated sequences are counted on the live line", () => {
  let time = 0;
  const terminal = fakeTerminal();
  const progress = createLiveProgress(terminal, () => time);
  time = 1000;
  progress.handle({ type: "tokens", done: 32, total: 128 });
  assert.match(terminal.written.at(-1) ?? "", /token 32\/128, ETA 3\.0 s/);
});
