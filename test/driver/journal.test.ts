/** The journal: steps by name in any order, torn and foreign lines, and what a resume is refused for. */
import assert from "node:assert/strict";
import { appendFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Journal, JOURNAL_NAME, type Fingerprint } from "../../src/driver/journal.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { CheckpointError, ConfigError, InterruptedError } from "../../src/errors.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const FINGERPRINT: Fingerprint = { bytes: { method: "wanda", seqlen: "64" }, place: { device: "cpu: 2 threads" } };
const BLOCK = (name: string) => ({ sha256: name.padEnd(64, "0"), layers: [] });

test("steps are found by name, whatever their order, and a torn line is as if it had never been begun", async (t) => {
  const directory = temporaryDirectory(t);
  {
    await using journal = await Journal.open(directory, FINGERPRINT, false);
    await journal.append("block", "layers.2", BLOCK("c"));
    await journal.append("allocation", "sparsities", { sparsities: { a: 0.5 } });
    await journal.append("block", "layers.0", BLOCK("a"));
    assert.deepEqual(journal.finished("block", "layers.2"), BLOCK("c"));
  }
  const file = join(directory, JOURNAL_NAME);
  const whole = await readFile(file, "utf8");
  await appendFile(file, '{"type":"block","name":"layers.1","sha2');
  {
    await using journal = await Journal.open(directory, FINGERPRINT, true);
    assert.deepEqual(journal.finished("block", "layers.0"), BLOCK("a"));
    assert.deepEqual(journal.finished("block", "layers.2"), BLOCK("c"));
    assert.deepEqual(journal.finished("allocation", "sparsities"), { sparsities: { a: 0.5 } });
    assert.equal(journal.finished("block", "layers.1"), undefined);
    assert.equal(await readFile(file, "utf8"), whole);
    await journal.append("block", "layers.1", BLOCK("b"));
  }
  await using journal = await Journal.open(directory, FINGERPRINT, true);
  assert.deepEqual(journal.finished("block", "layers.1"), BLOCK("b"));
});

test("a resume with other options, or on another device, is refused with what differs", async (t) => {
  const directory = temporaryDirectory(t);
  await (await Journal.open(directory, FINGERPRINT, false))[Symbol.asyncDispose]();
  const reopen = (fingerprint: Fingerprint): Promise<Journal> => Journal.open(directory, fingerprint, true);
  const refused = (pattern: RegExp) => (error: unknown) => {
    assert.ok(error instanceof ConfigError && error.code === "E_FINGERPRINT");
    assert.match(error.message, pattern);
    return true;
  };
  const { bytes, place } = FINGERPRINT;
  await assert.rejects(
    reopen({ bytes: { ...bytes, method: "ria" }, place }),
    refused(/had another method \(method: wanda then, ria now\)/),
  );
  await assert.rejects(
    reopen({ bytes: { ...bytes, starved: "skip" }, place }),
    refused(/had another starved \(starved: none then, skip now\)/),
  );
  await assert.rejects(reopen({ bytes: { method: "wanda" }, place }), refused(/seqlen: 64 then, none now/));
  await assert.rejects(
    reopen({ bytes, place: { device: "cpu: 4 threads" } }),
    refused(/ran on another device \(device: cpu: 2 threads then/),
  );
});

test("a journal that something else wrote into is refused with the line", async (t) => {
  const directory = temporaryDirectory(t);
  const file = join(directory, JOURNAL_NAME);
  await (await Journal.open(directory, FINGERPRINT, false))[Symbol.asyncDispose]();
  const head = await readFile(file, "utf8");
  const foreign = [
    "not JSON",
    "null",
    "[1]",
    '{"type":"block","sha256":"0","layers":[]}',
    '{"type":"block","name":"layers.0","layers":[]}',
    '{"type":"constructor","name":"layers.0"}',
  ];
  for (const line of foreign) {
    await writeFile(file, `${head}${line}\n`);
    await assert.rejects(Journal.open(directory, FINGERPRINT, true), (error) => {
      assert.ok(error instanceof CheckpointError && error.code === "E_JOURNAL", line);
      assert.match(error.message, /line 2 is not about a step/);
      return true;
    });
  }
  for (const first of ["not JSON", "{}", '{"type":"run"}']) {
    await writeFile(file, `${first}\n`);
    await assert.rejects(Journal.open(directory, FINGERPRINT, true), /line 1 is not about the run's fingerprint/);
  }
});

for (const propagation of ["block", "dense"] as const) {
  test(`a run whose finished blocks have gaps does what is missing, ${propagation} propagation`, async (t) => {
    const directory = temporaryDirectory(t);
    const settings = { method: "sparsegpt", methodOptions: { damping: 0.01 }, propagation } as const;
    await pruneModel(demoRun(join(directory, "whole"), settings), createTestContext());
    const config = demoRun(join(directory, "stopped"), settings);
    let blocks = 0;
    const stopping = {
      ...createTestContext({ stop: { requested: () => (blocks === 4 ? "SIGINT" : undefined) } }),
      emit: ({ type }: { readonly type: string }) => void (blocks += Number(type === "block")),
    };
    await assert.rejects(pruneModel(config, stopping), InterruptedError);
    const file = join(`${config.out}.partial`, JOURNAL_NAME);
    const [head, ...steps] = (await readFile(file, "utf8")).trimEnd().split("\n");
    const [first, , third, fourth] = steps.filter((step) => step.startsWith('{"type":"block"'));
    assert.match(fourth ?? "", /model\.layers\.3/);
    const others = steps.filter((step) => !step.startsWith('{"type":"block"')); // the allocation, what was read
    await writeFile(file, `${[head, fourth, third, ...others, first].join("\n")}\n`);
    const report = await pruneModel({ ...config, resume: true }, createTestContext());
    assert.equal(report.resumedBlocks, 3);
    const bytesOf = (name: string): Promise<Buffer> => readFile(join(directory, name, "model.safetensors"));
    assert.ok((await bytesOf("stopped")).equals(await bytesOf("whole")));
  });
}
