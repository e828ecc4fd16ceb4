import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { resolveEvaluationConfig, resolveRunConfig, type Surroundings } from "../../src/config/resolve.js";
import type { RunRequest } from "../../src/options/run-options.js";
import { reconstruct } from "../../src/training/reconstruct.js";
import type { RunConfig } from "../../src/contract.js";
import {
  CalibrationError,
  CheckpointError,
  ConfigError,
  exitCodeOf,
  PruneError,
  UsageError,
} from "../../src/errors.js";
import { localModels } from "../helpers/paths.js";

const folder = mkdtempSync(join(tmpdir(), "prune-config-"));
after(() => rmSync(folder, { recursive: true }));
const model = join(folder, "llama");
mkdirSync(model);
writeFileSync(join(model, "config.json"), JSON.stringify({ max_position_embeddings: 512 }));
const demo = join(folder, "package", "demo");
mkdirSync(demo, { recursive: true });
writeFileSync(join(demo, "config.json"), JSON.stringify({ max_position_embeddings: 131072 }));
writeFileSync(join(demo, "calibration.txt"), "text");
writeFileSync(join(folder, "ids.safetensors"), "");

const SURROUNDINGS: Surroundings = {
  workingDirectory: folder,
  demoModel: demo,
  freeMemoryBytes: 8001,
  findModel: localModels(folder),
  tokenRowLength: () => Promise.resolve(4096),
};
const TOKENS = { file: join(folder, "ids.safetensors") };

test("what lies in the Hub's cache is named after its repository, and its output goes to the working directory", async () => {
  const cache = join(folder, "hub", "models--org--tiny");
  const snapshot = join(cache, "snapshots", "0123abc");
  mkdirSync(snapshot, { recursive: true });
  writeFileSync(join(snapshot, "config.json"), "{}");
  symlinkSync(join(cache, "snapshots"), join(folder, "linked"));
  for (const asked of [snapshot, join(folder, "linked", "0123abc")]) {
    const { config } = await resolveRun({ model: asked, method: "magnitude", sparsity: 0.5 });
    assert.equal(config.out, join(folder, "tiny-magnitude-0.5"));
  }
  const inside = { ...SURROUNDINGS, workingDirectory: snapshot, findModel: localModels(snapshot) };
  await assert.rejects(
    resolveRunConfig({ model: ".", method: "magnitude", sparsity: 0.5 }, inside),
    (error: unknown) => error instanceof UsageError && /^--out: missing/.test(error.message),
  );
});

async function resolveRun(flags: RunRequest): Promise<{ config: RunConfig; notes: string }> {
  const { config, notes } = await resolveRunConfig(flags, SURROUNDINGS);
  return { config, notes: notes.map(({ level, message }) => `${level}: ${message}`).join("\n") };
}

const BASE: RunRequest = { model: "llama", sparsity: "0.5", calibration: "ids.safetensors" };

test("every default is filled in", async () => {
  assert.deepEqual((await resolveRun(BASE)).config, {
    model,
    out: join(folder, "llama-wanda-0.5"),
    force: false,
    resume: false,
    method: "wanda",
    methodOptions: { variant: "rows" },
    sparsity: 0.5,
    pattern: { kind: "unstructured" },
    permutation: "none",
    then: [],
    allocation: { rule: "uniform" },
    overrides: [],
    calibration: TOKENS,
    nsamples: 128,
    seqlen: 512,
    seed: 0,
    device: "auto",
    ignore: [],
    propagation: "block",
    starved: "all-tokens",
    memoryBytes: 4000,
    reproduce: "layer",
    measureLoss: false,
    allowNonFinite: false,
  } satisfies RunConfig);
});

