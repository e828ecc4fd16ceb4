/** Text that can be read once, and text that the model samples itself. */
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readPiped } from "../../src/api/piped.js";
import type { EvaluationReport, TokenSource } from "../../src/contract.js";
import { prune } from "../../src/index.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { DEMO_MODEL, ROOT } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";

test("a pipe is copied to a file, which goes with the work; files are left alone", async (t) => {
  const directory = temporaryDirectory(t);
  const pipe = join(directory, "pipe");
  execFileSync("mkfifo", [pipe]);
  const writer = spawn("sh", ["-c", 'printf "some text" > "$0"', pipe]);
  const config = { calibration: { file: pipe }, text: { file: join(directory, "absent.txt") }, seqlen: 8 };
  let copy: TokenSource;
  {
    await using piped = await readPiped(config, undefined);
    copy = piped.config.calibration;
    assert.equal(readFileSync(copy.file, "utf8"), "some text");
    assert.equal(copy.name, pipe);
    assert.deepEqual([piped.config.text, piped.config.seqlen], [config.text, 8]);
  }
  assert.equal(existsSync(copy.file), false);
  writer.kill();
  const twice = { run: { calibration: { file: "-" } }, text: { file: "-" } };
  await assert.rejects(readPiped(twice, undefined), /standard input can be read once, and two options name it/);
});

test("eval reads standard input", () => {
  const args = [join(ROOT, "bin/prune.js"), "eval", DEMO_MODEL, "--text", "-", "--seqlen", "8", "--json"];
  const input = JSON.stringify([{ body: "A day like the others." }, { body: " " }, { body: "Another one." }]);
  const { stdout, status } = spawnSync(process.execPath, [...args, "--text-field", "body"], {
    input,
    encoding: "utf8",
  });
  const report = JSON.parse(stdout) as EvaluationReport;
  assert.equal(status, 0);
  assert.match(report.text, /^standard input \(first 3 documents joined by a space\)/);
  assert.equal(report.counts?.empty, 1);
});

test("without a text the model samples its own, the same whatever memory there is", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  await writeShortDemo(model, { blocks: 1 });
  const options = { model, sparsity: 0.5, calibration: "self", nsamples: 3, seqlen: 16, device: "cpu" } as const;
  const one = await prune({ ...options, out: join(directory, "one") });
  const two = await prune({ ...options, out: join(directory, "two"), memory: 1 });
  assert.match(one.calibration?.description ?? "", /^3 rows of 16 tokens that the model sampled/);
  assert.equal(one.calibration?.sha256, two.calibration?.sha256);
  assert.match(readFileSync(join(one.out, "recipe.yaml"), "utf8"), /file: self/);
});
