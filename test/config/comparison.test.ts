/** `prune compare`'s flags: what they mean together, and every problem of them in one error. */
import assert from "node:assert/strict";
import { allocationSchema } from "../../src/allocation/registry.js";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { resolveComparison } from "../../src/config/comparison.js";
import type { ComparisonRequest } from "../../src/options/comparison-options.js";
import type { Surroundings } from "../../src/config/resolve.js";
import type { ComparisonConfig } from "../../src/contract.js";
import { PruneError, UsageError } from "../../src/errors.js";
import { reconstruct } from "../../src/training/reconstruct.js";
import { localModels } from "../helpers/paths.js";

const folder = mkdtempSync(join(tmpdir(), "prune-comparison-"));
after(() => rmSync(folder, { recursive: true }));
for (const name of ["bare", "demo"]) {
  mkdirSync(join(folder, name));
  writeFileSync(join(folder, name, "config.json"), JSON.stringify({ max_position_embeddings: 512 }));
}
for (const name of ["calibration.txt", "evaluation.txt"]) writeFileSync(join(folder, "demo", name), "text");

const SURROUNDINGS: Surroundings = {
  workingDirectory: folder,
  demoModel: join(folder, "demo"),
  freeMemoryBytes: 8000,
  findModel: localModels(folder),
  tokenRowLength: () => Promise.resolve(4096),
};

async function resolved(flags: ComparisonRequest): Promise<ComparisonConfig> {
  return (await resolveComparison(flags, SURROUNDINGS)).config;
}

async function problemsOf(
  flags: ComparisonRequest,
): Promise<readonly { code: string; message: string; hint: string }[]> {
  try {
    await resolved(flags);
  } catch (error) {
    assert.ok(error instanceof PruneError);
    const { code, message, hint = "", details } = error;
    return code === "E_SEVERAL" ? (details["problems"] as []) : [{ code, message, hint }];
  }
  assert.fail("nothing was refused");
}

test("without flags the embedded model is compared on the texts it comes with, every loss measured", async () => {
  const config = await resolved({});
  assert.equal(config.run.model, join(folder, "demo"));
  assert.deepEqual(config.text, { file: join(folder, "demo", "evaluation.txt") });
  assert.deepEqual(config.run.calibration, { file: join(folder, "demo", "calibration.txt") });
  assert.equal(config.run.measureLoss, true);
  assert.deepEqual(
    config.methods.map(({ label }) => label),
    ["magnitude", "wanda", "sparsegpt"],
  );
  assert.deepEqual(
    config.targets.map(({ pattern, sparsity }) => [pattern.kind, sparsity]),
    [
      ["unstructured", 0.5],
      ["unstructured", 0.6],
      ["unstructured", 0.7],
      ["n-of-m", 0.5],
    ],
  );
  assert.deepEqual(config.allocations, [{ label: "uniform", allocation: { rule: "uniform" } }]);
});

test("allocations are repeatable and keep their options; steps are joined by plus; repeats count once", async () => {
  const config = await resolved({
    methods: "wanda+admm-update, wanda ,wanda,wanda++,wanda++:rounds=0+admm-update",
    allocation: ["uniform", "owl:M=3,lambda=0.1", "uniform"],
  });
  assert.deepEqual(
    config.methods.map(({ label, method, then }) => [label, method, then.map((step) => step.method)]),
    [
      ["wanda+admm-update", "wanda", ["admm-update"]],
      ["wanda", "wanda", []],
      ["wanda++", "wanda++", []],
      ["wanda++:rounds=0+admm-update", "wanda++", ["admm-update"]],
    ],
  );
  assert.deepEqual(config.allocations, [
    { label: "uniform", allocation: { rule: "uniform" } },
    { label: "owl:M=3,lambda=0.1", allocation: allocationSchema.parse({ rule: "owl", M: 3, lambda: 0.1 }) },
  ]);
});

test("all bad input is reported at once, under this command's flags, with the nearest names", async () => {
  const problems = await problemsOf({
    model: "bare",
    methods: "wanta,admm-update+wanda,sparsegp+cg-updte",
    sparsities: "0.5,7",
    patterns: "unstructured,4:2,foo",
    allocation: ["owk", "owl:Z=1"],
    nsamples: "x",
    maxWindows: "0",
    propagation: "bloc",
  });
  const found = problems.map(({ code, message, hint }) => `${code} ${message} ${hint}`).join("\n");
  for (const expected of [
    /E_METHOD --methods: "wanta" .* Did you mean "wanda"\?/,
    /E_STEPS --methods admm-update\+wanda: .* for example: wanda\+admm-update/,
    /E_METHOD --methods: "sparsegp" .* Did you mean "sparsegpt"\?/,
    /E_METHOD --methods: "cg-updte" .* Did you mean "cg-update"\?/,
    /--sparsities: "7"/,
    /E_PATTERN --patterns: "4:2"/,
    /E_PATTERN --patterns: "foo"/,
    /E_ALLOCATION_RULE --allocation: "owk" .* Did you mean "owl"\?/,
    /E_ALLOCATION_OPTION --allocation owl:Z=1/,
    /E_TEXT_MISSING --text: missing/,
    /--max-windows: "0"/,
    /--nsamples: "x"/,
    /--propagation: "bloc"/,
  ]) {
    assert.match(found, expected);
  }
  assert.equal(problems.length, 13, found);
});