/** Flags added to the base and what they change in the configuration. */
const TABLE: readonly [RunRequest, Partial<RunConfig>][] = [
  [{ sparsity: "70%" }, { sparsity: 0.7, out: join(folder, "llama-wanda-0.7") }],
  [{ out: "here/pruned" }, { out: join(folder, "here/pruned") }],
  [{ out: join(tmpdir(), "elsewhere-pruned") }, { out: join(tmpdir(), "elsewhere-pruned") }],
  [{ force: true }, { force: true }],
  [{ resume: true }, { resume: true }],
  [{ calibration: "ids.safetensors#calib" }, { calibration: { ...TOKENS, tensor: "calib" } }],
  [{ nsamples: "7" }, { nsamples: 7 }],
  [{ seqlen: "64" }, { seqlen: 64 }],
  [{ seed: "42" }, { seed: 42 }],
  [{ textField: "data.body" }, { textField: "data.body" }],
  [{ calibration: "-" }, { calibration: { file: "-" } }],
  [{ device: "cpu" }, { device: "cpu" }],
  [{ ignore: ["lm_head", "re:.*k_proj"] }, { ignore: ["lm_head", "re:.*k_proj"] }],
  [{ propagation: "group" }, { propagation: "group" }],
  [{ starved: "skip" }, { starved: "skip" }],
  [
    { pattern: "2:4", permutation: "channels" },
    { permutation: "channels", out: join(folder, "llama-wanda-2of4") },
  ],
  [{ family: "llama" }, { family: "llama" }],
  [{ memory: "512MiB" }, { memoryBytes: 2 ** 29 }],
  [
    { method: "magnitude", measureLoss: true },
    { measureLoss: true, calibration: TOKENS },
  ],
  [{ method: "magnitude" }, { method: "magnitude", calibration: undefined, out: join(folder, "llama-magnitude-0.5") }],
];

for (const [flags, expected] of TABLE) {
  test(`flags ${JSON.stringify(flags)} become configuration`, async () => {
    const { config } = await resolveRun({ ...BASE, ...flags });
    for (const [key, value] of Object.entries(expected)) assert.deepEqual(config[key as keyof RunConfig], value, key);
  });
}

test("options of sparsegpt reach its schema", async () => {
  const { methodOptions } = (await resolveRun({ ...BASE, method: "sparsegpt", damping: "0.1", blockSize: "64" }))
    .config;
  assert.equal(methodOptions["damping"], 0.1);
  assert.equal(methodOptions["blockSize"], 64);
  assert.equal(methodOptions["dampingLadder"], undefined, "no ladder unless asked for");
  const ladder = (await resolveRun({ ...BASE, method: "sparsegpt", damping: "0.01,0.1,1" })).config.methodOptions;
  assert.equal(ladder["damping"], 0.01);
  assert.deepEqual(ladder["dampingLadder"], [0.1, 1]);
  await assert.rejects(
    () => resolveRun({ ...BASE, method: "sparsegpt", blockSize: "100" }),
    /--block-size: must divide 128/,
  );
});

test("an N:M pattern brings its sparsity, and the output is named after it", async () => {
  const { calibration = "", model: name = "" } = BASE;
  const { config } = await resolveRun({ model: name, calibration, pattern: "2:4" });
  assert.equal(config.sparsity, 0.5);
  assert.equal(config.out, join(folder, "llama-wanda-2of4"));
  assert.equal((await resolveRun({ model: name, calibration, pattern: "1:4", sparsity: "75%" })).config.sparsity, 0.75);
});

test("without a model the demo model is taken, said so, and pruned into the working directory", async () => {
  const { config, notes } = await resolveRun({ sparsity: "0.7" });
  assert.equal(config.model, demo);
  assert.equal(config.out, join(folder, "demo-wanda-0.7"));
  assert.deepEqual(config.calibration, { file: join(demo, "calibration.txt") });
  assert.match(notes, /info: no --model given: taking the embedded demo model/);
});

test("the sequence length is 2048 or the model's shorter context, never its longer one, and the choice is said", async () => {
  assert.equal((await resolveRun({ sparsity: "0.7" })).config.seqlen, 2048);
  assert.match(
    (await resolveRun(BASE)).notes,
    /info: sequences of 512 tokens, not 2048: the length of the model's context/,
  );
  assert.match(
    (await resolveRun({ ...BASE, seqlen: "1024" })).notes,
    /warn: --seqlen 1024 is longer than the model's context .*512/,
  );
});

