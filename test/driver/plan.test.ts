/** What a dry run counts: exact where it can be counted by hand, in the right order where it cannot. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { allocationSchema } from "../../src/allocation/registry.js";
import type { RunConfig } from "../../src/contract.js";
import { scratchBytesOf } from "../../src/driver/disk-cost.js";
import { planRun } from "../../src/driver/plan.js";
import { secondsOf } from "../../src/driver/rates.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { blockTrainingsOf, modelTrainingsOf, solverOf } from "../../src/driver/session.js";
import { memoryOf, workOf, type RunWork } from "../../src/driver/run-cost.js";
import { ResourceError } from "../../src/errors.js";
import { prunableLinears } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { safe } from "../../src/training/safe.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";

/** The demo model's sizes. */
const [BLOCKS, HIDDEN, KEYS, INNER] = [6, 256, 128, 704];
/** Weights of q, k, v, o, gate and up; of down. */
const BEFORE_LAST = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 2 * HIDDEN * INNER;
const LAST = HIDDEN * INNER;

let model: Model;
before(async () => {
  model = await openModel(repositoryPath("models/demo"));
});
after(() => model[Symbol.asyncDispose]());

function planned(overrides: Partial<RunConfig>) {
  const config = demoRun("out", overrides);
  const { architecture } = model;
  const selected = new Set(prunableLinears(architecture));
  const [blockTrainings, trainings] = [blockTrainingsOf(config), modelTrainingsOf(config)];
  return {
    config,
    architecture,
    selected,
    solver: solverOf(config),
    blockTrainings,
    trainings,
    checkpointBytes: 2e7,
    prunedBytes: 1e7,
  };
}

const work = (overrides: Partial<RunConfig>): RunWork => workOf(planned(overrides));
const products = (overrides: Partial<RunConfig>): number => work(overrides).products;
const memory = (overrides: Partial<RunConfig>): number => memoryOf(planned(overrides));
const tokens = ({ nsamples, seqlen }: { readonly nsamples: number; readonly seqlen: number }): number =>
  nsamples * seqlen;

test("space beside the output is what spilled states and trainings take, and a disk without it is refused", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const config = demoRun(out, { memoryBytes: 2e5, reproduce: "model", nsamples: 4, seqlen: 64 });
  const { diskBytes } = await planRun(config, createTestContext());
  const sizes = new Map<string, number>();
  const context = createTestContext();
  await pruneModel(config, {
    ...context,
    emit: () => {
      for (const name of existsSync(`${out}.partial`) ? readdirSync(`${out}.partial`) : [])
        sizes.set(name, Math.max(sizes.get(name) ?? 0, statSync(join(`${out}.partial`, name)).size));
    },
  });
  const counted = [...sizes].filter(([name]) => !/journal|clone-complete|recipe/.test(name));
  assert.ok(sizes.has("hidden-states.bin") && sizes.has("dense-states.bin"));
  assert.equal(
    diskBytes,
    counted.reduce((sum, [, size]) => sum + size, 0),
  );
  await assert.rejects(
    planRun({ ...config, out: `${out}-other`, nsamples: 1e9 }, createTestContext()),
    (error: unknown) => error instanceof ResourceError && error.code === "E_DISK_FULL",
  );
  const training = planned({ method: "elsa", methodOptions: { steps: 2, batchSize: 2 }, memoryBytes: 1e9 });
  const elements = BLOCKS * (BEFORE_LAST + LAST);
  assert.ok(scratchBytesOf(training) > (2 * 24 + 4) * elements, "two copies of the state, and what was trained");
});

