/** Methods that look at gradients, on the demo model: what they have in common, stops, searches, sweeps. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { allocationSchema, UNIFORM } from "../../src/allocation/registry.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { EngineEvent, RunConfig } from "../../src/contract.js";
import { compareMethods } from "../../src/driver/compare.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError } from "../../src/errors.js";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { lookUp } from "../../src/look-up.js";
import { parsePattern, UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

/** The demo model's first two blocks. */
const MODEL = mkdtempSync(join(tmpdir(), "prune-gradients-"));
before(() => writeShortDemo(MODEL, { blocks: 2 }));
after(() => rmSync(MODEL, { recursive: true }));

const NSAMPLES = 4;

function shortRun(out: string, overrides: Partial<RunConfig>): RunConfig {
  return demoRun(out, { model: MODEL, nsamples: NSAMPLES, seqlen: 48, ...overrides });
}

async function tensorsOf(directory: string): Promise<Map<string, Float32Array>> {
  await using checkpoint = await openCheckpoint(directory);
  const tensors = new Map<string, Float32Array>();
  for (const name of checkpoint.tensors.keys()) tensors.set(name, await checkpoint.readTensor(name));
  return tensors;
}

const isOfPass = (event: EngineEvent): boolean => event.type === "stage" && event.stage.startsWith("gradients");

test("gblm is wanda where gradients count for nothing, and snip by rows where they are all that counts", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const run = async (
    method: string,
    options: object,
    target: Partial<RunConfig>,
  ): Promise<Map<string, Float32Array>> => {
    const config = shortRun(out, { method, methodOptions: { ...options }, force: true, ...target });
    await pruneModel(config, createTestContext());
    return tensorsOf(out);
  };
  const wanda = await run("wanda", {}, { sparsity: 0.6 });
  assert.deepEqual(await run("gblm", { alpha: 0 }, { sparsity: 0.6 }), wanda);
  assert.notDeepEqual(await run("gblm", {}, { sparsity: 0.6 }), wanda);
  const groups = { pattern: parsePattern("2:4") };
  const many = await run("gblm", { alpha: 1e30, norm: "l2" }, groups);
  const snip = await run("snip", { accumulate: "squares" }, groups);
  let [differing, all] = [0, 0];
  for (const [name, values] of many) {
    const other = lookUp(snip, name);
    values.forEach((value, i) => (differing += Number(value !== other[i])));
    all += values.length;
  }
  assert.ok(differing <= 1e-5 * all, `${differing} of ${all} differ`); // scores that round alike
});

test("stopped in the pass it is made again, stopped in a block it is not, and the bytes are the same", async (t) => {
  const directory = temporaryDirectory(t);
  const whole = shortRun(join(directory, "whole"), { method: "gblm" });
  const context = createTestContext();
  await pruneModel(whole, context);
  const fractions = context.events.flatMap((event) =>
    isOfPass(event) && event.type === "stage" ? [event.fraction] : [],
  );
  assert.equal(fractions.length, 2 * (1 + NSAMPLES), "through two blocks, forward together and back one by one");
  assert.deepEqual(
    fractions,
    fractions.toSorted((a, b) => a - b),
  );
  const expected = await tensorsOf(whole.out);
  assert.deepEqual(readdirSync(whole.out).sort(), [...readdirSync(MODEL), "recipe.yaml"].sort());
  for (const { place, isStop, isAgain } of [
    { place: "pass", isStop: (stage: string) => stage.endsWith("layers.0 back"), isAgain: true },
    { place: "block", isStop: (stage: string) => stage === "forward", isAgain: false },
  ]) {
    const config = shortRun(join(directory, place), { method: "gblm" });
    let isStopping = false;
    const stopping = {
      ...createTestContext({ stop: { requested: () => (isStopping ? "SIGINT" : undefined) } }),
      emit: (event: EngineEvent) => void (isStopping ||= event.type === "stage" && isStop(event.stage)),
    };
    await assert.rejects(pruneModel(config, stopping), InterruptedError);
    assert.ok(readdirSync(`${config.out}.partial`).includes("gradients"));
    const resuming = createTestContext();
    await pruneModel({ ...config, resume: true }, resuming);
    assert.equal(resuming.events.some(isOfPass), isAgain, place);
    assert.deepEqual(await tensorsOf(config.out), expected, place);
    assert.deepEqual(readdirSync(config.out).sort(), readdirSync(whole.out).sort());
  }
});

