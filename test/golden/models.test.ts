/**
 * Whole models pruned from the same token ids as the papers' released code, compared by perplexity.
 *
 * With our exact counts (docs/decisions/0001-exact-counts.md) the perplexity must be the released code's within 1 %,
 * and within 3 % at 0.6 and beyond on stories260k, whose tiny matrices feel the one weight that the released threshold
 * removes beyond the asked number in every comparison group; there it may also be better by more (sparsegpt 0.7: 106.7
 * instead of 111.1). That nothing but this one weight makes the difference is shown by repeating those runs with the
 * released code's counts, which must give its perplexity within 0.1 %. (Only there: the demo model's bf16 weights tie,
 * and of ties the released threshold removes all.)
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { allocationSchema, UNIFORM } from "../../src/allocation/registry.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { createTestContext } from "../helpers/engine.js";
import { needsShared, repositoryPath, sharedPath } from "../helpers/paths.js";

const OWL = allocationSchema.parse({ rule: "owl", M: 5, lambda: 0.08 });

const DSNOT_OF_ATTENTION = {
  method: "dsnot",
  methodOptions: { cycles: 20, lists: "released" },
  match: "*.self_attn.*",
};

/** How the golden files' names are spelt here. */
const RUNS: Readonly<Record<string, Pick<RunConfig, "method"> & Partial<RunConfig>>> = {
  magnitude: { method: "magnitude" },
  wanda: { method: "wanda" },
  sparsegpt: { method: "sparsegpt" },
  admm: { method: "admm", methodOptions: { schedule: "released" } },
  admm_cubic: { method: "admm", methodOptions: { schedule: "cubic" } },
  // What the released code does beyond the ends of its lists makes this 192; with bounded lists it is 76.
  dsnot: { method: "wanda", then: [DSNOT_OF_ATTENTION] },
  "wanda+owl": { method: "wanda", allocation: OWL },
  "sparsegpt+owl": { method: "sparsegpt", allocation: OWL },
};
const HAS_COUNTING = ["magnitude", "sparsegpt", "sparsegpt+owl"];
const SEQLEN = 256;
/** The released code's own choice for a width that 4:8 does not divide; we refuse such a layer. */
const REFUSED = "4:8";

interface GoldenResult {
  readonly method: string;
  readonly pattern: string;
  readonly sparsity: number;
  readonly allocation?: string;
  readonly ppl?: Readonly<Record<string, number>>;
  readonly released?: { readonly ppl: Readonly<Record<string, number>> };
  /** Of the allocation: sparsity per block. */
  readonly owl?: { readonly ratios: readonly number[] };
}

interface GoldenModel {
  readonly name: string;
  readonly model: string;
  readonly ids: string;
  readonly results: string;
  readonly split: string;
  /** Relative, for exact counts. */
  readonly tolerance: (sparsity: number) => number;
  readonly mayBeBetter: (sparsity: number) => boolean;
  /** Whether the stored weights are float32 without equal magnitudes. */
  readonly isTieFree: boolean;
  /** Results that the same model has elsewhere in much the same way, and that are left out. */
  readonly isRepeated?: (result: GoldenResult) => boolean;
}

type Counting = "exact" | "released";
const RELEASED_TOLERANCE = 1e-3;

function runConfig(golden: GoldenModel, result: GoldenResult, counting: Counting, out: string): RunConfig {
  return {
    model: golden.model,
    out,
    force: false,
    resume: false,
    sparsity: result.sparsity,
    pattern: parsePattern(result.pattern),
    permutation: "none",
    allocation: UNIFORM,
    overrides: [],
    then: [],
    calibration: { file: golden.ids, tensor: "calib" },
    nsamples: 32,
    seqlen: SEQLEN,
    seed: 0,
    device: "cpu",
    ignore: [],
    propagation: "block",
    starved: "all-tokens",
    memoryBytes: 2 ** 30,
    reproduce: "layer",
    measureLoss: false,
    allowNonFinite: false,
    ...RUNS[result.method],
    methodOptions: { ...RUNS[result.method].methodOptions, ...(counting === "exact" ? {} : { counting }) },
  };
}