/** What is refused: the class decides the exit code, the message names flag and value. */
const REFUSALS: readonly { flags: RunRequest; Class: typeof PruneError; code: string; message: RegExp }[] = [
  { flags: { ...BASE, sparsity: "70" }, Class: UsageError, code: "E_SPARSITY", message: /"70".*write 0\.7 or 70%/ },
  { flags: { ...BASE, pattern: "4:2" }, Class: UsageError, code: "E_PATTERN", message: /4:2/ },
  {
    flags: { ...BASE, device: "cuda" },
    Class: UsageError,
    code: "E_CHOICE",
    message: /--device: "cuda" is not one of auto, cpu, webgpu/,
  },
  {
    flags: { ...BASE, propagation: "layer" },
    Class: UsageError,
    code: "E_CHOICE",
    message: /--propagation: "layer" is not one of block, group, dense/,
  },
  { flags: { ...BASE, nsamples: "0" }, Class: UsageError, code: "E_COUNT", message: /--nsamples: "0"/ },
  { flags: { ...BASE, seqlen: "1" }, Class: UsageError, code: "E_COUNT", message: /--seqlen: "1".*at least 2/ },
  { flags: { ...BASE, memory: "4" }, Class: UsageError, code: "E_SIZE", message: /--memory: "4"/ },
  {
    flags: { ...BASE, damping: "0.1" },
    Class: ConfigError,
    code: "E_METHOD_OPTION",
    message: /--damping: the method wanda has no such option/,
  },
  {
    flags: { ...BASE, pattern: "2:4", sparsity: "0.7" },
    Class: ConfigError,
    code: "E_SPARSITY_PATTERN",
    message: /0\.7 contradicts --pattern 2:4, which makes 0\.5/,
  },
  {
    flags: { model: "llama", calibration: "ids.safetensors" },
    Class: UsageError,
    code: "E_SPARSITY_MISSING",
    message: /--sparsity: missing/,
  },
  {
    flags: { ...BASE, calibration: "notes.txt#part" },
    Class: UsageError,
    code: "E_TOKEN_SOURCE",
    message: /"notes\.txt#part" is neither/,
  },
  {
    flags: { ...BASE, model: "absent" },
    Class: CheckpointError,
    code: "E_MODEL_MISSING",
    message: /absent: no such directory/,
  },
  {
    flags: { ...BASE, model: "." },
    Class: CheckpointError,
    code: "E_MODEL_LAYOUT",
    message: /is not a directory with a config\.json/,
  },
];

for (const { flags, Class, code, message } of REFUSALS) {
  test(`refuses ${JSON.stringify(flags)}`, async () => {
    await assert.rejects(
      () => resolveRun(flags),
      (error: unknown) => {
        assert.ok(error instanceof Class, String(error));
        assert.equal(error.code, code);
        assert.match(error.message, message);
        assert.equal(exitCodeOf(error), Class === CheckpointError ? 4 : 2);
        return true;
      },
    );
  });
}

test("stored ids with shorter rows shorten the sequences, and a file without ids is one of the problems", async () => {
  const rows = (tokenRowLength: Surroundings["tokenRowLength"], flags = BASE) =>
    resolveRunConfig(flags, { ...SURROUNDINGS, tokenRowLength });
  const { config, notes } = await rows(() => Promise.resolve(100));
  assert.equal(config.seqlen, 100);
  assert.match(
    notes.map(({ message }) => message).join("\n"),
    /sequences of 100 tokens, not 2048: the length of the rows of .*ids\.safetensors/,
  );
  const refuse = () => Promise.reject(new CalibrationError("E_TOKEN_TENSOR", "no ids"));
  await assert.rejects(rows(refuse), { code: "E_TOKEN_TENSOR" });
  await assert.rejects(rows(refuse, { ...BASE, damping: "1" }), /2 problems:\n.*--damping.*\n.*no ids/);
  assert.equal((await rows(refuse, { ...BASE, seqlen: "64" })).config.seqlen, 64, "not asked where --seqlen is given");
});

