/** Weights that are no numbers: refused before any work, whatever the method and wherever they are, or left as they are. */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { open, utimes } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { EngineEvent } from "../../src/contract.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { createOutput } from "../../src/checkpoint/output.js";
import { nonFiniteBefore } from "../../src/checkpoint/output-directory.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { CheckpointError, exitCodeOf, InterruptedError } from "../../src/errors.js";
import { copyFixture, fixtures } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createMemoryLogger } from "../../src/logging.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";
import { readTensors, tensorOf } from "../helpers/tensors.js";

const DOWN = "model.layers.1.mlp.down_proj.weight";

/** A copy of the llama fixture in which the elements of these tensors are NaN. */
async function damaged(t: TestContext, elements: Readonly<Record<string, number>>): Promise<string> {
  const fixture = fixtures().find(({ folder }) => folder === "llama");
  assert.ok(fixture);
  const directory = await copyFixture(t, fixture, "config.json");
  await using checkpoint = await openCheckpoint(directory);
  for (const [name, element] of Object.entries(elements)) {
    const { file, offset, dtype } = checkpoint.info(name);
    const handle = await open(join(directory, file), "r+");
    const bytes = dtype === "F32" ? Uint8Array.of(0, 0, 0xc0, 0x7f) : Uint8Array.of(0xc0, 0x7f);
    await handle.write(bytes, 0, bytes.length, offset + bytes.length * element);
    await handle.close();
  }
  return directory;
}

const MAGNITUDE = { method: "magnitude", calibration: undefined } as const;

test("embedding, norms, linears and head are refused with tensor and place, before anything is written", async (t) => {
  const names = ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", DOWN, "model.norm.weight"];
  const model = await damaged(t, Object.fromEntries(names.map((name) => [name, 3])));
  const out = join(temporaryDirectory(t), "out");
  await assert.rejects(pruneModel(demoRun(out, { model, ...MAGNITUDE }), createTestContext()), (error: unknown) => {
    assert.ok(error instanceof CheckpointError);
    assert.equal(exitCodeOf(error), 4);
    assert.match(error.message, /4 problems/);
    for (const name of names) assert.ok(error.message.includes(`${name} in model-0000`), error.message);
    assert.match(
      error.message,
      /down_proj\.weight in \S+-00002-of-00002\.safetensors: NaN at row 0, column 3 \(1 of 4224 /,
    );
    assert.match(error.message, /model\.norm\.weight in \S+: NaN at element 3 \(1 of 48 values is not finite\)/);
    return true;
  });
  assert.deepEqual([existsSync(out), existsSync(`${out}.partial`)], [false, false]);
});

test("with --allow-non-finite the tensor stays as it is, the others are pruned, and both are said", async (t) => {
  const model = await damaged(t, { [DOWN]: 40 });
  const out = join(temporaryDirectory(t), "out");
  const logger = createMemoryLogger();
  const run = demoRun(out, { model, ...MAGNITUDE, allowNonFinite: true });
  const report = await pruneModel(run, createTestContext({ logger }));
  assert.ok(!report.layers.some(({ name }) => `${name}.weight` === DOWN));
  assert.equal(report.layers.length, 20);
  const warnings = logger.lines.filter(({ level }) => level === "warn").map(({ message }) => message);
  assert.ok(
    warnings.some((message) => message.includes(DOWN) && message.includes("left as it is")),
    warnings.join("\n"),
  );
  const [before, after] = [model, out].map((directory) =>
    readTensors(join(directory, "model-00002-of-00002.safetensors")),
  );
  assert.ok(before && after);
  assert.deepEqual(tensorOf(after, DOWN), tensorOf(before, DOWN));
  const values = [...tensorOf(after, "model.layers.1.mlp.up_proj.weight").values];
  assert.equal(values.filter((value) => value === 0).length, values.length / 2);
  assert.ok(readdirSync(out).includes("recipe.yaml"));
});

test("a resume takes over what the interrupted run found, and looks again where the files are others", async (t) => {
  const model = await damaged(t, { [DOWN]: 40 });
  const out = join(temporaryDirectory(t), "out");
  const run = demoRun(out, { model, ...MAGNITUDE, allowNonFinite: true });
  let blocks = 0;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (blocks === 1 ? "SIGINT" : undefined) } }),
    emit: ({ type }: EngineEvent) => void (blocks += Number(type === "block")),
  };
  await assert.rejects(pruneModel(run, stopping), InterruptedError);
  await using source = await openCheckpoint(model);
  assert.deepEqual([...((await nonFiniteBefore(out, source)) ?? [])], [DOWN]);
  const logger = createMemoryLogger();
  const report = await pruneModel({ ...run, resume: true }, createTestContext({ logger }));
  assert.ok(!logger.lines.some(({ message }) => message.includes("is not finite")), "nothing was looked at");
  assert.equal(report.layers.length, 20);
});

test("what was found of other files, or of files that were written to meanwhile, is not taken over", async (t) => {
  const model = await damaged(t, {});
  const out = join(temporaryDirectory(t), "out");
  const interrupted = async (nonFinite?: ReadonlySet<string>, between?: () => Promise<void>): Promise<void> => {
    await using source = await openCheckpoint(model);
    await between?.();
    await using output = await createOutput({
      source,
      out,
      force: true,
      resume: false,
      ...(nonFinite && { nonFinite }),
    });
    await output.flush();
  };
  const before = async (): Promise<ReadonlySet<string> | undefined> => {
    await using source = await openCheckpoint(model);
    return await nonFiniteBefore(out, source);
  };
  const touch = (): Promise<void> => utimes(join(model, "model-00001-of-00002.safetensors"), 1, 2);
  assert.equal(await before(), undefined);
  await interrupted();
  assert.equal(await before(), undefined);
  await interrupted(new Set());
  assert.equal((await before())?.size, 0);
  await touch();
  assert.equal(await before(), undefined);
  await interrupted(new Set(), () => utimes(join(model, "model-00002-of-00002.safetensors"), 3, 4));
  assert.equal(await before(), undefined);
});