test("training adds its steps to the work and what it holds to the memory", () => {
  const plain = { method: "wanda", nsamples: 16, seqlen: 128 };
  const then = (method: string, methodOptions: object): Partial<RunConfig> => ({
    ...{ ...plain, then: [{ method, methodOptions: { ...methodOptions } }] },
  });
  const optionsOf = (method: string, given: object): Partial<RunConfig> => {
    return { method, methodOptions: { ...safe.schema.parse(given) } };
  };
  const perToken = 2 * (BEFORE_LAST + LAST) + 4 * plain.seqlen * HIDDEN;
  const [once, twice] = [4, 8].map((epochs) => products(then("reconstruct", { epochs, heldOut: 0 })));
  assert.equal((twice as number) - (once as number), 3 * 4 * tokens(plain) * BLOCKS * perToken);
  const ofSafe = (options: object): number => products({ ...plain, ...optionsOf("safe", options) });
  // A second gradient, and an epoch more of both.
  assert.equal(ofSafe({ epochs: 4 }) - ofSafe({ epochs: 4, rho: 0 }), 3 * 4 * tokens(plain) * BLOCKS * perToken);
  assert.equal(ofSafe({ epochs: 5 }) - ofSafe({ epochs: 4 }), 2 * 3 * tokens(plain) * BLOCKS * perToken);
  const both = products({ ...then("reconstruct", { epochs: 4, heldOut: 0 }), ...optionsOf("safe", { epochs: 4 }) });
  assert.ok(both > ofSafe({ epochs: 4 }) + 3 * 4 * tokens(plain) * BLOCKS * perToken);
  assert.ok(memory({ ...plain, ...optionsOf("safe", {}) }) > memory(then("reconstruct", {})));
  const [seldom, often] = [32, 1].map((interval) => work({ ...plain, ...optionsOf("safe+", { interval }) }).entries);
  assert.ok((often as number) > (seldom as number));
  const [few, many] = [100, 300].map((steps) => products(then("finetune", { steps })));
  assert.ok((many as number) - (few as number) >= 200 * 8 * plain.seqlen * BLOCKS * 4 * perToken);
  assert.ok(memory(then("finetune", { steps: 1 })) - memory(plain) > 10 * BLOCKS * (BEFORE_LAST + LAST));
  assert.ok(memory(then("reconstruct", {})) > memory(plain));
});

test("a run's products are its forwards, counted by hand: to the last linear's input, and on to the next block", () => {
  const calibration = { nsamples: 64, seqlen: 128 };
  const attention = 4 * calibration.seqlen * HIDDEN;
  const collecting = 2 * BEFORE_LAST + attention;
  const whole = 2 * (BEFORE_LAST + LAST) + attention;
  const perToken = BLOCKS * collecting + (BLOCKS - 1) * whole;
  assert.equal(products({ method: "wanda", ...calibration }), tokens(calibration) * perToken);
  assert.equal(
    products({ method: "wanda", propagation: "dense", ...calibration }),
    tokens(calibration) * BLOCKS * whole,
  );
  const stages = 0 + (2 * (HIDDEN * HIDDEN + 2 * HIDDEN * KEYS) + attention) + (2 * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS) + attention) + collecting; // prettier-ignore
  assert.equal(
    products({ method: "wanda", propagation: "group", ...calibration }),
    tokens(calibration) * (BLOCKS * stages + (BLOCKS - 1) * whole),
  );
  assert.equal(products({ method: "magnitude", ...calibration }), 0);
});

test("twice the tokens add the forwards and the statistics once more, and no solve", () => {
  for (const method of ["wanda", "sparsegpt", "alps"]) {
    const [one, two, three] = [32, 64, 96].map((nsamples) => products({ method, nsamples, seqlen: 256 }));
    assert.ok(Math.abs((three - two) / (two - one) - 1) < 1e-9, `${method}: ${one}, ${two}, ${three}`);
    assert.ok(two - one > 0);
  }
});

test("dearer methods are dearer: alps, admm, sparsegpt, wanda, magnitude", () => {
  const calibration = { nsamples: 32, seqlen: 256 };
  const costs = ["alps", "admm", "sparsegpt", "wanda", "magnitude"].map((method) =>
    products({ method, ...calibration }),
  );
  assert.deepEqual(
    costs,
    costs.toSorted((x, y) => y - x),
  );
  const bytes = ["alps", "sparsegpt", "wanda", "magnitude"].map((method) => memory({ method, ...calibration }));
  assert.deepEqual(
    bytes,
    bytes.toSorted((x, y) => y - x),
  );
  const [solve, forward] = [products({ method: "alps", nsamples: 1 }), products({ method: "wanda", nsamples: 1 })];
  assert.ok(solve > 20 * forward, "with few tokens alps is nearly all solving");
});