test("without a text the model samples its own, in one note; data sets by name are found where they lie", async (t) => {
  const { config, notes } = await resolveRun({ model: "llama", sparsity: 0.5 });
  assert.deepEqual(config.calibration, { file: "", set: "self" });
  assert.equal(config.seqlen, 512);
  assert.match(notes, /no --calibration: wanda looks at text that the model samples itself/);
  assert.equal((await resolveRun({ ...BASE, model: demo, calibration: "self" })).config.seqlen, 512, "not 2048");

  const before = process.env["HF_HUB_CACHE"];
  t.after(() => {
    if (before === undefined) delete process.env["HF_HUB_CACHE"];
    else process.env["HF_HUB_CACHE"] = before;
  });
  process.env["HF_HUB_CACHE"] = join(folder, "cache");
  const repository = join(folder, "cache", "datasets--Salesforce--wikitext");
  for (const revision of ["aaa", "bbb"]) {
    const data = join(repository, "snapshots", revision, "wikitext-2-raw-v1");
    mkdirSync(data, { recursive: true });
    for (const split of ["train", "test"]) writeFileSync(join(data, `${split}-00000-of-00001.parquet`), "");
  }
  mkdirSync(join(repository, "refs"));
  writeFileSync(join(repository, "refs", "main"), "bbb\n");
  const data = join(repository, "snapshots", "bbb", "wikitext-2-raw-v1");
  const train = { file: join(data, "train-00000-of-00001.parquet"), set: "wikitext2" as const };
  for (const calibration of ["wikitext2", "wikitext2:cache/datasets--Salesforce--wikitext", `wikitext2:${data}`])
    assert.deepEqual((await resolveRun({ ...BASE, calibration })).config.calibration, train, calibration);
  const text = "wikitext2";
  const evaluation = await resolveEvaluationConfig({ model: "llama", text }, SURROUNDINGS);
  assert.deepEqual(evaluation.config.text, { file: join(data, "test-00000-of-00001.parquet"), set: "wikitext2" });
  await assert.rejects(
    resolveRun({ ...BASE, calibration: "c4" }),
    /c4-train\.00000-of-01024\.json\.gz is not in the cache/,
  );
  await assert.rejects(
    resolveRun({ ...BASE, calibration: "c4:cache" }),
    /c4-train\.00000-of-01024\.json\.gz is not in .*cache/,
  );
  mkdirSync(join(folder, "c4"));
  assert.deepEqual((await resolveRun({ ...BASE, calibration: "c4" })).config.calibration, { file: join(folder, "c4") });
});

test("an unknown method is refused with the nearest name and the list", async () => {
  await assert.rejects(
    () => resolveRun({ ...BASE, method: "wnada" }),
    (error: unknown) =>
      error instanceof UsageError &&
      /wanda/.test(`${error.message} ${error.hint}`) &&
      /sparsegpt/.test(`${error.message} ${error.hint}`),
  );
});

test("several wrong flags are reported together", async () => {
  await assert.rejects(
    () => resolveRun({ ...BASE, sparsity: "70", nsamples: "x", device: "gpu" }),
    (error: unknown) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, /^3 problems:\n/);
      for (const flag of ["--sparsity", "--nsamples", "--device"]) assert.ok(error.message.includes(flag), flag);
      assert.equal((error.details["problems"] as unknown[]).length, 3);
      return true;
    },
  );
  await assert.rejects(
    () => resolveRun({ model: "absent", method: "wanda", damping: "0.1" }),
    /^\w*: ?3 problems:|3 problems:/,
  );
});

test("magnitude says that it reads no calibration", async () => {
  assert.match((await resolveRun({ ...BASE, method: "magnitude" })).notes, /warn: magnitude looks at weights only/);
});

test("evaluation flags become configuration", async () => {
  const { config } = await resolveEvaluationConfig(
    { model: "llama", text: "ids.safetensors#test", seqlen: "128", maxWindows: "3" },
    SURROUNDINGS,
  );
  assert.deepEqual(config, { model, text: { ...TOKENS, tensor: "test" }, seqlen: 128, maxWindows: 3 });
  assert.equal(
    (await resolveEvaluationConfig({ model: "llama", text: "ids.safetensors" }, SURROUNDINGS)).config.seqlen,
    512,
  );
  await assert.rejects(() => resolveEvaluationConfig({ model: "llama" } as never, SURROUNDINGS), /--text: missing/);
  const limited = { model: "llama", text: "ids.safetensors", maxPpl: "40" };
  const alone = (await resolveEvaluationConfig(limited, SURROUNDINGS)).config;
  assert.deepEqual(alone.limits, { perplexity: 40 });
  for (const limit of [{ maxKl: "0.1" }, { maxPplRatio: 1.05 }])
    await assert.rejects(() => resolveEvaluationConfig({ ...limited, ...limit }, SURROUNDINGS), /--reference: missing/);
});

test("a channel permutation without an N:M pattern is refused, together with other problems", async () => {
  await assert.rejects(() => resolveRun({ ...BASE, permutation: "channels" }), {
    code: "E_PERMUTATION_PATTERN",
    message: /--permutation channels: an unstructured run/,
  });
  await assert.rejects(
    () => resolveRun({ ...BASE, permutation: "channels", model: "missing" }),
    (error: PruneError) =>
      error.code === "E_SEVERAL" && /--permutation/.test(error.message) && /missing/.test(error.message),
  );
  await assert.rejects(() => resolveRun({ ...BASE, pattern: "2:4", permutation: "rows" }), /none, channels/);
});

