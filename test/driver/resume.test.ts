/**
 * A killed run is resumed to the same bytes. The command is killed with SIGKILL as soon as its journal says that block
 * k is finished, for several k, so whatever it was doing after that is cut off at an arbitrary point.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { copyFile, readFile, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, test } from "node:test";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { ConfigError, InterruptedError } from "../../src/errors.js";
import { allocationSchema } from "../../src/allocation/registry.js";
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

const SPARSEGPT = ["--method", "sparsegpt", "--sparsity", "0.6"];

function command(out: string, extra: readonly string[] = [], method: readonly string[] = SPARSEGPT): string[] {
  const calibration = `${repositoryPath("test/fixtures/models/demo-self.safetensors")}#calib`;
  const argv = [repositoryPath("bin/prune.js"), "run", "--model", MODEL, ...method];
  argv.push(
    "--calibration",
    calibration,
    "--nsamples",
    "8",
    "--seqlen",
    "128",
    "--device",
    "cpu",
    "--out",
    out,
    "--json",
  );
  return [...argv, ...extra];
}

async function run(
  argv: readonly string[],
): Promise<{ readonly status: number | null; readonly stdout: string; readonly stderr: string }> {
  const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const status = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { status, stdout, stderr };
}

/** Run until the journal holds `blocks` finished blocks, then kill without warning, and listen no longer. */
async function runAndKill(
  argv: readonly string[],
  journal: string,
  blocks: number,
  signal: NodeJS.Signals,
): Promise<number | null> {
  const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "pipe"] });
  const closed = new Promise<number | null>((resolve) => child.on("close", resolve));
  for (;;) {
    const text = existsSync(journal) ? readFileSync(journal, "utf8") : "";
    // The allocation's line is the second; then there is a line for what is read of each block, and one when it is finished.
    if (text.includes('"type":"allocation"') && text.split('"type":"block"').length > blocks) break;
    assert.equal(child.exitCode, null, `the run ended before block ${blocks} was finished`);
    await sleep(5);
  }
  child.kill(signal);
  child.stdout.destroy();
  child.stderr.destroy();
  return closed;
}

async function contentsOf(directory: string): Promise<Record<string, string>> {
  const contents: Record<string, string> = {};
  for (const name of (await readdir(directory)).sort()) {
    contents[name] = createHash("sha256")
      .update(await readFile(join(directory, name)))
      .digest("hex");
  }
  return contents;
}

test(
  "killed after some block, a resumed run gives the bytes of an uninterrupted one",
  { timeout: 300_000 },
  async (t) => {
    const directory = temporaryDirectory(t);
    const whole = join(directory, "whole");
    const reference = await run(command(whole));
    assert.equal(reference.status, 0, reference.stderr);
    const expected = await contentsOf(whole);
    assert.ok(expected["model.safetensors"] !== undefined && expected["journal.jsonl"] === undefined);
    const expectedLayers = (JSON.parse(reference.stdout) as { layers: { name: string; zeros: number; loss: number }[] })
      .layers;

    for (const blocks of FINISHED_BLOCKS) {
      const out = join(directory, `killed-${blocks}`);
      await runAndKill(command(out), join(`${out}.partial`, "journal.jsonl"), blocks, "SIGKILL");
      assert.ok(!existsSync(out), "a killed run must not leave something under the real name");
      const resumed = await run(command(out, ["--resume"]));
      assert.equal(resumed.status, 0, resumed.stderr);
      assert.deepEqual(await contentsOf(out), expected, `killed after ${blocks} blocks`);
      assert.ok(!existsSync(`${out}.partial`));
      const document = JSON.parse(resumed.stdout) as { resumedBlocks: number; layers: typeof expectedLayers };
      assert.ok(document.resumedBlocks >= blocks && document.resumedBlocks <= blocks + 1);
      const facts = ({ name, zeros, loss }: (typeof expectedLayers)[number]): unknown[] => [name, zeros, loss];
      assert.deepEqual(document.layers.map(facts), expectedLayers.map(facts));
    }
  },
);

