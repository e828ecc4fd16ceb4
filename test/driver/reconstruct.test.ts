/** `--then reconstruct` through the whole run. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError } from "../../src/errors.js";
import { reconstruct } from "../../src/training/reconstruct.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL, runPrune } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const training = (options: object = {}): Partial<RunConfig> => ({
  sparsity: 0.7,
  nsamples: 8,
  then: [{ method: "reconstruct", methodOptions: { ...reconstruct.schema.parse({ epochs: 2, ...options }) } }],
});

const hashOf = (directory: string): string =>
  createHash("sha256")
    .update(readFileSync(join(directory, "model.safetensors")))
    .digest("hex");

async function shortDemo(directory: string): Promise<string> {
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 2 });
  return model;
}

test("blocks come nearer to what they gave, whatever chose the mask, and keep their zeros", async (t) => {
  const directory = temporaryDirectory(t);
  const model = await shortDemo(directory);
  for (const method of ["magnitude", "wanda"]) {
    const plain = demoRun(join(directory, `${method}-plain`), { ...training(), model, method, then: [] });
    const trained = demoRun(join(directory, method), { ...training(), model, method });
    const [before, after] = [
      await pruneModel(plain, createTestContext()),
      await pruneModel(trained, createTestContext()),
    ];
    assert.deepEqual(
      after.training?.map(({ name }) => name),
      ["model.layers.0", "model.layers.1"],
    );
    for (const block of after.training ?? []) assert.ok(block.after < block.before, JSON.stringify(block));
    assert.deepEqual(
      after.layers.slice(0, 7).map(({ zeros }) => zeros),
      before.layers.slice(0, 7).map(({ zeros }) => zeros),
    );
    assert.notEqual(hashOf(trained.out), hashOf(plain.out));
    assert.equal(before.training, undefined);
  }
});

test("in the first block the targets of the dense stream and the block's own are the same", async (t) => {
  const directory = temporaryDirectory(t);
  const model = await shortDemo(directory);
  const [dense, block] = await Promise.all(
    ["dense", "block"].map((targets) =>
      pruneModel(demoRun(join(directory, targets), { ...training({ targets }), model }), createTestContext()),
    ),
  );
  assert.deepEqual(dense?.training?.[0], block?.training?.[0]);
  assert.notDeepEqual(dense?.training?.[1], block?.training?.[1]);
});

test("a training that is stopped between and inside blocks is resumed to the same bytes", async (t) => {
  const directory = temporaryDirectory(t);
  const model = await shortDemo(directory);
  const whole = demoRun(join(directory, "whole"), { ...training(), model });
  const expected = await pruneModel(whole, createTestContext());
  for (const steps of [1, 4, 6]) {
    const stopped = demoRun(join(directory, `stopped-${steps}`), { ...training(), model });
    let seen = 0;
    const stopping = {
      ...createTestContext({ stop: { requested: () => (seen >= steps ? "SIGINT" : undefined) } }),
      emit: (event: { readonly type: string; readonly stage?: string }) =>
        void (seen += Number(event.type === "block" || event.stage?.startsWith("reconstruct") === true)),
    };
    await assert.rejects(pruneModel(stopped, stopping), InterruptedError);
    const resumed = await pruneModel({ ...stopped, resume: true }, createTestContext());
    assert.equal(hashOf(stopped.out), hashOf(whole.out), `stopped at ${steps}`);
    assert.deepEqual(resumed.training, expected.training);
  }
});

test("the command says what was trained, takes options after a colon, and refuses what makes no sense", async (t) => {
  const directory = temporaryDirectory(t);
  const model = await shortDemo(directory);
  const command = (...extra: string[]): string[] => {
    const calibration = ["--calibration", join(DEMO_MODEL, "calibration.txt"), "--nsamples", "8", "--seqlen", "64"];
    return ["run", "--model", model, "--sparsity", "0.7", ...calibration, "--out", join(directory, "out"), ...extra];
  };
  const run = await runPrune(command("--then", "reconstruct:epochs=1,batchSize=4", "--json"));
  assert.equal(run.code, 0, run.stderr);
  const { training: blocks } = JSON.parse(run.stdout) as { training: { steps: number }[] };
  assert.deepEqual(
    blocks.map(({ steps }) => steps),
    [2, 2],
  );
  const text = await runPrune(command("--then", "reconstruct:epochs=1", "--force"));
  assert.match(text.stdout, /reconstruct\s+2 blocks, loss 0\.\d+ to 0\.\d+/);
  const refusals = [
    [["--then", "reconstruct:epochs=0"], /epochs/],
    [["--then", "reconstruct:epoch=3"], /epoch: the method reconstruct has no such option/],
    [["--then", "reconstruct", "--propagation", "dense"], /--propagation dense blocks never see/],
    [["--then", "reconstruct", "admm-update"], /admm-update comes after a step that trains/],
    [["--method", "reconstruct"], /cannot come first|starts from a mask/],
  ] as const;
  for (const [flags, message] of refusals) {
    const refused = await runPrune(command("--force", ...flags));
    assert.equal(refused.code, 2, flags.join(" "));
    assert.match(refused.stderr, message, flags.join(" "));
  }
});
