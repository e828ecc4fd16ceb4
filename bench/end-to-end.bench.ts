/**
 * The whole command on a synthetic checkpoint of 1.1B parameters (22 blocks, vocabulary 32,000, bf16, 2.2 GB) and on
 * its first 6 blocks: seconds, peak resident memory and how it grows with the number of blocks, and the share of the
 * machine's matrix product that the whole run reaches.
 */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { encodeHeader } from "../src/checkpoint/header.js";
import type { RunReport } from "../src/contract.js";
import { machineLine, median, openRoofline } from "./harness.js";
import { syntheticArchitecture, writeSyntheticCheckpoint } from "./llama-shape.js";

const SEQUENCES = 8;
const SEQLEN = 512;
const VOCABULARY = 32000;
const METHOD = process.env["BENCH_METHOD"] ?? "wanda";
const COMMAND = fileURLToPath(new URL("../../bin/prune.js", import.meta.url));

async function writeIds(file: string): Promise<void> {
  const header = encodeHeader([
    { name: "ids", dtype: "I32", shape: [SEQUENCES, SEQLEN], byteLength: 4 * SEQUENCES * SEQLEN },
  ]);
  const ids = Int32Array.from({ length: SEQUENCES * SEQLEN }, () => Math.floor(Math.random() * VOCABULARY));
  await writeFile(file, Buffer.concat([header.bytes, new Uint8Array(ids.buffer)]));
}

async function prune(model: string, out: string, ids: string): Promise<RunReport> {
  const argv = [COMMAND, "run", "--model", model, "--method", METHOD, "--sparsity", "0.5", "--calibration", ids];
  argv.push(
    "--nsamples",
    String(SEQUENCES),
    "--seqlen",
    String(SEQLEN),
    "--device",
    "cpu",
    "--out",
    out,
    "--json",
    "--quiet",
  );
  const { stdout } = await promisify(execFile)(process.execPath, argv, { maxBuffer: 2 ** 26 });
  return JSON.parse(stdout) as RunReport;
}

const work = await mkdtemp(join(process.env["BENCH_DIRECTORY"] ?? tmpdir(), "prune-bench-"));
try {
  await using roofline = await openRoofline();
  console.log(`end to end, ${METHOD} 0.5, ${SEQUENCES} sequences of ${SEQLEN} tokens (${machineLine()})`);
  const ids = join(work, "ids.safetensors");
  await writeIds(ids);
  for (const blocks of [6, 22]) {
    const model = join(work, `synthetic-${blocks}`);
    const shape = { blocks, vocabulary: VOCABULARY };
    await writeSyntheticCheckpoint(model, shape);
    const rates = [await roofline.measure(), await roofline.measure()];
    const report = await prune(model, join(work, `out-${blocks}`), ids);
    rates.push(await roofline.measure(), await roofline.measure());
    const linears = syntheticArchitecture(shape).blocks.flatMap((block) =>
      block.groups.flatMap((group) => group.linears),
    );
    const parameters = linears.reduce((sum, linear) => sum + linear.inFeatures * linear.outFeatures, 0);
    const gigaflops = (2 * 2 * SEQUENCES * SEQLEN * parameters) / 1e9; // two forwards; statistics and solves not counted
    const fraction = gigaflops / report.seconds / median(rates);
    const solving = report.layers.reduce((sum, layer) => sum + layer.seconds, 0);
    console.log(
      `  ${blocks} blocks: ${report.seconds.toFixed(1)} s (${solving.toFixed(1)} s solving and writing), peak resident ${(report.peakRssBytes / 2 ** 20).toFixed(0)} MiB, ` +
        `${(fraction * 100).toFixed(0)} % of the matrix product's ${median(rates).toFixed(0)} GFLOP/s over the whole run`,
    );
    await rm(model, { recursive: true });
  }
} finally {
  await rm(work, { recursive: true, force: true });
}