test("SIGTERM stops between steps with exit code 75, and the run can be resumed", { timeout: 120_000 }, async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const status = await runAndKill(command(out), join(`${out}.partial`, "journal.jsonl"), 1, "SIGTERM");
  assert.equal(status, 75);
  assert.ok(existsSync(`${out}.partial`) && !existsSync(out));
  const again = await run(command(out));
  assert.equal(again.status, 2, "without --resume or --force a partial output is in the way");
  assert.match(again.stdout, /E_PARTIAL_EXISTS/);
  const resumed = await run(command(out, ["--resume"]));
  assert.equal(resumed.status, 0, resumed.stderr);
});

test("a resume with other options, or over a changed output, is refused", { timeout: 120_000 }, async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const partial = `${out}.partial`;
  await runAndKill(command(out), join(partial, "journal.jsonl"), 2, "SIGKILL");
  const other = await run(command(out, ["--resume", "--damping", "0.02"]));
  assert.equal(other.status, 2);
  assert.match(other.stdout, /E_FINGERPRINT/);
  assert.match(other.stdout, /methodOptions/);

  await flipByte(join(partial, "model.safetensors"), "model.layers.0.mlp.up_proj.weight");
  const changed = await run(command(out, ["--resume"]));
  assert.equal(changed.status, 4);
  assert.match(changed.stdout, /E_JOURNAL_HASH/);
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

test(
  "a killed run with permuted channels is resumed to the same bytes, and notices changed producers",
  { timeout: 120_000 },
  async (t) => {
    const directory = temporaryDirectory(t);
    // Only the down projections are pruned: gate and up are written for their new order alone.
    const others = ["--ignore", "*_attn.*", "*.gate_proj", "*.up_proj"];
    const method = [
      "--method",
      "wanda",
      "--pattern",
      "2:4",
      "--permutation",
      "channels",
      "--propagation",
      "group",
      ...others,
    ];
    const [whole, out] = [join(directory, "whole"), join(directory, "killed")];
    const reference = await run(command(whole, [], method));
    assert.equal(reference.status, 0, reference.stderr);
    await runAndKill(command(out, [], method), join(`${out}.partial`, "journal.jsonl"), 2, "SIGKILL");
    const [shard, producer] = [join(`${out}.partial`, "model.safetensors"), "model.layers.1.mlp.gate_proj.weight"];
    await flipByte(shard, producer);
    const changed = await run(command(out, ["--resume"], method));
    assert.equal(changed.status, 4);
    assert.match(changed.stdout, /E_JOURNAL_HASH/);
    await flipByte(shard, producer);
    const resumed = await run(command(out, ["--resume"], method));
    assert.equal(resumed.status, 0, resumed.stderr);
    assert.deepEqual(await contentsOf(out), await contentsOf(whole));
    const other = await contentsOf(MODEL);
    assert.notEqual((await contentsOf(whole))["model.safetensors"], other["model.safetensors"]);
  },
);

test("a killed run that reproduces the model is resumed to the same bytes", { timeout: 120_000 }, async (t) => {
  const directory = temporaryDirectory(t);
  const method = ["--method", "wanda", "--sparsity", "0.6", "--reproduce", "model", "--memory", "300KB"];
  const [whole, out] = [join(directory, "whole"), join(directory, "killed")];
  const reference = await run(command(whole, [], method));
  assert.equal(reference.status, 0, reference.stderr);
  await runAndKill(command(out, [], method), join(`${out}.partial`, "journal.jsonl"), 3, "SIGKILL");
  const resumed = await run(command(out, ["--resume"], method));
  assert.equal(resumed.status, 0, resumed.stderr);
  assert.ok((JSON.parse(resumed.stdout) as { resumedBlocks: number }).resumedBlocks >= 3);
  assert.deepEqual(await contentsOf(out), await contentsOf(whole));
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