test("every further step, statistic and pass has its price", () => {
  const plain = products({ method: "sparsegpt" });
  assert.ok(products({ method: "sparsegpt", propagation: "group" }) > plain);
  assert.ok(products({ method: "sparsegpt", propagation: "group", reproduce: "model" }) > 1.9 * plain);
  assert.ok(products({ method: "wanda", measureLoss: true }) > products({ method: "wanda" }));
  const updated = { method: "wanda", then: [{ method: "admm-update", methodOptions: {} }] };
  assert.ok(products(updated) > products({ method: "sparsegpt" }));
  assert.ok(work({ method: "thanos" }).kernels > work({ method: "sparsegpt" }).kernels);
  const swapped = { method: "wanda", then: [{ method: "dsnot", methodOptions: {} }] };
  assert.ok(work(swapped).hostEntries > 0);
  assert.equal(work({ method: "wanda", pattern: parsePattern("2:4") }).kernels, 0);
});

test("gradients cost a forward, the way back, the head and what is kept of them, for each statistic", () => {
  const calibration = { nsamples: 16, seqlen: 128 };
  const [head, weights] = [6 * HIDDEN * 4096, BLOCKS * (BEFORE_LAST + LAST)];
  const forward = BLOCKS * (2 * (BEFORE_LAST + LAST) + 4 * calibration.seqlen * HIDDEN);
  assert.equal(products({ method: "snip", ...calibration }), tokens(calibration) * (4 * forward + head));
  const wanda = work({ method: "wanda", ...calibration });
  const gblm = work({ method: "gblm", ...calibration });
  assert.equal(gblm.products - wanda.products, tokens(calibration) * (4 * forward + head));
  assert.equal(gblm.diskBytes - wanda.diskBytes, 2 * 2e7 + 8 * weights);
  const small = work({ method: "gblm", ...calibration, memoryBytes: 0 });
  assert.equal(small.diskBytes - gblm.diskBytes, 3 * 4 * tokens(calibration) * HIDDEN * (BLOCKS + 1));
  const both = { method: "gblm", then: [{ method: "dsnot", methodOptions: {} }], ...calibration };
  assert.equal(work(both).products - work({ ...both, method: "wanda" }).products, tokens(calibration) * (4 * forward + head)); // prettier-ignore
  const scored = { method: "wanda++", methodOptions: { rounds: 0 }, ...calibration };
  const regional = work(scored);
  assert.equal(
    regional.products - wanda.products,
    tokens(calibration) * 4 * forward,
    "no head, and the disk is not asked",
  );
  assert.equal(regional.diskBytes, wanda.diskBytes);
  assert.ok(memory(scored) > memory({ method: "wanda", ...calibration }));
  const rounds = (count: number): RunWork => work({ ...scored, methodOptions: { rounds: count, samples: 8 } });
  assert.equal(
    rounds(4).products - rounds(2).products,
    3 * tokens(calibration) * forward,
    "gradients of twice 8 sequences, of 16",
  );
  assert.equal(rounds(4).hostEntries - rounds(2).hostEntries, 2 * regional.hostEntries, "the scores are taken again");
  const states = 4 * HIDDEN * (BLOCKS + 1) * 128;
  const of = (nsamples: number): number => memory({ method: "snip", nsamples, seqlen: 128 });
  assert.equal(of(96) - of(64), 32 * states);
  assert.ok(
    memory({ method: "snip", memoryBytes: 0 }) > 4 * 3 * (BEFORE_LAST + LAST),
    "weights, gradients and their sums",
  );
});

test("an allocation adds its forwards, its passes and its search", () => {
  const calibration = { nsamples: 16, seqlen: 128 };
  const uniform = work({ method: "wanda", ...calibration });
  const by = (options: object): RunWork =>
    work({ method: "wanda", ...calibration, allocation: allocationSchema.parse(options) });
  const forward = tokens(calibration) * BLOCKS * (2 * (BEFORE_LAST + LAST) + 4 * calibration.seqlen * HIDDEN);
  assert.equal(by({ rule: "owl" }).products - uniform.products, forward);
  assert.equal(by({ rule: "owl" }).diskBytes - uniform.diskBytes, 2e7);
  assert.equal(by({ rule: "lamp" }).products, uniform.products);
  assert.equal(by({ rule: "lamp" }).diskBytes - uniform.diskBytes, 2 * 2e7);
  assert.ok(by({ rule: "alphapruning" }).products > uniform.products);
  const search = (generations: number): number => by({ rule: "evolutionary", generations, heldOut: 8 }).products;
  assert.ok(search(1) > uniform.products + forward);
  assert.ok(Math.abs((search(3) - search(1)) / (search(2) - search(1)) - 2) < 1e-6);
});

