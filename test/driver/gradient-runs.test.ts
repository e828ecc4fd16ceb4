/** Methods that look at gradients, on the demo model: what they have in common, stops, searches, sweeps. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { allocationSchema, UNIFORM } from "../../src/allocation/registry.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { EngineEvent, RunConfig, RunReport } from "../../src/contract.js";
import { compareMethods } from "../../src/driver/compare.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError } from "../../src/errors.js";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { lookUp } from "../../src/look-up.js";
import { parsePattern, UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { reconstruct } from "../../src/training/reconstruct.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

/** The demo model's first two blocks. */
const MODEL = mkdtempSync(join(tmpdir(), "prune-gradients-"));
before(() => writeShortDemo(MODEL, { blocks: 2 }));
after(() => rmSync(MODEL, { recursive: true }));

const NSAMPLES = 4;

/** Without rounds of training, which need the pruned model's own states. */
const SCORE_ALONE: Readonly<Record<string, Record<string, unknown>>> = { "wanda++": { rounds: 0 } };

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
      methods: ["wanda", "gblm", "wanda++"].map((method) => ({
        label: method,
        method,
        methodOptions: SCORE_ALONE[method] ?? {},
        then: [],
      })),
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
    await pruneModel({ ...run, method, methodOptions: SCORE_ALONE[method] ?? {}, out }, createTestContext());
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
  assert.deepEqual(
    await run("wanda++", { ...groups, methodOptions: { alpha: 0, rounds: 0 } }),
    await run("wanda", groups),
  );
  const gradientsAlone = { sparsity: 0.6, methodOptions: { alpha: 1e30, rounds: 0 } };
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

test("rounds of regional optimisation bring the block nearer to its dense outputs and leave exact zeros", async (t) => {
  const directory = temporaryDirectory(t);
  const run = async (options: object, overrides: Partial<RunConfig> = {}): Promise<RunReport> => {
    const methodOptions = { alpha: 1, ...options };
    const config = shortRun(join(directory, "out"), { method: "wanda++", methodOptions, force: true, ...overrides });
    return pruneModel(config, createTestContext());
  };
  const tensors = (): Promise<Map<string, Float32Array>> => tensorsOf(join(directory, "out"));
  const target = { sparsity: 0.7 };
  assert.equal((await run({ rounds: 0 }, target)).training, undefined);
  const scored = await tensors();
  // Where nothing moves every round prunes what it pruned before.
  await run({ rounds: 2, lr: 1e-30 }, target);
  assert.deepEqual(await tensors(), scored);

  const report = await run({ rounds: 2, samples: 3, lr: 3e-5 }, target);
  assert.deepEqual(
    report.training?.map(({ name, step, steps }) => [name, step, steps]),
    [0, 1].map((block) => [`model.layers.${block}`, "wanda++", 6]),
  );
  const first = report.training?.[0] ?? assert.fail();
  assert.ok(first.after < 0.97 * first.before, `${first.before} → ${first.after}`);
  for (const { name, zeros, elements } of report.layers) {
    const inFeatures = name.endsWith("down_proj") ? 704 : 256;
    assert.equal(zeros, (elements / inFeatures) * Math.floor(0.7 * inFeatures), name);
  }
  // A step that moves nothing measures what the rounds left: what was pruned again, not what was trained.
  const still = reconstruct.schema.parse({ epochs: 1, lr: 1e-30, targets: "block", heldOut: 0 });
  const groups = await run(
    { rounds: 2, samples: 2, lr: 3e-5 },
    {
      ...{ pattern: parsePattern("2:4"), permutation: "channels" },
      then: [{ method: "reconstruct", methodOptions: { ...still } }],
    },
  );
  for (const { name, zeros, elements } of groups.layers) assert.equal(zeros, elements / 2, name);
  const [permuted, measured] = groups.training ?? [];
  assert.ok(permuted !== undefined && measured !== undefined);
  assert.ok(permuted.after < permuted.before, `${permuted.before} → ${permuted.after}`);
  assert.ok(
    Math.abs(measured.before - permuted.after) < 1e-5 * permuted.after,
    `${measured.before}, ${permuted.after}`,
  );
});

test("a round steps by RMSprop, whose first step is ten rates long", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const run = async (rounds: number): Promise<Map<string, Float32Array>> => {
    const methodOptions = { rounds, samples: 1, lr: 1e-2 };
    await pruneModel(
      shortRun(out, { method: "wanda++", methodOptions, sparsity: 0.5, force: true }),
      createTestContext(),
    );
    return tensorsOf(out);
  };
  const [scored, stepped] = [await run(0), await run(1)];
  const name = "model.layers.0.post_attention_layernorm.weight";
  const [dense, trained] = [lookUp(scored, name), lookUp(stepped, name)];
  // Where the gradient is not tiny: by 10 · lr to either side, within what the stored type rounds to.
  const moved = dense.map((value, i) => Math.abs(trained[i] - value));
  const expected = moved.filter((value) => Math.abs(value - 0.1) < 0.008).length;
  assert.ok(expected > 0.9 * moved.length, `${expected} of ${moved.length}`);
  const zerosOf = (tensors: ReadonlyMap<string, Float32Array>): Float32Array =>
    lookUp(tensors, "model.layers.0.mlp.up_proj.weight").map((value) => Number(value === 0));
  assert.notDeepEqual(zerosOf(stepped), zerosOf(scored), "pruned weights move too, and some come back");
});
