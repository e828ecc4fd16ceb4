/** Input that cannot be used is refused before any work, by an error that names it, and nothing is written. */
import assert from "node:assert/strict";
import { cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { encodeHeader } from "../../src/checkpoint/header.js";
import type { RunConfig } from "../../src/contract.js";
import { planRun } from "../../src/driver/plan.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { PruneError } from "../../src/errors.js";
import { allocationSchema } from "../../src/allocation/registry.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { demoRun } from "../helpers/runs.js";

interface Refusal {
  readonly code: string;
  /** What the message must name. */
  readonly names: readonly (string | RegExp)[];
}

async function assertRefused(
  t: TestContext,
  config: Partial<RunConfig>,
  refusal: Refusal,
  out?: string,
): Promise<void> {
  const directory = temporaryDirectory(t);
  const run = demoRun(out ?? join(directory, "out"), config);
  const before = await readdir(run.model);
  await assert.rejects(pruneModel(run, createTestContext()), (error: unknown) => {
    assert.ok(error instanceof PruneError, String(error));
    assert.equal(error.code, refusal.code, error.message);
    const said = `${error.message} ${error.hint ?? ""}`;
    for (const name of refusal.names)
      assert.match(said, name instanceof RegExp ? name : new RegExp(name.replace(/[[\]().]/g, "\\$&")));
    assert.ok(error.hint !== undefined, `no hint: ${error.message}`);
    return true;
  });
  assert.deepEqual(await readdir(directory), [], "something was written");
  assert.deepEqual(await readdir(run.model), before, "something was written into the model");
}

/** A copy of the demo model with another config. */
async function changedModel(t: TestContext, change: (config: Record<string, unknown>) => void): Promise<string> {
  const directory = join(temporaryDirectory(t), "model");
  await cp(repositoryPath("models/demo"), directory, { recursive: true });
  const config = JSON.parse(await readFile(join(directory, "config.json"), "utf8")) as Record<string, unknown>;
  change(config);
  await writeFile(join(directory, "config.json"), JSON.stringify(config));
  return directory;
}

test("an unknown architecture is named, with the known ones", async (t) => {
  const model = await changedModel(t, (config) => (config["model_type"] = "mystery"));
  await assertRefused(t, { model }, { code: "E_ARCHITECTURE", names: ["mystery", "llama"] });
});

test("missing tensors are all named at once", async (t) => {
  const model = await changedModel(t, (config) => (config["num_hidden_layers"] = 7));
  await assertRefused(
    t,
    { model },
    {
      code: "E_TENSORS",
      names: ["model.layers.6.self_attn.q_proj.weight is missing", "model.layers.6.mlp.down_proj.weight is missing"],
    },
  );
});

test("a shape that contradicts config.json is refused with both values", async (t) => {
  const model = await changedModel(t, (config) => (config["intermediate_size"] = 512));
  await assertRefused(t, { model }, { code: "E_TENSORS", names: ["mlp.gate_proj.weight", "[704, 256]", "[512, 256]"] });
});

test("a config value of the wrong kind is named", async (t) => {
  const model = await changedModel(t, (config) => (config["hidden_size"] = "wide"));
  await assertRefused(t, { model }, { code: "E_CONFIG", names: ["hidden_size", "wide"] });
});

test("an N:M pattern that does not divide a width names the width and a linear", async (t) => {
  await assertRefused(
    t,
    { pattern: parsePattern("2:3"), sparsity: 1 / 3 },
    { code: "E_SELECTION", names: ["2:3", "42 linears", "256 in 36", "704 in 6", "q_proj", "down_proj", "--ignore"] },
  );
});

test("an ignore pattern that matches nothing is an error", async (t) => {
  await assertRefused(
    t,
    { ignore: ["*.down_porj"] },
    { code: "E_SELECTION", names: ["*.down_porj".replace("*", "\\*")] },
  );
});

test("everything that does not fit the model is said at once", async (t) => {
  const directory = temporaryDirectory(t);
  const overrides = [
    { match: "*.gone", sparsity: 0.1 },
    { match: "re:(", sparsity: 0.1 },
    { match: "*.o_proj", sparsity: 1 },
  ];
  const allocation = allocationSchema.parse({ rule: "atp", beta: 0.3 });
  const ignore = ["*.down_porj", "re:["];
  const then = ["*.nowhere", "re:*"].map((match) => ({ method: "cg-update", methodOptions: {}, match }));
  const named = [
    /7 problems/,
    /re:\[/,
    /re:\(/,
    /\*\.down_porj/,
    /\*\.gone/,
    /\*\.o_proj.*sparsity of 1/,
    /beta 0\.3 over 6/,
    /then: "\*\.nowhere" matches no linear/,
    /then: "re:\*" is not a regular expression/,
  ];
  await assert.rejects(
    pruneModel(demoRun(join(directory, "out"), { overrides, allocation, ignore, then }), createTestContext()),
    (error) => error instanceof PruneError && named.every((name) => name.test(error.message)),
  );
  const pattern = { pattern: parsePattern("2:3"), sparsity: 1 / 3, overrides: overrides.slice(0, 1), ignore };
  await assert.rejects(
    pruneModel(demoRun(join(directory, "out"), pattern), createTestContext()),
    (error) =>
      error instanceof PruneError &&
      [/re:\[/, /down_porj/, /2:3 does not divide/, /gone/].every((name) => name.test(error.message)),
  );
  assert.deepEqual(await readdir(directory), [], "something was written");
});

test("a token id beyond the vocabulary is refused with id and size", async (t) => {
  const directory = temporaryDirectory(t);
  const header = encodeHeader([{ name: "ids", dtype: "I32", shape: [4, 64], byteLength: 1024 }]);
  const ids = new Int32Array(256).fill(7);
  ids[70] = 4096;
  const file = join(directory, "ids.safetensors");
  await writeFile(file, Buffer.concat([header.bytes, new Uint8Array(ids.buffer)]));
  await assertRefused(t, { calibration: { file } }, { code: "E_TOKEN_ID", names: ["4096"] });
});

test("calibration text shorter than one window is refused with both lengths", async (t) => {
  const file = join(temporaryDirectory(t), "short.txt");
  await writeFile(file, "Too short a text.");
  await assertRefused(t, { calibration: { file } }, { code: "E_TEXT_TOO_SHORT", names: [/\b64\b/] });
});

test("a method that needs calibration says so", async (t) => {
  await assertRefused(
    t,
    { calibration: undefined },
    { code: "E_CALIBRATION_MISSING", names: ["wanda", "--calibration"] },
  );
});

test("an output inside the input is refused", async (t) => {
  const model = await changedModel(t, () => undefined);
  await assertRefused(t, { model }, { code: "E_OUTPUT_OVERLAPS", names: ["pruned"] }, join(model, "pruned"));
});

test("sequences longer than a table of learned positions are refused with both lengths", async (t) => {
  const model = join(temporaryDirectory(t), "gpt2");
  await cp(repositoryPath("test/fixtures/architectures/gpt2"), model, { recursive: true });
  const { n_positions: limit } = JSON.parse(await readFile(join(model, "config.json"), "utf8")) as {
    n_positions: number;
  };
  const run = { model, seqlen: limit + 1 };
  await assertRefused(t, run, { code: "E_SEQLEN_POSITIONS", names: [String(limit), String(limit + 1)] });
});

test("resuming what was never started is refused", async (t) => {
  await assertRefused(t, { resume: true }, { code: "E_NOTHING_TO_RESUME", names: ["--resume"] });
});

test("a dry run refuses what the run would: patterns that match nothing, an output that is there, a text that is too short", async (t) => {
  const directory = temporaryDirectory(t);
  const out = join(directory, "out");
  const codeOf = async (change: Partial<RunConfig>): Promise<string> => {
    const [planned, ran] = await Promise.all(
      [planRun, pruneModel].map((work) =>
        work(demoRun(out, change), createTestContext()).then(
          () => "done",
          (error: unknown) => (error instanceof PruneError ? error.code : String(error)),
        ),
      ),
    );
    assert.equal(planned, ran);
    return planned ?? "";
  };
  assert.equal(await codeOf({ ignore: ["nothing"] }), "E_SELECTION");
  assert.equal(await codeOf({ overrides: [{ match: "*.gone", sparsity: 0.1 }] }), "E_OVERRIDE");
  const file = join(directory, "short.txt");
  await writeFile(file, "a few words");
  assert.match(await codeOf({ method: "wanda", methodOptions: { variant: "rows" }, calibration: { file } }), /^E_/);
  await mkdir(out);
  assert.equal(await codeOf({}), "E_OUTPUT_EXISTS");
});

test("a dry run counts exactly and writes nothing", async (t) => {
  const directory = temporaryDirectory(t);
  const plan = await planRun(demoRun(join(directory, "out"), { ignore: ["model.layers.0.*"] }), createTestContext());
  assert.equal(plan.linears, 35);
  assert.equal(plan.ignored.length, 7);
  assert.equal(plan.prunableElements, (4423680 / 6) * 5);
  assert.equal(plan.zerosToMake, ((4423680 / 6) * 5) / 2);
  assert.ok(plan.peakMemoryBytes > 0 && plan.estimatedSeconds > 0 && plan.bytesToRead > 10e6);
  assert.deepEqual(await readdir(directory), []);
});

test("a dry run counts the zeros of overrides as they are", async (t) => {
  const overrides = [{ match: "*.o_proj", sparsity: 0 }];
  const run = demoRun(join(temporaryDirectory(t), "out"), { overrides });
  const plan = await planRun(run, createTestContext());
  assert.equal(plan.zerosToMake, (4423680 - 6 * 256 * 256) / 2);
});