async function assertMatchesReleasedCode(
  golden: GoldenModel,
  result: GoldenResult,
  counting: Counting,
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "prune-golden-"));
  try {
    const out = join(directory, "out");
    const report = await pruneModel(runConfig(golden, result, counting, out), createTestContext());
    // Rounding down to whole weights costs at most one weight of a row: 1/64 in the narrowest linears here.
    const { achieved } = report.sparsity;
    assert.ok(
      achieved > result.sparsity - 0.02 && achieved < result.sparsity + 1e-3,
      `${achieved} of the weights are zero`,
    );
    if (RUNS[result.method].allocation === undefined) {
      for (const { name, zeros, elements } of report.layers) {
        const share = zeros / elements;
        assert.ok(share > result.sparsity - 0.02 && share < result.sparsity + 1e-3, `${name}: ${zeros} of ${elements}`);
      }
    }
    const narrowest = 64; // inputs: rounding down per row loses up to one weight of each
    for (const [block, ratio] of result.owl?.ratios.entries() ?? []) {
      for (const { name, zeros, elements } of report.layers.filter((layer) => layer.name.includes(`.${block}.`))) {
        const short = ratio - zeros / elements;
        const surplus = counting === "released" ? 1 / narrowest : 1e-6;
        assert.ok(short > -surplus && short < 1 / narrowest, `${name}: ${zeros} of ${elements}, asked ${ratio}`);
        // Wanda rounds down in every row. SparseGPT takes the very share; one outlier more or less moves it by 5e-5.
        if (result.method === "sparsegpt+owl" && counting === "exact")
          assert.ok(Math.abs(short) <= 1e-4 * ratio + 1 / elements, `${name}: ${zeros} of ${elements}, asked ${ratio}`);
      }
    }
    const text = { file: golden.ids, tensor: golden.split };
    const { perplexity } = await evaluatePerplexity(
      { model: out, text, seqlen: SEQLEN, maxWindows: undefined },
      createTestContext(),
    );
    const expected = (result.ppl ?? result.released?.ppl ?? {})[golden.split] ?? NaN;
    const difference = perplexity / expected - 1;
    const line = `${perplexity.toFixed(3)}, released code ${expected.toFixed(3)} (${(difference * 100).toFixed(2)} %)`;
    const tolerance = counting === "exact" ? golden.tolerance(result.sparsity) : RELEASED_TOLERANCE;
    const isBetter = counting === "exact" && difference < 0 && golden.mayBeBetter(result.sparsity);
    assert.ok(isBetter || Math.abs(difference) <= tolerance, line);
    return line;
  } finally {
    await rm(directory, { recursive: true });
  }
}

function registerModel(golden: GoldenModel, options: { readonly skip: string | false }): void {
  if (options.skip !== false) {
    test(`${golden.name}: perplexities of the released code`, options, () => undefined);
    return;
  }
  const { results } = JSON.parse(readFileSync(golden.results, "utf8")) as { results: GoldenResult[] };
  for (const result of results) {
    const { method, pattern, sparsity } = result;
    if (golden.isRepeated?.(result) === true) continue;
    if (RUNS[method] === undefined || (golden.name === "stories260k" && pattern === REFUSED)) continue;
    const title = `${golden.name}: ${method} ${pattern === "unstructured" ? sparsity : pattern}`;
    test(`${title} has the released code's perplexity`, async (t) => {
      t.diagnostic(await assertMatchesReleasedCode(golden, result, "exact"));
    });
    if (!golden.isTieFree || !HAS_COUNTING.includes(method) || pattern !== "unstructured") continue; // elsewhere nothing differs
    test(`${title} with the released code's counts has its perplexity`, async (t) => {
      t.diagnostic(await assertMatchesReleasedCode(golden, result, "released"));
    });
  }
}

const demo = repositoryPath("models/demo");
registerModel(
  {
    name: "demo on its own samples",
    model: demo,
    ids: repositoryPath("test/fixtures/models/demo-self.safetensors"),
    results: repositoryPath("test/fixtures/models/demo-self.json"),
    split: "evaluation",
    tolerance: () => 0.01,
    mayBeBetter: () => false,
    isTieFree: false,
  },
  { skip: false },
);
registerModel(
  {
    name: "demo on a novel",
    model: demo,
    ids: sharedPath("golden/models/demo.safetensors") ?? "",
    results: sharedPath("golden/models/demo.json") ?? "",
    split: "books_valid",
    tolerance: () => 0.01,
    mayBeBetter: () => false,
    isTieFree: false,
    isRepeated: ({ pattern, sparsity }) => pattern === "2:4" || (pattern === "unstructured" && sparsity < 0.7),
  },
  needsShared("golden/models/demo.json"),
);
registerModel(
  {
    name: "stories260k",
    model: sharedPath("models/stories260k") ?? "",
    ids: sharedPath("golden/models/stories260k.safetensors") ?? "",
    results: sharedPath("golden/models/stories260k.json") ?? "",
    split: "eval_t10",
    tolerance: (sparsity) => (sparsity >= 0.6 ? 0.03 : 0.01),
    mayBeBetter: (sparsity) => sparsity >= 0.6,
    isTieFree: true,
  },
  needsShared("golden/models/stories260k.json"),
);
