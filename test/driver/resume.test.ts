/**
 * A killed run is resumed to the same bytes, cut off after some block or other; one of them is a process that meets a real SIGKILL.
 * Accidents at every step of a run are test/files/accidents.test.ts.
 */
import { Killed, withAccident, type Step } from "../helpers/accidents.js"; // before anything that opens the door
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { copyFile, readFile, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import type { RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { CheckpointError, ConfigError, firstError, InterruptedError, type PruneError } from "../../src/errors.js";
import { allocationSchema } from "../../src/allocation/registry.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { runPrune } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun, stopAfter } from "../helpers/runs.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";

/** The demo model's first four blocks: every cut there is, and a third less to compute than in six. */
const MODEL = mkdtempSync(join(tmpdir(), "prune-resume-"));
before(() => writeShortDemo(MODEL, { blocks: 4 }));
after(() => rm(MODEL, { recursive: true }));

/** Of four: before the first, after the first, after all but the last. */
const FINISHED_BLOCKS = [0, 1, 3];

const SPARSEGPT = { model: MODEL, method: "sparsegpt", sparsity: 0.6, nsamples: 8, seqlen: 128 };

/** The same by the command line. */
function command(out: string, extra: readonly string[] = []): string[] {
  const calibration = `${repositoryPath("test/fixtures/models/demo-self.safetensors")}#calib`;
  const argv = ["run", "--model", MODEL, "--method", "sparsegpt", "--sparsity", "0.6", "--calibration", calibration];
  return [...argv, "--nsamples", "8", "--seqlen", "128", "--device", "cpu", "--out", out, "--json", ...extra];
}

/** Run until the journal holds `blocks` finished blocks, then kill without warning. */
async function killProcess(out: string, blocks: number): Promise<void> {
  const journal = join(`${out}.partial`, "journal.jsonl");
  let timer: NodeJS.Timeout | undefined;
  const { signal } = await runPrune(command(out), {
    onStart: (child) => {
      timer = setInterval(() => {
        const text = existsSync(journal) ? readFileSync(journal, "utf8") : "";
        if (text.split('"type":"block"').length > blocks) child.kill("SIGKILL");
      }, 5);
    },
  });
  clearInterval(timer);
  assert.equal(signal, "SIGKILL", `the run ended before block ${blocks} was finished`);
}

/** A run that is killed right after its journal says that so many blocks are finished, or the allocation for 0. */
async function killAfter(config: RunConfig, blocks: number): Promise<void> {
  const [directory, journal] = [dirname(config.out), join(`${config.out}.partial`, "journal.jsonl")];
  const isEnd = (step: Step): boolean => {
    if (step.type !== "sync" || step.path !== journal) return false;
    const text = readFileSync(journal, "utf8");
    return text.includes('"type":"allocation"') && text.split('"type":"block"').length > blocks;
  };
  const { met, error } = await withAccident(directory, { kind: "kill", at: isEnd }, () =>
    pruneModel(config, createTestContext()),
  );
  assert.ok(met !== undefined && firstError(error) instanceof Killed, String(error));
  assert.ok(!existsSync(config.out), "a killed run must not leave something under the real name");
  await rm(`${config.out}.lock`, { recursive: true }); // its owner is this process, which lives
}

async function contentsOf(directory: string): Promise<Record<string, string>> {
  const contents: Record<string, string> = {};
  for (const name of (await readdir(directory)).sort()) {
    if (name === "recipe.yaml") continue; // it names the output
    contents[name] = createHash("sha256")
      .update(await readFile(join(directory, name)))
      .digest("hex");
  }
  return contents;
}

const isRefusal = (Class: typeof PruneError, code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Class, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  return true;
};

const factsOf = ({ layers }: Pick<RunReport, "layers">): unknown[] =>
  layers.map(({ name, zeros, loss }) => [name, zeros, loss]);

test("killed after some block, a resumed run gives the bytes of an uninterrupted one", async (t) => {
  const directory = temporaryDirectory(t);
  const config = (out: string): RunConfig => demoRun(join(directory, out), SPARSEGPT);
  const whole = await pruneModel(config("whole"), createTestContext());
  const expected = await contentsOf(join(directory, "whole"));
  assert.ok(expected["model.safetensors"] !== undefined && expected["journal.jsonl"] === undefined);
  for (const blocks of FINISHED_BLOCKS) {
    const killed = config(`killed-${blocks}`);
    await killAfter(killed, blocks);
    const resumed = await pruneModel({ ...killed, resume: true }, createTestContext());
    assert.deepEqual(await contentsOf(killed.out), expected, `killed after ${blocks} blocks`);
    assert.ok(!existsSync(`${killed.out}.partial`));
    assert.equal(resumed.resumedBlocks, blocks);
    assert.deepEqual(factsOf(resumed), factsOf(whole));
  }
  const out = join(directory, "process");
  await killProcess(out, 2);
  assert.ok(!existsSync(out));
  const resumed = await runPrune(command(out, ["--resume"]));
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.deepEqual(await contentsOf(out), expected, "a process that was killed");
  const document = JSON.parse(resumed.stdout) as RunReport;
  assert.ok(document.resumedBlocks >= 2 && document.resumedBlocks <= 3);
  assert.deepEqual(factsOf(document), factsOf(whole));
});

test("a resume with other options, or over a changed output, is refused", async (t) => {
  const config = demoRun(join(temporaryDirectory(t), "out"), SPARSEGPT);
  await killAfter(config, 2);
  const other = { ...config, resume: true, methodOptions: { damping: 0.02 } };
  await assert.rejects(
    pruneModel(other, createTestContext()),
    isRefusal(ConfigError, "E_FINGERPRINT", /methodOptions/),
  );
  await flipByte(join(`${config.out}.partial`, "model.safetensors"), "model.layers.0.mlp.up_proj.weight");
  await assert.rejects(
    pruneModel({ ...config, resume: true }, createTestContext()),
    isRefusal(CheckpointError, "E_JOURNAL_HASH", /layers\.0/),
  );
});

test("a resume over other weights is refused wherever they are, and taken over a copy of the same ones", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 2 });
  const shard = join(model, "model.safetensors");
  const config = demoRun(join(directory, "out"), { model, sparsity: 0.5 });
  const then = new Date(1e12); // whole seconds, which can be set back to the nanosecond
  await utimes(shard, then, then);
  await stopAfter(config, 1);
  const tensors = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"];
  for (const tensor of tensors) {
    await flipByte(shard, tensor);
    await utimes(shard, then, then); // whoever sets times back is found out by what cannot be set
    await assert.rejects(pruneModel({ ...config, resume: true }, createTestContext()), (error: unknown) => {
      assert.ok(error instanceof ConfigError, String(error));
      assert.equal(error.code, "E_FINGERPRINT", tensor);
      return true;
    });
    await flipByte(shard, tensor);
  }
  await rename(shard, `${shard}.old`);
  await copyFile(`${shard}.old`, shard);
  await pruneModel({ ...config, resume: true }, createTestContext());
  await pruneModel({ ...config, out: join(directory, "whole") }, createTestContext());
  const written = async (out: string): Promise<unknown> =>
    (await contentsOf(join(directory, out)))["model.safetensors"];
  assert.equal(await written("out"), await written("whole"));
});

