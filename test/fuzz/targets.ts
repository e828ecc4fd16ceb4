/**
 * What is fuzzed: the program's readers of files, each with inputs to begin from, mutations that suit its form, and how a
 * mutated input is read. Whatever a reader throws has to be a PruneError.
 */
import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateRawSync, gzipSync } from "node:zlib";
import { kindOf } from "../../src/calibration/source-kind.js";
import { openDocuments } from "../../src/calibration/documents.js";
import { readPlainText } from "../../src/calibration/text.js";
import { readTokenTensor, tokenRowLength } from "../../src/calibration/token-tensor.js";
import { TokenizerLibrary } from "../../src/calibration/tokenizer-library.js";
import { loadTokenizer, type Library } from "../../src/calibration/tokenizer.js";
import { changedShards, openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { readMarker } from "../../src/checkpoint/clone.js";
import { encodeHeader, parseHeader, parseHeaderLength } from "../../src/checkpoint/header.js";
import { checkShardIndex, parseShardIndex } from "../../src/checkpoint/sharded-index.js";
import { resolveRunConfig } from "../../src/config/resolve.js";
import { CalibrationError, InternalError, PruneError } from "../../src/errors.js";
import { readResults } from "../../src/driver/compare.js";
import { Journal, JOURNAL_NAME, type Fingerprint } from "../../src/driver/journal.js";
import { readCourse } from "../../src/driver/training-state.js";
import { OutputLock } from "../../src/files/lock.js";
import { inspectConfig } from "../../src/inspection/inspect-config.js";
import { parseJson } from "../../src/json.js";
import { readModelConfig } from "../../src/model/config.js";
import { readGenerationDefaults } from "../../src/model/generation-config.js";
import { openModel } from "../../src/model/open-model.js";
import { fixturePath, fixtures, readJson } from "../helpers/architectures.js";
import { encodeSafetensors, writeCheckpoint } from "../helpers/checkpoints.js";
import { repositoryPath } from "../helpers/paths.js";
import { textOf, treeOf, type Mutator, type Tree } from "./mutate.js";

/** Documents of a model that has no chat template. */
const PLAIN = {
  chatTemplate: (): never => {
    throw new CalibrationError("E_CHAT_TEMPLATE", "there is none.");
  },
};

export interface Target {
  readonly name: string;
  /** How many inputs `npm run fuzz` makes. */
  readonly runs: number;
  /** Words that its inputs are about. */
  readonly words: readonly string[];
  /** Valid inputs to begin from. */
  readonly seeds: readonly Uint8Array[];
  mutate(mutator: Mutator, seed: Uint8Array): Uint8Array;
  /** @param folder an empty folder of its own, the same at every call; `prepare` was called on it */
  read(input: Uint8Array, folder: string): unknown;
  /** What has to be in the folder. */
  prepare?(folder: string): void | Promise<void>;
}

/** @throws what is no PruneError */
export async function readInput(target: Target, input: Uint8Array, folder: string): Promise<"taken" | PruneError> {
  try {
    await target.read(input, folder);
    return "taken";
  } catch (error) {
    if (error instanceof PruneError && !(error instanceof InternalError)) return error;
    throw error;
  }
}

/** Input `index` of a run. */
export function inputOf(target: Target, mutator: Mutator): Uint8Array {
  return target.mutate(mutator, mutator.pick(target.seeds));
}

const bytesOfText = (text: string): Uint8Array => Buffer.from(text);
const documentOf = (value: unknown): Uint8Array => bytesOfText(JSON.stringify(value));

/** A JSON text: its tree, or where a mutation is to be of bytes, those. */
function mutateJson(mutator: Mutator, seed: Uint8Array, others: readonly Uint8Array[] = []): Uint8Array {
  if (mutator.chance(0.3)) return mutator.bytes(seed, others);
  const mutated = bytesOfText(textOf(mutator.json(treeOfText(seed))));
  return mutator.chance(0.1) ? mutator.bytes(mutated, others) : mutated;
}

const trees = new WeakMap<Uint8Array, Tree>();

function treeOfText(text: Uint8Array): Tree {
  const known = trees.get(text);
  if (known !== undefined) return known;
  const tree = treeOf(JSON.parse(Buffer.from(text).toString("utf8")));
  trees.set(text, tree);
  return tree;
}

/** A safetensors file: header's length, header, data. */
function mutateSafetensors(mutator: Mutator, file: Uint8Array): Uint8Array {
  if (mutator.chance(0.15)) return mutator.bytes(file);
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = mutateJson(mutator, headerOf(file, length));
  const first = new Uint8Array(8);
  const said = mutator.chance(0.97) ? BigInt(header.length) : BigInt(mutator.pick([0, 1, header.length + 1, 2 ** 40]));
  new DataView(first.buffer).setBigUint64(0, said, true);
  return Buffer.concat([first, header, file.subarray(8 + length)]);
}

const headers = new WeakMap<Uint8Array, Uint8Array>();

function headerOf(file: Uint8Array, length: number): Uint8Array {
  const known = headers.get(file) ?? file.subarray(8, 8 + length);
  headers.set(file, known);
  return known;
}

const HEADER_WORDS = ["dtype", "shape", "data_offsets", "F32", "BF16", "U8", "I64", "F8_E4M3", "MXFP4", "F4"];

const SMALL_FILE = encodeSafetensors({
  "model.embed_tokens.weight": { dtype: "F32", shape: [3, 2], values: new Float32Array(6) },
  "model.norm.weight": { dtype: "BF16", shape: [2], values: new Float32Array(2) },
  "mlp.experts.down_proj_blocks": { dtype: "U8", shape: [1, 2, 1, 16], values: new Uint8Array(32) },
  "mlp.experts.down_proj_scales": { dtype: "U8", shape: [1, 2, 1], values: new Uint8Array(2) },
});

const header: Target = {
  name: "header",
  runs: 600_000,
  words: HEADER_WORDS,
  seeds: [SMALL_FILE, encodeSafetensors({}), encodeHeader([], {}).bytes],
  mutate: mutateSafetensors,
  read: (input) => {
    const length = parseHeaderLength(input.subarray(0, 8), "x", input.length);
    return parseHeader(input.subarray(8, 8 + length), "x", input.length);
  },
};

/** What shards of the indexes hold. */
const HELD: ReadonlyMap<string, readonly string[]> = new Map([
  ["model-00001-of-00002.safetensors", ["a"]],
  ["model-00002-of-00002.safetensors", ["b"]],
  ["x.safetensors", ["model.norm.weight"]],
]);

const index: Target = {
  name: "index",
  runs: 400_000,
  words: ["weight_map", "metadata", "total_size", "model-00001-of-00002.safetensors", "a.safetensors"],
  seeds: [
    documentOf({
      metadata: { total_size: 4 },
      weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" },
    }),
    documentOf({ weight_map: { "model.norm.weight": "x.safetensors" } }),
  ],
  mutate: mutateJson,
  read: (input) => {
    const parsed = parseShardIndex(input);
    return checkShardIndex(parsed, new Map(parsed.shards.map((shard) => [shard, HELD.get(shard) ?? ["c"]])));
  },
};

const SHARD = "model-00001-of-00002.safetensors";

/** All of a checkpoint: shards that are opened, their tensors read. */
const checkpoint: Target = {
  name: "checkpoint",
  runs: 20_000,
  words: HEADER_WORDS,
  seeds: [SMALL_FILE],
  mutate: mutateSafetensors,
  prepare: (folder) => {
    const weight_map = { "model.norm.weight": SHARD, "model.embed_tokens.weight": SHARD };
    writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
  },
  read: async (input, folder) => {
    writeFileSync(join(folder, SHARD), input);
    await using opened = await openCheckpoint(folder);
    for (const name of [...opened.tensors.keys(), ...opened.packed.keys()]) await opened.readTensor(name);
  },
};

/** A file under a shard's name that is something else. */
const foreign: Target = {
  name: "foreign",
  runs: 20_000,
  words: ["GGUF", "PK\u0003\u0004", "version https://git-lfs.", "<!doctype html", "\u0080\u0002}"],
  seeds: [
    bytesOfText("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
    bytesOfText("<!DOCTYPE html><html><head></head></html>"),
    Buffer.concat([Buffer.from("PK\x03\x04\x14\0\0\0\x08\0", "latin1"), deflateRawSync("archive/data.pkl")]),
    Buffer.from("\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", "latin1"),
    Buffer.from("GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0", "latin1"),
    Buffer.concat([Buffer.alloc(257), Buffer.from("ustar")]),
  ],
  mutate: (mutator, seed) => mutator.bytes(seed, foreign.seeds),
  read: async (input, folder) => {
    const file = join(folder, "model.safetensors");
    writeFileSync(file, input);
    const problems: unknown[] = [];
    for (const look of [() => openCheckpoint(folder), () => kindOf(file)])
      try {
        await look();
      } catch (error) {
        problems.push(error);
      }
    for (const problem of problems) if (!(problem instanceof PruneError)) throw problem;
  },
};

const CONFIGS = fixtures().filter(({ skip }) => skip === false);
const CONFIG_WORDS = [
  ...["rope_scaling", "rope_parameters", "layer_types", "sliding_window", "num_hidden_layers", "num_experts", "yarn"],
  ...["quantization_config", "quant_method", "text_config", "vision_config", "model_type", "llama3", "longrope"],
  ...["full_attention", "sliding_attention", "linear_attention", "mxfp4", "fp8", "head_dim", "silu", "gelu_new"],
];

/** config.json of every family, beside its tensors. */
const config: Target = {
  name: "config",
  runs: 100_000,
  words: CONFIG_WORDS,
  seeds: CONFIGS.flatMap(({ folder, configs }) =>
    configs.map((file) => documentOf({ ...readJson<object>(fixturePath(folder, file)), "// fixture": folder })),
  ),
  mutate: (mutator, seed) => mutateJson(mutator, seed),
  prepare: (folder) => {
    for (const { folder: fixture } of CONFIGS) {
      mkdirSync(join(folder, fixture));
      symlinkSync(fixturePath(fixture, "model.safetensors"), join(folder, fixture, "model.safetensors"));
    }
  },
  read: async (input, folder) => {
    const named = /"\/\/ fixture":"(\w+)"/.exec(Buffer.from(input).toString("latin1"))?.[1] ?? "";
    const fixture = CONFIGS.some((each) => each.folder === named) ? named : "llama";
    const directory = join(folder, fixture);
    writeFileSync(join(directory, "config.json"), input);
    await inspectConfig({ directory });
    readGenerationDefaults(directory, await readModelConfig(directory));
    await using _model = await openModel(directory);
  },
};

const QUANTISED = {
  tensors: {
    "model.layers.0.mlp.down_proj.qweight": { dtype: "I32", shape: [1, 1], values: new Uint8Array(4) },
  },
};

const quantisation: Target = {
  name: "quantisation",
  runs: 20_000,
  words: ["quant_method", "gptq", "awq", "fp8", "mxfp4", "load_in_4bit", "compression_config", "quant_type", "bits"],
  seeds: [
    { quant_method: "gptq", bits: 4 },
    { quant_method: "mxfp4", modules_to_not_convert: ["lm_head"] },
    { load_in_4bit: true },
    { quant_type: "hqq" },
    { quant_method: "fp8", weight_block_size: [128, 128], activation_scheme: "dynamic" },
  ].map((quantization_config) =>
    documentOf({ ...readJson<object>(fixturePath("llama", "config.json")), quantization_config }),
  ),
  mutate: mutateJson,
  prepare: (folder) => writeCheckpoint(folder, QUANTISED),
  read: async (input, folder) => {
    writeFileSync(join(folder, "config.json"), input);
    await using _model = await openModel(folder);
  },
};

const generationConfig: Target = {
  name: "generation-config",
  runs: 100_000,
  words: ["eos_token_id", "bos_token_id", "temperature", "top_k", "top_p"],
  seeds: [
    documentOf({ eos_token_id: [1, 2], bos_token_id: 0, temperature: 0.7, top_k: 20, top_p: 0.8 }),
    readFileSync(repositoryPath("models/demo/generation_config.json")),
  ],
  mutate: mutateJson,
  prepare: (folder) => copyFileSync(repositoryPath("models/demo/config.json"), join(folder, "config.json")),
  read: async (input, folder) => {
    writeFileSync(join(folder, "generation_config.json"), input);
    readGenerationDefaults(folder, await readModelConfig(folder));
  },
};

const RECIPE_WORDS = [
  ...["method", "name", "options", "then", "match", "sparsity", "pattern", "2:4", "calibration", "overrides", "ignore"],
  ...[
    "allocation",
    "rule",
    "version",
    "&a",
    "*a",
    "<<",
    "!!js/function",
    "!!binary",
    "? ",
    "- ",
    "---\n",
    "|\n  ",
    "%YAML",
  ],
  ...[
    "wanda",
    "sparsegpt",
    "reconstruct",
    "finetune",
    "elsa",
    "owl",
    "damping",
    "propagation",
    "seed",
    "memory",
    "auto",
  ],
];

const recipe: Target = {
  name: "recipe",
  runs: 100_000,
  words: RECIPE_WORDS,
  seeds: [
    documentOf({
      ...{ version: 1, description: "x", model: "m", out: "o", method: { name: "wanda", options: {} }, sparsity: 0.5 },
      ...{ then: [{ name: "dsnot", options: {}, match: "*.q_proj" }], allocation: { rule: "owl", lambda: 0.08 } },
      ...{ calibration: { source: "c.txt", nsamples: 8, seqlen: 32 }, overrides: [{ match: "*", sparsity: 0.1 }] },
      ...{ seed: 1, ignore: ["*.k_proj"], propagation: "block", memory: "1GB" },
    }),
    documentOf({ version: 1, method: "sparsegpt", pattern: "2:4", permutation: "channels", device: "cpu" }),
    documentOf({ version: 1, method: { name: "elsa", options: { steps: 3 } }, sparsity: "70%" }),
    bytesOfText("version: 1\nmethod:\n  name: wanda\nsparsity: 0.5\nignore: [a, b]\nthen: &a\n  - name: reconstruct\n"),
  ],
  mutate: (mutator, seed) => (seed[0] === 0x7b ? mutateJson(mutator, seed) : mutator.bytes(seed, recipe.seeds)),
  read: async (input, folder) => {
    const file = join(folder, "recipe.yaml");
    writeFileSync(file, input);
    const demoModel = repositoryPath("models/demo");
    const surroundings = {
      ...{ workingDirectory: folder, demoModel, freeMemoryBytes: 2 ** 30, tokenRowLength },
      findModel: (name: string) => Promise.resolve(join(folder, name)),
    };
    await resolveRunConfig({ recipe: file }, surroundings);
  },
};

const TOKEN_FILES = ["I32", "I64", "U16", "U32"].map((dtype) =>
  encodeSafetensors({
    ids: { dtype, shape: [2, 3], values: new Uint8Array(dtype === "I64" ? 48 : dtype === "U16" ? 12 : 24) },
  }),
);

const tokens: Target = {
  name: "tokens",
  runs: 100_000,
  words: ["ids", "I32", "I64", "U16", "U32", "U8", "dtype", "shape", "data_offsets"],
  seeds: TOKEN_FILES,
  mutate: mutateSafetensors,
  read: async (input, folder) => {
    const file = join(folder, "ids.safetensors");
    writeFileSync(file, input);
    await kindOf(file);
    await tokenRowLength({ file });
    await readTokenTensor({ file });
  },
};

const LINES = bytesOfText(
  `{"text": "a \\u00e9 b"}\n\n{"text": "second", "n": NaN}\r\n{"n": [1, {"text": 2}], "text": ""}\n`,
);

const documents: Target = {
  name: "documents",
  runs: 100_000,
  words: ['"text"', "{", "}", "\n", "\r\n", "\\ud800", "\\u0000", "\ufeff", "NaN", "[", "\u2028"],
  seeds: [LINES, bytesOfText(`\ufeff{"text":"x"}`), bytesOfText(`{"text":"x"}\n`)],
  mutate: (mutator, seed) => mutator.bytes(seed, documents.seeds),
  read: async (input, folder) => {
    const file = join(folder, "texts.jsonl");
    writeFileSync(file, input);
    await kindOf(file);
    const opened = await openDocuments([file], PLAIN);
    try {
      for (let i = 0; i < opened.count; i++) await opened.read(i);
    } finally {
      await opened[Symbol.asyncDispose]();
    }
  },
};

const gzip: Target = {
  name: "gzip",
  runs: 100_000,
  words: ["\u001f\u008b\u0008"],
  seeds: [LINES, bytesOfText("a text\r\nof lines\n")],
  mutate: (mutator, seed) => {
    const text = mutator.chance(0.3) ? mutator.bytes(seed, gzip.seeds) : seed;
    const parts = Array.from({ length: 1 + mutator.below(3) }, () => gzipSync(text));
    const packed = Buffer.concat(mutator.chance(0.1) ? [...parts, mutator.bytes(text)] : parts);
    return mutator.chance(0.8) ? mutator.bytes(packed) : packed;
  },
  read: async (input, folder) => {
    const [plain, lines] = [join(folder, "text.txt.gz"), join(folder, "texts.jsonl.gz")];
    for (const file of [plain, lines]) writeFileSync(file, input);
    const problems: unknown[] = [];
    try {
      await kindOf(plain);
      readPlainText(plain);
    } catch (error) {
      problems.push(error);
    }
    try {
      await (await openDocuments([lines], PLAIN))[Symbol.asyncDispose]();
    } catch (error) {
      problems.push(error);
    }
    for (const problem of problems) if (!(problem instanceof PruneError)) throw problem;
    if (problems.length === 2) throw problems[0];
  },
};

const json: Target = {
  name: "json",
  runs: 200_000,
  words: ["NaN", "Infinity", "-Infinity", '\\"', "\\", '"', "\ufeff"],
  seeds: [documentOf({ a: [1, 'x\\"NaN', { b: null }] }), bytesOfText('{"a": NaN, "b": [-Infinity, "Infinity"]}')],
  mutate: (mutator, seed) => mutator.bytes(seed, json.seeds),
  read: (input) => {
    try {
      parseJson(Buffer.from(input).toString("utf8"));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error; // whoever reads says which file
    }
  },
};

const FINGERPRINT: Fingerprint = { bytes: { version: "1", tensors: "a" }, place: { device: "cpu" } };
const LAYER = { name: "model.layers.0.mlp.up_proj", zeros: 2, elements: 4, loss: null, seconds: 0.1 };

const journal: Target = {
  name: "journal",
  runs: 100_000,
  words: [
    "type",
    "block",
    "source",
    "allocation",
    "training",
    "gradients",
    "sha256",
    "layers",
    "sparsities",
    "\n",
    "run",
  ],
  seeds: [
    bytesOfText(
      [
        { type: "run", fingerprint: FINGERPRINT },
        { type: "gradients", name: "model", loss: 2.5 },
        { type: "allocation", name: "all", sparsities: { "model.layers.0.mlp.up_proj": 0.5 } },
        { type: "source", name: "model.layers.0", sha256: "ab" },
        { type: "block", name: "model.layers.0", sha256: "cd", layers: [LAYER], training: [] },
        { type: "training-step", name: "elsa", step: 2 },
        { type: "training-plan", name: "elsa", steps: 2 },
        { type: "training", name: "elsa", report: { name: "elsa", steps: 2, curve: [] } },
      ]
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(""),
    ),
  ],
  mutate: (mutator, seed) => {
    if (mutator.chance(0.4)) return mutator.bytes(seed);
    const lines = Buffer.from(seed).toString("utf8").split("\n");
    const at = mutator.below(lines.length - 1);
    lines[at] = textOf(mutator.json(treeOf(JSON.parse(lines[at] as string))));
    return bytesOfText(lines.join("\n"));
  },
  read: async (input, folder) => {
    writeFileSync(join(folder, JOURNAL_NAME), input);
    await using opened = await Journal.open(folder, FINGERPRINT, true);
    // As the driver uses them.
    for (const { name } of opened.finished("block", "model.layers.0")?.layers ?? []) void name.length;
    void opened.finished("gradients", "model")?.loss.toFixed();
    void opened.finished("source", "model.layers.0")?.sha256.length;
    for (const share of Object.values(opened.finished("allocation", "all")?.sparsities ?? {})) void share.toFixed();
    void Object.keys(opened.finished("training", "elsa")?.report ?? {});
  },
};

const STAMP = { name: "model.safetensors", size: "10", modified: "1", changed: "1", place: "1:2" };

const marker: Target = {
  name: "marker",
  runs: 100_000,
  words: ["headersSha256", "shards", "name", "size"],
  seeds: [documentOf({ headersSha256: "ab", shards: [STAMP] })],
  mutate: mutateJson,
  read: async (input, folder) => {
    writeFileSync(join(folder, "clone-complete"), input);
    const read = await readMarker(folder);
    if (read !== undefined) changedShards(read.shards, [STAMP]);
  },
};

const results: Target = {
  name: "results",
  runs: 50_000,
  words: ["fingerprint", "weights", "label", "row", "\n"],
  seeds: [
    bytesOfText(
      `{"fingerprint":"f","weights":"w"}\n{"label":"wanda 0.5","row":{"layers":[{}],"sparsity":{"target":0.5},"perplexityRatio":{},"klDivergence":{},"top1Agreement":{}}}\n`,
    ),
  ],
  mutate: (mutator, seed) => {
    if (mutator.chance(0.4)) return mutator.bytes(seed);
    const [head = "", row = ""] = Buffer.from(seed).toString("utf8").split("\n");
    const change = (line: string): string => textOf(mutator.json(treeOf(JSON.parse(line))));
    return bytesOfText(mutator.chance(0.3) ? `${change(head)}\n${row}\n` : `${head}\n${change(row)}\n`);
  },
  read: async (input, folder) => {
    const file = join(folder, "compare.jsonl");
    writeFileSync(file, input);
    const read = await readResults(file, "f");
    for (const [label, row] of read?.rows ?? []) void [label.length, row.layers.length];
  },
};

const course: Target = {
  name: "course",
  runs: 50_000,
  words: ["losses", "gradientNorms", "curve", "step"],
  seeds: [documentOf({ losses: [1.5, 2], gradientNorms: [1, null], curve: [{ step: 1, loss: 1.5, gradientNorm: 1 }] })],
  mutate: mutateJson,
  read: async (input, folder) => {
    const file = join(folder, "course.json");
    writeFileSync(file, input);
    const { losses, gradientNorms, curve } = await readCourse(file);
    for (const point of curve) void point.step;
    void [losses.length, gradientNorms.length];
  },
};

const lock: Target = {
  name: "lock",
  runs: 10_000,
  words: ["pid", "started", "boot", "namespace", "host", "machine", "since"],
  seeds: [
    documentOf({ pid: 2 ** 22 + 1, started: "1", boot: "b", namespace: "n", host: "h", machine: "m", since: "2026" }),
  ],
  mutate: mutateJson,
  read: async (input, folder) => {
    const out = join(folder, "out");
    mkdirSync(`${out}.lock`, { recursive: true });
    writeFileSync(join(`${out}.lock`, "0.claim"), input);
    writeFileSync(join(`${out}.lock`, "0.held"), "");
    try {
      await using _lock = await OutputLock.take(out);
    } finally {
      rmSync(`${out}.lock`, { recursive: true, force: true });
    }
  },
};

const TOKENIZER_WORDS = [
  ...[
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
    "vocab",
    "merges",
    "special",
  ],
  ...[
    "ByteLevel",
    "Sequence",
    "Split",
    "Isolated",
    "Digits",
    "Metaspace",
    "BPE",
    "Unigram",
    "WordPiece",
    "NFC",
    "(?<=a",
  ],
  ...["TemplateProcessing", "truncation", "padding", "Regex", "dropout", "byte_fallback", "Replace", "Precompiled"],
];

let reused: TokenizerLibrary | undefined;

/** One process of the library for many definitions, until one of them ends it: starting it takes longer than all else. */
async function loadReused(definition: string): Promise<Library> {
  try {
    reused ??= await TokenizerLibrary.load(definition);
    await reused.take(definition);
    const library = reused;
    return {
      encode: (text, isWhole) => library.encode(text, isWhole),
      decode: (ids) => library.decode(ids),
      idOf: (token) => library.idOf(token),
      [Symbol.dispose]: () => undefined,
    };
  } finally {
    if (reused?.hasEnded === true) reused = undefined;
  }
}

/** A few tokens of each kind of model. */
const SMALL_TOKENIZERS = [
  {
    ...{ version: "1.0", truncation: null, padding: null, normalizer: { type: "NFC" }, decoder: null },
    added_tokens: [
      { id: 3, content: "<s>", special: true, lstrip: false, rstrip: false, normalized: false, single_word: false },
    ],
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: "\\s+" }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      ...{
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      },
      ...{
        pair: [{ Sequence: { id: "A", type_id: 0 } }],
        special_tokens: { "<s>": { id: "<s>", ids: [3], tokens: ["<s>"] } },
      },
    },
    model: { type: "BPE", dropout: null, unk_token: null, vocab: { a: 0, b: 1, ab: 2 }, merges: [["a", "b"]] },
  },
  {
    ...{ version: "1.0", normalizer: null, post_processor: null, decoder: null, added_tokens: [] },
    pre_tokenizer: { type: "Whitespace" },
    model: { type: "WordLevel", vocab: { a: 0, "[UNK]": 1 }, unk_token: "[UNK]" },
  },
  {
    ...{ version: "1.0", normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" }, added_tokens: [] },
    ...{ pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false } },
    model: {
      type: "Unigram",
      unk_id: 0,
      vocab: [
        ["<unk>", 0],
        ["a", -1],
        ["▁", -2],
      ],
      byte_fallback: false,
    },
  },
];

