/** `prune compare` and `--measure-loss` as users call them. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { comparisonCsv, renderComparison } from "../../src/report/comparison.js";
import type { ComparisonReport, RunReport } from "../../src/contract.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { runPrune } from "../helpers/cli.js";
import { repositoryPath } from "../helpers/paths.js";

const SMALL = ["--nsamples", "2", "--seqlen", "32", "--device", "cpu"];

test("a sweep prints its rows as JSON, as a table and as CSV, and cleans up", async (t) => {
  const cwd = temporaryDirectory(t);
  const cells = ["--methods", "magnitude", "--sparsities", "0.5", "--patterns", "unstructured", "--max-windows", "2"];
  const spread = ["--allocation", "er", "--allocation", "owl:M=5,lambda=0.05"];
  const { code, stdout, stderr } = await runPrune(["compare", ...cells, ...spread, ...SMALL, "--json"], { cwd });
  assert.equal(code, 0, stderr);
  const report = JSON.parse(stdout) as ComparisonReport;
  assert.deepEqual(
    report.rows.map(({ method, allocation }) => [method, allocation]),
    [
      ["magnitude", "er"],
      ["magnitude", "owl:M=5,lambda=0.05"],
    ],
  );
  for (const { loss, layers } of report.rows) {
    assert.ok(loss > 0 && loss < 1);
    assert.ok(layers.length === 42 && layers.every(({ reconstruction }) => reconstruction !== undefined));
  }
  assert.ok(!existsSync(join(cwd, "demo-compare")));
  const table = renderComparison(report);
  assert.match(table, /^method +pattern +allocation +zeros +perplexity +ratio +KL +top-1 +loss +time +memory\n/);
  assert.doesNotMatch(table, /\*/);
  const [first] = report.rows;
  const marked = renderComparison({ ...report, rows: [{ ...first, reproduce: "model" }] });
  assert.match(marked, /\nmagnitude \* +unstructured.*\n[\s\S]*\n\* reproduces the model/);
  const [header = "", , row = ""] = comparisonCsv(report).split("\n");
  assert.equal(header.split(",").length, 13);
  assert.match(row, /^magnitude,unstructured,"owl:M=5,lambda=0\.05",0\.5,/);
});

test("what compare cannot take ends with 2 and one list of problems", async () => {
  const { code, stdout, stderr } = await runPrune(["compare", "--methods", "wnda,magnitud", "--sparsities", "1.5"]);
  assert.equal(code, 2);
  assert.equal(stdout, "");
  assert.match(stderr, /^error: 3 problems:\n.*Did you mean "wanda"\?\n.*Did you mean "magnitude"\?\n.*--sparsities/);
});

test("--measure-loss reports the error of every layer, for magnitude too", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const args = ["--method", "magnitude", "--sparsity", "0.5", "--measure-loss", "--out", out, ...SMALL, "--json"];
  const { code, stdout, stderr } = await runPrune(args);
  assert.equal(code, 0, stderr);
  const { layers } = JSON.parse(stdout) as RunReport;
  assert.ok(layers.every(({ reconstruction }) => reconstruction !== undefined && reconstruction.relative < 1));
});

test("the table of all methods has the marks that npm run table looks for", () => {
  const script = readFileSync(repositoryPath("scripts/method-table.mjs"), "utf8");
  const docs = readFileSync(repositoryPath("docs/methods/README.md"), "utf8");
  const [begin = "", end = ""] = ["BEGIN", "END"].map((name) => new RegExp(`${name} = "(.*)"`).exec(script)?.[1] ?? "");
  assert.ok(begin !== "" && end !== "");
  assert.match(docs.slice(docs.indexOf(begin), docs.indexOf(end)), /\| method \| pattern \| perplexity \|/);
});