test("weights that change while they are read give no output", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 1 });
  const config = demoRun(join(directory, "out"), { model, method: "magnitude" });
  const context = createTestContext();
  const retraining = {
    ...context,
    emit: ({ type }: { readonly type: string }) => {
      if (type === "block") writeFileSync(join(model, "model.safetensors"), "x", { flag: "r+" });
    },
  };
  await assert.rejects(pruneModel(config, retraining), { code: "E_SOURCE_CHANGED" });
  assert.ok(!existsSync(config.out));
});

/** Change a stored tensor's first byte; done twice, it is what it was. */
async function flipByte(shard: string, tensor: string): Promise<void> {
  const bytes = await readFile(shard);
  const { size } = await stat(shard);
  const header = Number(bytes.readBigUInt64LE(0));
  const { data_offsets: offsets } = (
    JSON.parse(bytes.subarray(8, 8 + header).toString("utf8")) as Record<string, { data_offsets: [number, number] }>
  )[tensor] as { data_offsets: [number, number] };
  const at = 8 + header + offsets[0];
  assert.ok(at < size);
  bytes[at] = (bytes[at] ?? 0) ^ 0x55;
  await writeFile(shard, bytes);
}

test("a killed run with permuted channels is resumed to the same bytes, and notices changed producers", async (t) => {
  const directory = temporaryDirectory(t);
  const config = (out: string): RunConfig =>
    demoRun(join(directory, out), {
      ...{ ...SPARSEGPT, method: "wanda", pattern: parsePattern("2:4"), sparsity: 0.5, permutation: "channels" },
      propagation: "group",
      // Only the down projections are pruned: gate and up are written for their new order alone.
      ignore: ["*_attn.*", "*.gate_proj", "*.up_proj"],
    });
  const [whole, killed] = [config("whole"), config("killed")];
  await pruneModel(whole, createTestContext());
  await killAfter(killed, 2);
  const [shard, producer] = [join(`${killed.out}.partial`, "model.safetensors"), "model.layers.1.mlp.gate_proj.weight"];
  await flipByte(shard, producer);
  await assert.rejects(
    pruneModel({ ...killed, resume: true }, createTestContext()),
    isRefusal(CheckpointError, "E_JOURNAL_HASH", /layers\.1/),
  );
  await flipByte(shard, producer);
  await pruneModel({ ...killed, resume: true }, createTestContext());
  assert.deepEqual(await contentsOf(killed.out), await contentsOf(whole.out));
  const other = await contentsOf(MODEL);
  assert.notEqual((await contentsOf(whole.out))["model.safetensors"], other["model.safetensors"]);
});