test("a missing text and an empty list are problems of their own", async () => {
  const problems = await problemsOf({ model: "bare", methods: "magnitude", patterns: " , " });
  assert.deepEqual(
    problems.map(({ code }) => code),
    ["E_COMPARISON", "E_TEXT_MISSING"],
  );
  const [unused] = await problemsOf({ patterns: "2:4", allocation: ["owl"] });
  assert.equal(unused?.code, "E_ALLOCATION_PATTERN", "no cell would be spread");
  await assert.rejects(
    resolved({ methods: "wanta" }),
    (error) => error instanceof UsageError && error.code === "E_METHOD",
  );
});

test("steps that train take an option after a colon, follow what solves, and need the pruned model's states", async () => {
  const { methods } = await resolved({ methods: "wanda+reconstruct:epochs=3" });
  assert.equal(methods[0]?.then[0]?.methodOptions["epochs"], 3);
  const codes = async (flags: ComparisonRequest): Promise<string[]> =>
    (await problemsOf(flags)).map(({ code }) => code);
  assert.deepEqual(await codes({ methods: "wanda+reconstruct:epoch=3" }), ["E_METHOD_OPTION"]);
  assert.deepEqual(await codes({ methods: "wanda+reconstruct+admm-update" }), ["E_STEPS"]);
  assert.deepEqual(await codes({ methods: "wanda+++admm-update" }), ["E_STEPS"]);
  for (const label of ["wanda+reconstruct", "safe+", "safe++reconstruct", "wanda++", "wanda+++reconstruct"])
    assert.deepEqual(await codes({ methods: label, propagation: "dense" }), ["E_TRAINING_PROPAGATION"], label);
  await resolved({ methods: "wanda+finetune", propagation: "dense" }); // it looks at no run's states
  for (const flags of [{ reproduce: "model" }, { allocation: ["uniform", "evolutionary:proxy=method"] }])
    assert.deepEqual(await codes({ methods: "wanda,elsa", ...flags }), ["E_METHOD_TRAINS"], JSON.stringify(flags));
});

test("what a run takes and no axis is, all cells share; channels change places in N:M cells alone", async () => {
  const { run, targets } = await resolved({ starved: "skip", permutation: "channels", seed: 3, nsamples: "7" });
  assert.deepEqual([run.starved, run.permutation, run.seed, run.nsamples], ["skip", "channels", 3, 7]);
  assert.deepEqual(
    targets.map(({ pattern, permutation }) => [pattern.kind, permutation]),
    [
      ["unstructured", "none"],
      ["unstructured", "none"],
      ["unstructured", "none"],
      ["n-of-m", undefined],
    ],
  );
  const problems = await problemsOf({
    permutation: "channels",
    patterns: "unstructured",
    starved: "skp",
    sparsties: "1",
  } as never);
  assert.deepEqual(
    problems.map(({ code }) => code),
    ["E_PERMUTATION_PATTERN", "E_OPTION_UNKNOWN", "E_CHOICE"],
  );
  const [misspelt] = await problemsOf({ permutation: "rows" });
  assert.match(misspelt?.message ?? "", /--permutation: "rows" is not one of none, channels/);
});

test("auto is what it stands for, for each kind of pattern", async () => {
  const { methods } = await resolved({ methods: "auto", reproduce: "layer" });
  for (const { then } of methods)
    assert.deepEqual(then, [{ method: "reconstruct", methodOptions: reconstruct.schema.parse({}) }]);
  assert.deepEqual(
    methods.map(({ label, method, kind, settings }) => [label, method, kind, settings]),
    [
      [
        "auto",
        "alps",
        "unstructured",
        {
          allocation: { label: "evolutionary", allocation: allocationSchema.parse({ rule: "evolutionary" }) },
          reproduce: "model",
          propagation: "group",
        },
      ],
      ["auto", "alps", "n-of-m", { permutation: "channels", reproduce: "model", propagation: "group" }],
    ],
  );
  const shared = await resolved({ methods: "wanda", reproduce: "model" });
  assert.deepEqual([shared.run.reproduce, shared.run.propagation], ["model", "group"]);
});
