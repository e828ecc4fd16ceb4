/** Limits of runs and comparisons, and the page of a job. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { EXIT_CODES, UsageError } from "../../src/errors.js";
import { expectRowsKept, GateError, plan, type ComparisonReport } from "../../src/index.js";
import { withLimits, readLimits } from "../../src/api/gate.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { runPrune } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { repositoryPath } from "../helpers/paths.js";

const TEXT = repositoryPath("models/demo/evaluation.txt");

test("a run measures its limits and ends with 3 where one is not kept; its output and the report are there", async (t) => {
  const directory = temporaryDirectory(t);
  await writeShortDemo(join(directory, "tiny"), { blocks: 1, config: { max_position_embeddings: 16 } });
  const summary = join(directory, "summary.md");
  const limits = ["--text", TEXT, "--max-windows", "2", "--max-ppl", "1e9", "--max-ppl-ratio", "1.0001"];
  const args = ["./tiny", "--sparsity", "0.9", "--method", "magnitude", "--out", "pruned", ...limits, "--json"];
  const { code, stdout, stderr } = await runPrune(args, {
    cwd: directory,
    env: { ...process.env, GITHUB_STEP_SUMMARY: summary },
  });
  assert.equal(code, EXIT_CODES.gate, stderr);
  assert.match(stderr, /does not keep --max-ppl-ratio 1\.0001: it is/);
  const report = JSON.parse(stdout) as { evaluation: { model: string; limits: { name: string; isKept: boolean }[] } };
  assert.deepEqual(
    report.evaluation.limits.map(({ name, isKept }) => [name, isKept]),
    [
      ["perplexity", true],
      ["perplexityRatio", false],
    ],
  );
  assert.equal(report.evaluation.model, join(directory, "pruned"));
  assert.ok(existsSync(join(directory, "pruned/model.safetensors")));
  assert.match(readFileSync(summary, "utf8"), /^### prune\n\n```text\nout[^]*perplexity[^]*\n```\n/);
});

test("limits that cannot be measured are refused before any work", async (t) => {
  const directory = temporaryDirectory(t);
  await writeShortDemo(join(directory, "tiny"), { blocks: 1 });
  const run = { model: join(directory, "tiny"), method: "magnitude", sparsity: 0.5, out: join(directory, "o") };
  await assert.rejects(plan({ ...run, text: TEXT }), (error) => error instanceof UsageError && error.code === "E_GATE");
  await assert.rejects(plan({ ...run, text: TEXT, maxKl: 0 }), UsageError);
});

test("a comparison marks the rows that break a limit", () => {
  const estimate = (value: number) => ({ value, low: value, high: value });
  const row = (method: string, perplexity: number) => ({
    ...{ method, pattern: "unstructured", allocation: "uniform", sparsity: { target: 0.5, achieved: 0.5 }, perplexity },
    ...{ perplexityRatio: estimate(perplexity / 10), klDivergence: estimate(0.1) },
  });
  const report = { model: "m", rows: [row("wanda", 12), row("magnitude", 20)] } as unknown as ComparisonReport;
  const limited = withLimits(report, readLimits({ maxPplRatio: "1.5" }));
  assert.deepEqual(
    limited.rows.map(({ limits }) => limits?.map(({ isKept }) => isKept)),
    [[true], [false]],
  );
  assert.throws(
    () => expectRowsKept(limited),
    (error) => error instanceof GateError && /1 of 2 rows.*magnitude 0\.5/.test(error.message),
  );
  expectRowsKept(withLimits(report, readLimits({ maxPpl: 20 })));
  assert.equal(withLimits(report, {}), report);
});
