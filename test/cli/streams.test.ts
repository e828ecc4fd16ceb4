/** Closed and full streams never decide what becomes of the work, and the exit code says what became of it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ROOT } from "../helpers/cli.js";
import { writeRandomIds, writeSyntheticLlama } from "../helpers/synthetic-model.js";

const FOLDER = mkdtempSync(join(tmpdir(), "prune-streams-"));
const IDS = join(FOLDER, "ids.safetensors");
before(async () => {
  await writeSyntheticLlama(join(FOLDER, "model"), { intermediate: 128 });
  await writeRandomIds(FOLDER, { sequences: 4, tokens: 16 });
});
after(() => rmSync(FOLDER, { recursive: true }));

/** Run in bash with redirections; `$P` is the program. What is closed is closed before the program begins to write. */
async function shell(script: string): Promise<{ readonly code: number | null; readonly stderr: string }> {
  const env = { ...process.env, P: `${process.execPath} ${join(ROOT, "bin/prune.js")}` };
  const child = spawn("bash", ["-c", script], { cwd: FOLDER, env, stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { code, stderr };
}

const RUN = "$P --model model --calibration ids.safetensors --seqlen 16 --sparsity 0.5 -q";

test("text for people: a closed pipe is the reader's choice, a full disk is not", async () => {
  assert.deepEqual(await shell("set -o pipefail; $P methods | true"), { code: 0, stderr: "" });
  const { code, stderr } = await shell("$P --help > /dev/full");
  assert.equal(code, 5);
  assert.match(stderr, /^error: the report could not be written to stdout: no space is left on the device\.\n$/);
});

test("a run whose report could not be written says so, and that its output is complete", async () => {
  const { code, stderr } = await shell(`${RUN} --out full --json > /dev/full`);
  assert.equal(code, 5);
  assert.match(stderr, /^error: the report could not be written to stdout: .*full is complete\.\n$/);
  assert.ok(existsSync(join(FOLDER, "full/recipe.yaml")));
});

test("a run goes on without anybody who reads, and without its log", async () => {
  const { code } = await shell(`set -o pipefail; { ${RUN} -v --out closed --log-file /dev/full 2> /dev/full; } | true`);
  assert.equal(code, 0);
  assert.ok(existsSync(join(FOLDER, "closed/recipe.yaml")));
});

test("the log's end is said once, and the run is none the worse", async () => {
  const { code, stderr } = await shell(`${RUN} --out unlogged --log-file /dev/full`);
  assert.equal(code, 0);
  assert.equal(stderr.split("--log-file: /dev/full ends here: ENOSPC").length, 2, stderr);
});

test("a report that is all there is of long work is kept where it was asked for", async () => {
  const { code, stderr } = await shell(`$P eval model --text ${IDS} --seqlen 16 -q | true; exit \${PIPESTATUS[0]}`);
  assert.equal(code, 5);
  assert.match(stderr, /its reader has closed it; it is in .*eval-report\.json\.\n$/);
  const report = JSON.parse(readFileSync(join(FOLDER, "eval-report.json"), "utf8")) as { schema: string };
  assert.equal(report.schema, "prune.eval/v1");
});

test("an error's code is that of the error, whether or not it can be said", async () => {
  assert.deepEqual(await shell("$P inspect nowhere --json > /dev/full 2> /dev/full"), { code: 4, stderr: "" });
});