test("hidden states take memory up to the run's budget, twice where the dense model goes along", () => {
  const of = (nsamples: number, memoryBytes: number, rest = {}): number =>
    memory({ method: "wanda", nsamples, seqlen: 256, memoryBytes, ...rest });
  const bytes = 256 * HIDDEN * 4;
  assert.equal(of(64, 2 ** 30) - of(32, 2 ** 30), 32 * bytes);
  assert.equal(of(64, 2 ** 20), of(32, 2 ** 20), "beyond the budget they go to a file");
  const twin = { reproduce: "model", propagation: "group" } as const;
  assert.equal(of(64, 2 ** 30, twin) - of(32, 2 ** 30, twin), 2 * 32 * bytes);
  assert.equal(memory({ method: "magnitude", nsamples: 64 }), memory({ method: "magnitude", nsamples: 1 }));
});

test("every kind of work takes its time", () => {
  const nothing = { products: 0, kernels: 0, entries: 0, hostEntries: 0, diskBytes: 0 };
  const rates = { products: 1e11, entries: 1e9 };
  const seconds = (work: Partial<RunWork>): number =>
    secondsOf({ ...nothing, ...work }, rates) - secondsOf(nothing, rates);
  assert.ok(Math.abs(seconds({ products: 1e14 }) - 1000) < 1e-6);
  assert.ok(seconds({ kernels: 1e14 }) > seconds({ products: 1e14 }), "kernels are slower than products");
  assert.ok(seconds({ entries: 1e12 }) >= 1000 && seconds({ hostEntries: 1e12 }) > seconds({ entries: 1e12 }));
  assert.ok(seconds({ diskBytes: 1e12 }) > 100);
});

test("a plan's seconds and memory follow what is counted", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const plan = (overrides: Partial<RunConfig>) => planRun(demoRun(out, overrides), createTestContext());
  const [few, many] = [await plan({ nsamples: 1 }), await plan({ nsamples: 100_000 })];
  assert.ok(many.estimatedSeconds > 100 * few.estimatedSeconds, `${few.estimatedSeconds}, ${many.estimatedSeconds}`);
  const states = Math.min(100_000 * 64 * HIDDEN * 4, 2 ** 28);
  assert.ok(many.peakMemoryBytes - few.peakMemoryBytes > 0.9 * states);
  const slow = await plan({ method: "alps", nsamples: 1 });
  assert.ok(slow.estimatedSeconds > few.estimatedSeconds, `${few.estimatedSeconds}, ${slow.estimatedSeconds}`);
});

test("a search for an allocation keeps states, Gram matrices and solved linears in files", () => {
  const scratch = (proxy: string, overrides: Partial<RunConfig>): number => {
    const search = { rule: "evolutionary", proxy, generations: 2, offspring: 4, heldOut: 4 };
    const allocated = { ...overrides, allocation: allocationSchema.parse(search) };
    return scratchBytesOf(planned(allocated)) - scratchBytesOf(planned(overrides));
  };
  const [nsamples, seqlen] = [16, 64];
  const state = 4 * seqlen * HIDDEN;
  const wide = { nsamples, seqlen, memoryBytes: 1e9 };
  assert.equal(scratch("wanda", { ...wide, method: "sparsegpt" }), 0);
  const linears = 7 * BLOCKS;
  const solved = (linears + 2.5 * 4 * 2) * ((4 * BLOCKS * (BEFORE_LAST + LAST)) / linears);
  const grams = BLOCKS * 4 * (3 * HIDDEN ** 2 + INNER ** 2);
  assert.equal(scratch("method", { ...wide, method: "sparsegpt" }), grams + Math.ceil(solved));
  // Nothing fits in memory: the larger of the statistics' 12 sequences and of 4 + 4 + what is measured at once.
  const narrow = scratch("wanda", { nsamples, seqlen, memoryBytes: state / 2, method: "wanda" });
  assert.equal(narrow, 12 * state);
});
