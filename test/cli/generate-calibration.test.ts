/** `prune generate-calibration` as users run it: its document, its text, and a run that calibrates on what it wrote. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL, runPrune } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { GENERATION_DOCUMENT, RUN_DOCUMENT } from "../helpers/documents.js";

const SIZE = ["--nsamples", "4", "--seqlen", "32"];

test("what is generated calibrates a run", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 1 });
  const file = join(directory, "own.safetensors");
  const generated = await runPrune(["generate-calibration", model, ...SIZE, "--out", file, "--json"]);
  assert.equal(generated.code, 0, generated.stderr);
  const report = GENERATION_DOCUMENT.parse(JSON.parse(generated.stdout));
  assert.deepEqual([report.sequences, report.tokens, report.seqlen, report.out], [4, 128, 32, file]);
  const out = join(directory, "pruned");
  const flags = ["--model", model, "--sparsity", "0.5", "--calibration", file, "--nsamples", "4", "--device", "cpu"];
  const pruned = await runPrune([...flags, "--out", out, "--json"]);
  assert.equal(pruned.code, 0, pruned.stderr);
  const { calibration } = RUN_DOCUMENT.parse(JSON.parse(pruned.stdout));
  const description = `${file}#ids: first 4 rows, 32 of 32 tokens each`;
  assert.deepEqual(calibration, { description, sequences: 4, seqlen: 32, sha256: report.sha256 });

  const again = await runPrune(["generate-calibration", model, ...SIZE, "--out", file]);
  assert.equal(again.code, 2);
  assert.match(again.stderr, /^error: --out: .* exists.*\nhint: .*--force/m);
  const replaced = await runPrune(["generate-calibration", model, ...SIZE, "--out", file, "--force"]);
  assert.equal(replaced.code, 0);
  assert.match(replaced.stdout, /written +4 sequences, 128 tokens/);
  assert.match(replaced.stdout, /sampling +4 tokens greedily, then temperature 1, top-k 50, top-p 1, seed 0/);
});

test("Ctrl-C ends it with 130 and leaves no file", async (t) => {
  const file = join(temporaryDirectory(t), "own.txt");
  const { code, stderr } = await runPrune(["generate-calibration", DEMO_MODEL, "--out", file], {
    // The note on the temperature is written just before the work begins.
    onStderr: (text, child) => void (text.includes("temperature") && child.kill("SIGINT")),
  });
  assert.equal(code, 130, stderr);
  assert.ok(!existsSync(file));
});
