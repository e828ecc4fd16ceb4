/**
 * Elsa's steps on the shape of a 1.1B model (hidden 2048, a vocabulary of 4096) with next to no --memory, so that all state
 * lies in files: seconds per step as a share of the machine's matrix product, and peak resident memory with 2 and with 4 blocks.
 * Operations are counted without what is computed again: 6 per weight and token.
 */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { encodeHeader } from "../src/checkpoint/header.js";
import type { RunReport } from "../src/contract.js";
import { elementsOf } from "../src/array.js";
import { machineLine, openRoofline } from "./harness.js";
import { syntheticArchitecture, writeSyntheticCheckpoint } from "./llama-shape.js";

const [SEQUENCES, SEQLEN, VOCABULARY] = [4, 512, 4096];
const [FEW, MANY] = [1, 3];
const COMMAND = fileURLToPath(new URL("../../bin/prune.js", import.meta.url));

async function writeIds(file: string): Promise<void> {
  const count = SEQUENCES * SEQLEN;
  const header = encodeHeader([{ name: "ids", dtype: "I32", shape: [SEQUENCES, SEQLEN], byteLength: 4 * count }]);
  const ids = Int32Array.from({ length: count }, () => Math.floor(Math.random() * VOCABULARY));
  await writeFile(file, Buffer.concat([header.bytes, new Uint8Array(ids.buffer)]));
}

async function train(model: string, out: string, ids: string, steps: number): Promise<RunReport> {
  const argv = [COMMAND, "run", "--model", model, "--method", "elsa", "--sparsity", "0.8", "--calibration", ids];
  argv.push("--seqlen", String(SEQLEN), "--steps", String(steps), "--batch-size", String(SEQUENCES));
  argv.push("--memory", "1MB", "--device", "cpu", "--out", out, "--json", "--quiet");
  const { stdout } = await promisify(execFile)(process.execPath, argv, { maxBuffer: 2 ** 26 });
  await rm(out, { recursive: true });
  return JSON.parse(stdout) as RunReport;
}

const work = await mkdtemp(join(process.env["BENCH_DIRECTORY"] ?? tmpdir(), "prune-bench-"));
try {
  console.log(`Elsa from files, 1.1B shape, ${SEQUENCES} × ${SEQLEN} tokens (${machineLine()})`);
  const ids = join(work, "ids.safetensors");
  await writeIds(ids);
  for (const blocks of [2, 4]) {
    const shape = { blocks, vocabulary: VOCABULARY };
    const model = join(work, `model-${blocks}`);
    await writeSyntheticCheckpoint(model, shape);
    const { blocks: specs, head } = syntheticArchitecture(shape);
    const weights = specs.flatMap(({ tensors }) => [...tensors.values()].map((tensor) => elementsOf(tensor.shape)));
    const parameters = weights.reduce((sum, each) => sum + each, 0) + VOCABULARY * head.width;
    await using roofline = await openRoofline();
    const before = await roofline.measure();
    await train(model, join(work, "out"), ids, FEW); // what is subtracted must not pay for a cold start
    const few = await train(model, join(work, "out"), ids, FEW);
    const many = await train(model, join(work, "out"), ids, MANY);
    const peak = Math.max(before, await roofline.measure());
    const seconds = (many.seconds - few.seconds) / (MANY - FEW);
    const rate = (6 * parameters * SEQUENCES * SEQLEN) / seconds / 1e9;
    const { bytesPerParameter = NaN, fileBytes = NaN } = many.trained?.[0] ?? {};
    console.log(
      `${blocks} blocks, ${(parameters / 1e6).toFixed(0)}M weights: ${seconds.toFixed(1)} s a step, ` +
        `${rate.toFixed(0)} of ${peak.toFixed(0)} GFLOP/s (${((100 * rate) / peak).toFixed(0)} %), ` +
        `peak ${(many.peakRssBytes / 2 ** 20).toFixed(0)} MiB, ${bytesPerParameter.toFixed(2)} bytes per weight, ` +
        `${(fileBytes / 2 ** 20).toFixed(0)} MiB in files`,
    );
    await rm(model, { recursive: true });
  }
} finally {
  await rm(work, { recursive: true, force: true });
}