const tokenizer: Target = {
  name: "tokenizer",
  runs: 100_000,
  words: TOKENIZER_WORDS,
  seeds: SMALL_TOKENIZERS.map(documentOf),
  mutate: mutateJson,
  read: async (input, folder) => {
    writeFileSync(join(folder, "tokenizer.json"), input);
    using loaded = await loadTokenizer(folder, loadReused);
    await loaded.encode("a b  ab1\n");
    await loaded.decode(Int32Array.of(0, 2));
    loaded.isOfText(1);
  },
};

const tokenizerConfig: Target = {
  name: "tokenizer-config",
  runs: 20_000,
  words: ["tokenizer_class", "LlamaTokenizer", "add_bos_token", "bos_token", "content", "<s>"],
  seeds: [documentOf({ tokenizer_class: "LlamaTokenizer", add_bos_token: true, bos_token: { content: "<s>" } })],
  mutate: mutateJson,
  prepare: (folder) => writeFileSync(join(folder, "tokenizer.json"), documentOf(SMALL_TOKENIZERS[0])),
  read: async (input, folder) => {
    writeFileSync(join(folder, "tokenizer_config.json"), input);
    using loaded = await loadTokenizer(folder, loadReused);
    await loaded.encodeOpening("a");
  },
};

export const TARGETS: readonly Target[] = [
  ...[
    header,
    index,
    checkpoint,
    foreign,
    config,
    quantisation,
    generationConfig,
    recipe,
    tokens,
    documents,
    gzip,
    json,
  ],
  ...[journal, marker, results, course, lock, tokenizer, tokenizerConfig],
];