test("auto stands for the best combination of its pattern, and what the user says comes before it", async () => {
  const { config, notes } = await resolveRun({ ...BASE, method: "auto" });
  assert.equal(config.method, "alps");
  assert.equal(config.allocation.rule, "evolutionary");
  assert.equal(config.permutation, "none");
  assert.deepEqual(config.then, [{ method: "reconstruct", methodOptions: reconstruct.schema.parse({}) }]);
  assert.equal(config.out, join(folder, "llama-auto-0.5"));
  assert.match(notes, /info: --method auto: alps, then reconstruct, allocation evolutionary, reproducing the model/);

  const structured = await resolveRun({
    model: "llama",
    method: "auto",
    pattern: "2:4",
    calibration: "ids.safetensors",
  });
  assert.deepEqual(
    [structured.config.method, structured.config.allocation.rule, structured.config.permutation],
    ["alps", "uniform", "channels"],
  );
  assert.match(structured.notes, /auto: alps, then reconstruct, permutation channels, reproducing the model/);

  const own = await resolveRun({
    ...BASE,
    method: "auto",
    allocation: "atp",
    option: ["rho=0.2"],
    then: ["cg-update"],
  });
  assert.equal(own.config.allocation.rule, "atp");
  assert.equal(own.config.methodOptions["rho"], 0.2);
  assert.deepEqual(
    own.config.then.map((step) => step.method),
    ["cg-update"],
  );

  writeFileSync(
    join(folder, "auto.yaml"),
    "version: 1\nmethod: { name: auto, options: { damping: 0.02 } }\npattern: 4:8\n",
  );
  const fromRecipe = await resolveRun({ calibration: "ids.safetensors", model: "llama", recipe: "auto.yaml" });
  assert.equal(fromRecipe.config.methodOptions["damping"], 0.02);
  assert.equal(fromRecipe.config.permutation, "channels");
  await assert.rejects(resolveRun({ ...BASE, method: "auto", option: ["cycles=3"] }), /alps has no such option/);
});

const ELSA: RunRequest = { ...BASE, method: "elsa" };

test("elsa's flags are its options, and --init is the method that comes before it", async () => {
  const flags = { steps: "50", batchSize: "4", lr: "1e-3", lambda: "0.02", interval: "16", state: "elsa-l" } as const;
  const { config } = await resolveRun({ ...ELSA, ...flags, projection: "fisher", option: ["frozen=0.5"] });
  const { steps, batchSize, lr, lambda, interval, state, projection, frozen, train } = config.methodOptions;
  assert.deepEqual(
    [steps, batchSize, lr, lambda, interval, state, projection, frozen, train],
    [50, 4, 1e-3, 0.02, 16, "elsa-l", "fisher", 0.5, "all"],
  );
  const initiated = await resolveRun({ ...ELSA, init: "admm", steps: 50, then: ["finetune:steps=9"] });
  assert.equal(initiated.config.method, "admm");
  assert.deepEqual(
    initiated.config.then.map(({ method, methodOptions }) => [method, methodOptions["steps"]]),
    [
      ["elsa", 50],
      ["finetune", 9],
    ],
  );
  assert.equal(initiated.config.out, join(folder, "llama-elsa-0.5"));
  writeFileSync(
    join(folder, "elsa.yaml"),
    "version: 1\nmethod: { name: elsa, init: wanda, options: { steps: 7 } }\nsparsity: 0.9\n",
  );
  const fromRecipe = await resolveRun({ calibration: "ids.safetensors", model: "llama", recipe: "elsa.yaml" });
  assert.deepEqual(
    [fromRecipe.config.method, fromRecipe.config.then[0]?.method, fromRecipe.config.then[0]?.methodOptions["steps"]],
    ["wanda", "elsa", 7],
  );
});