test("a search by the method itself is refused, one by Wanda is not", async (t) => {
  const directory = temporaryDirectory(t);
  const search = (proxy: string): Partial<RunConfig> => ({
    ...{ method: "snip", sparsity: 0.6 },
    allocation: allocationSchema.parse({ rule: "evolutionary", generations: 0, heldOut: 1, proxy }),
  });
  await assert.rejects(pruneModel(shortRun(join(directory, "refused"), search("method")), createTestContext()), {
    code: "E_ALLOCATION",
    message: /snip looks at gradients/,
  });
  const taken = shortRun(join(directory, "taken"), search("wanda"));
  assert.equal((await pruneModel(taken, createTestContext())).layers.length, 14);
});

test("cells of a sweep share statistics of inputs and each makes its own gradients", async (t) => {
  const directory = temporaryDirectory(t);
  const run = shortRun("", { propagation: "dense" });
  const text = run.calibration ?? assert.fail();
  const context = createTestContext();
  const { rows } = await compareMethods(
    {
      ...{ run, text, seqlen: 48, maxWindows: 1, resume: false },
      methods: ["wanda", "gblm", "wanda++"].map((method) => ({ label: method, method, methodOptions: {}, then: [] })),
      targets: [{ pattern: UNSTRUCTURED, sparsity: 0.5 }],
      allocations: [{ label: "uniform", allocation: UNIFORM }],
      workDirectory: join(directory, "work"),
    },
    context,
  );
  const statistics = context.events.filter((event) => event.type === "stage" && event.stage === "statistics");
  assert.equal(statistics.length, 2 * 2, "norms of two blocks, once and again where states must go through them");
  assert.ok(context.events.some(isOfPass));
  for (const [row, method] of ["gblm", "wanda++"].entries()) {
    const out = join(directory, method);
    await pruneModel({ ...run, method, out }, createTestContext());
    const single = await evaluatePerplexity({ model: out, text, seqlen: 48, maxWindows: 1 }, createTestContext());
    assert.equal(rows[row + 1]?.perplexity, single.perplexity, method);
  }
});

test("regional gradients are of the dense block with what the pruned model feeds it; without them it is wanda", async (t) => {
  const directory = temporaryDirectory(t);
  const run = async (method: string, overrides: Partial<RunConfig>): Promise<Map<string, Float32Array>> => {
    const config = shortRun(join(directory, "out"), { method, force: true, ...overrides });
    await pruneModel(config, createTestContext());
    return tensorsOf(config.out);
  };
  const groups = { pattern: parsePattern("2:4") };
  assert.deepEqual(await run("wanda++", { ...groups, methodOptions: { alpha: 0 } }), await run("wanda", groups));
  const gradientsAlone = { sparsity: 0.6, methodOptions: { alpha: 1e30 } };
  const [block, group, dense] = [
    await run("wanda++", gradientsAlone),
    await run("wanda++", { ...gradientsAlone, propagation: "group" }),
    await run("wanda++", { ...gradientsAlone, propagation: "dense" }),
  ];
  assert.deepEqual(group, block); // the inputs of later linears differ, the gradients were there before
  for (const [name, values] of block) {
    const isSecond = name.includes("layers.1.") && name.includes("proj");
    if (isSecond) assert.notDeepEqual(values, dense.get(name), name);
    else assert.deepEqual(values, dense.get(name), name);
  }
});