test("a killed run that reproduces the model is resumed to the same bytes", async (t) => {
  const directory = temporaryDirectory(t);
  const config = (out: string): RunConfig =>
    demoRun(join(directory, out), { ...SPARSEGPT, method: "wanda", reproduce: "model", memoryBytes: 300_000 });
  const [whole, killed] = [config("whole"), config("killed")];
  await pruneModel(whole, createTestContext());
  await killAfter(killed, 3);
  const { resumedBlocks } = await pruneModel({ ...killed, resume: true }, createTestContext());
  assert.equal(resumedBlocks, 3);
  assert.deepEqual(await contentsOf(killed.out), await contentsOf(whole.out));
});

test("a resumed run takes the allocation from the journal instead of finding it again", async (t) => {
  const directory = temporaryDirectory(t);
  const allocation = allocationSchema.parse({ rule: "owl", M: 3, lambda: 0.1 });
  const whole = await pruneModel(
    demoRun(join(directory, "whole"), { model: MODEL, allocation, sparsity: 0.7 }),
    createTestContext(),
  );
  const config = demoRun(join(directory, "stopped"), { model: MODEL, allocation, sparsity: 0.7 });
  let isStopping = false;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (isStopping ? "SIGINT" : undefined) } }),
    emit: ({ type }: { readonly type: string }) => void (isStopping ||= type === "block"),
  };
  await assert.rejects(pruneModel(config, stopping), InterruptedError);
  const context = createTestContext();
  const resumed = await pruneModel({ ...config, resume: true }, context);
  const stages = context.events.flatMap((event) => (event.type === "stage" ? [event.stage] : []));
  assert.ok(stages.length > 0 && !stages.some((stage) => stage.startsWith("allocation")), stages.join(", "));
  const zeros = ({ layers }: typeof whole): unknown[] => layers.map((layer) => [layer.name, layer.zeros]);
  assert.deepEqual(zeros(resumed), zeros(whole));
});

test("a run on the dense model's activations, stopped after some block, is resumed to the same bytes", async (t) => {
  const directory = temporaryDirectory(t);
  const config = (out: string): RunConfig =>
    demoRun(join(directory, out), { model: MODEL, method: "sparsegpt", sparsity: 0.6, propagation: "dense" });
  await pruneModel(config("whole"), createTestContext());
  const expected = await contentsOf(join(directory, "whole"));
  for (const blocks of FINISHED_BLOCKS.slice(1)) {
    const stopped = config(`stopped-${blocks}`);
    await stopAfter(stopped, blocks);
    const { resumedBlocks } = await pruneModel({ ...stopped, resume: true }, createTestContext());
    assert.equal(resumedBlocks, blocks);
    assert.deepEqual(await contentsOf(stopped.out), expected, `stopped after ${blocks} blocks`);
  }
});