test("what elsa cannot do is said before any work", async () => {
  const refused: readonly (readonly [RunRequest, RegExp])[] = [
    [{ ...ELSA, steps: "0" }, /--steps: "0" is not a whole number of at least 1/],
    [{ ...ELSA, interval: "1.5" }, /--interval/],
    [{ ...ELSA, lr: "-1" }, /--lr: .*0/],
    [{ ...ELSA, lr: "2" }, /--lr/],
    [{ ...ELSA, lr: "fast" }, /--lr: "fast" is not a number/],
    [{ ...ELSA, lambda: "-0.1" }, /--lambda/],
    [{ ...ELSA, projection: "taylor" }, /--projection/],
    [{ ...ELSA, state: "fp4" }, /--state/],
    [{ ...BASE, steps: "5" }, /--steps: the method wanda has no such option/],
    [{ ...BASE, init: "admm" }, /--init admm: wanda does not train/],
    [{ ...ELSA, init: "adm" }, /adm/],
    [{ ...ELSA, reproduce: "model" }, /--reproduce model: elsa trains the model as a whole/],
    [{ ...ELSA, allocation: "evolutionary:proxy=method" }, /--allocation evolutionary: elsa/],
    [{ ...ELSA, pattern: "2:4", permutation: "channels" }, /--permutation channels: elsa/],
    [{ ...ELSA, pattern: "2:4", option: ["gradual=0.5"] }, /gradual has no meaning/],
    [{ ...BASE, method: "finetune" }, /--method finetune: it starts from a mask/],
    [{ ...ELSA, then: ["reconstruct"] }, /reconstruct comes after a step that trains/],
  ];
  for (const [request, message] of refused) {
    const { sparsity: _all, ...rest } = request;
    await assert.rejects(resolveRun(request.pattern === undefined ? request : rest), message, JSON.stringify(request));
  }
  const { config } = await resolveRun({ ...ELSA, allocation: "owl", propagation: "dense" });
  assert.equal(config.allocation.rule, "owl");
});

test("safe chooses its mask itself and may follow or precede other steps; what it cannot do is said before any work", async () => {
  const plus: RunRequest = { ...BASE, method: "safe+", batchSize: "4", lr: "1e-3", lambda: "0.02", interval: "16" };
  const { config } = await resolveRun({ ...plus, option: ["rho=0", "epochs=3"], then: ["reconstruct", "safe"] });
  const { epochs, batchSize, lr, lambda, interval, rho, schedule } = config.methodOptions;
  assert.deepEqual([epochs, batchSize, lr, lambda, interval, rho, schedule], [3, 4, 1e-3, 0.02, 16, 0, "constant"]);
  assert.deepEqual(config.then[1]?.methodOptions, {
    ...{
      epochs: 30,
      batchSize: 8,
      lr: 2e-4,
      warmup: 1 / 15,
      rho: 2e-4,
      lambda: 1e-3,
      schedule: "constant",
      interval: 32,
    },
  });
  const initiated = await resolveRun({ ...BASE, method: "safe", init: "wanda", reproduce: "model" });
  assert.deepEqual([initiated.config.method, initiated.config.then[0]?.method], ["wanda", "safe"]);
  const safe: RunRequest = { ...BASE, method: "safe" };
  const refused: readonly (readonly [RunRequest, RegExp])[] = [
    [{ ...safe, option: ["epochs=0"] }, /epochs/],
    [{ ...safe, option: ["rho=-1"] }, /rho/],
    [{ ...safe, option: ["schedule=exponential"] }, /schedule/],
    [{ ...safe, steps: "5" }, /--steps: the method safe has no such option/],
    [{ ...safe, propagation: "dense" }, /safe: with --propagation dense blocks never see/],
    [{ ...BASE, then: ["safe+"], propagation: "dense" }, /safe\+: with --propagation dense blocks never see/],
    [{ ...safe, reproduce: "model" }, /--reproduce model: safe trains the block as a whole/],
    [{ ...safe, then: ["admm-update"] }, /admm-update/],
    [{ ...ELSA, then: ["safe"] }, /safe comes after a step that trains/],
  ];
  for (const [request, message] of refused) await assert.rejects(resolveRun(request), message, JSON.stringify(request));
  writeFileSync(
    join(folder, "safe.yaml"),
    "version: 1\nmethod: wanda\nsparsity: 0.9\nthen: [{ name: safe, match: '*.up_proj' }]\n",
  );
  await assert.rejects(
    resolveRun({ calibration: "ids.safetensors", model: "llama", recipe: "safe.yaml" }),
    /safe trains whole blocks; it cannot match single linears/,
  );
});

test("auto with a budget trains for so long", async () => {
  for (const [budget, minutes] of [
    ["10m", 10],
    ["90s", 1.5],
    ["1.5h", 90],
  ] as const) {
    const { config } = await resolveRun({ ...BASE, method: "auto", budget });
    assert.equal(config.then.at(-1)?.method, "finetune");
    assert.equal(config.then.at(-1)?.methodOptions["minutes"], minutes);
  }
  await assert.rejects(resolveRun({ ...BASE, budget: "10m" }), /--budget: only auto/);
  await assert.rejects(resolveRun({ ...BASE, method: "auto", budget: "10" }), /--budget: "10" is not a duration/);
});
