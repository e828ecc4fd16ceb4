/**
 * Folders that were made to do harm: none of their files may be read or written outside of them, waited for, or take more time
 * and memory than a checkpoint does. What single readers make of hostile bytes is in their own tests and in test/fuzz.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { linkSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { kindOf } from "../../src/calibration/source-kind.js";
import { openDocuments } from "../../src/calibration/documents.js";
import { readPlainText } from "../../src/calibration/text.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { createOutput } from "../../src/checkpoint/output.js";
import { parseShardIndex } from "../../src/checkpoint/sharded-index.js";
import { parseRecipe } from "../../src/config/recipe.js";
import { resolveMethodOptions } from "../../src/config/rules.js";
import { CalibrationError, CheckpointError, ConfigError, PruneError } from "../../src/errors.js";
import { inspectConfig } from "../../src/inspection/inspect-config.js";
import { findMethod } from "../../src/methods/registry.js";
import { readModelConfig } from "../../src/model/config.js";
import { readGenerationDefaults } from "../../src/model/generation-config.js";
import { openModel } from "../../src/model/open-model.js";
import { UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

/** Documents of a model that has no chat template. */
const WITHOUT_TEMPLATE = {
  chatTemplate: (): never => {
    throw new CalibrationError("E_CHAT_TEMPLATE", "there is none.");
  },
};

const VALUES: TestTensor = { dtype: "F32", shape: [2, 3], values: new Float32Array(6).fill(1) };

/** A checkpoint beside a file that is nobody's business. */
async function setUp(
  t: TestContext,
): Promise<{ readonly base: string; readonly model: string; readonly secret: string }> {
  const base = temporaryDirectory(t);
  const [model, secret] = [join(base, "model"), join(base, "secret.txt")];
  writeFileSync(secret, "secret");
  await writeCheckpoint(model, { tensors: { "a.0.w.weight": VALUES }, config: { model_type: "llama" } });
  return { base, model, secret };
}

/** Names in the clone, and what was said of others. */
async function clone(model: string, out: string): Promise<{ readonly names: string[]; readonly said: string }> {
  const said: string[] = [];
  await using source = await openCheckpoint(model);
  await using output = await createOutput({
    ...{ source, out, force: false, resume: false, warn: (message) => said.push(message) },
  });
  await output.finish({ remove: [] });
  return { names: readdirSync(out, { recursive: true }).map(String).sort(), said: said.join("\n") };
}

const PLAIN = ["config.json", "model.safetensors"];

describe("what a folder's links lead to", () => {
  const LINKS: Readonly<
    Record<string, (setup: { readonly base: string; readonly model: string; readonly secret: string }) => void>
  > = {
    "a private file": ({ model, secret }) => symlinkSync(secret, join(model, "notes.txt")),
    "a private file, by a way up": ({ model }) => symlinkSync("../secret.txt", join(model, "notes.txt")),
    "a link to a link": ({ base, model, secret }) => {
      symlinkSync(secret, join(base, "between"));
      symlinkSync("../between", join(model, "notes.txt"));
    },
    "a private folder": ({ base, model }) => {
      mkdirSync(join(base, "private"));
      writeFileSync(join(base, "private", "id_rsa"), "secret");
      symlinkSync("../private", join(model, "assets"));
    },
    "a device": ({ model }) => symlinkSync("/dev/zero", join(model, "notes.txt")),
  };
  for (const [name, link] of Object.entries(LINKS))
    test(`${name} is not copied`, async (t) => {
      const setup = await setUp(t);
      link(setup);
      const { names, said } = await clone(setup.model, join(setup.base, "out"));
      assert.deepEqual(names, PLAIN);
      if (name !== "a device") assert.match(said, /is not copied: it is a link to .*, where no checkpoint is/);
    });

  test("files of the Hub's cache, of another checkpoint and of the folder itself are copied", async (t) => {
    const { base, model } = await setUp(t);
    mkdirSync(join(base, "blobs"));
    writeFileSync(join(base, "blobs", "0123"), "{}");
    symlinkSync("../blobs/0123", join(model, "tokenizer.json"));
    await writeCheckpoint(join(base, "other"), {
      tensors: { x: VALUES },
      files: { "vocab.txt": "a", "sub/b.txt": "b" },
    });
    symlinkSync("../other/vocab.txt", join(model, "vocab.txt"));
    symlinkSync("../other/sub", join(model, "sub"));
    symlinkSync("config.json", join(model, "again.json"));
    const { names } = await clone(model, join(base, "out"));
    assert.deepEqual(names, [
      "again.json",
      "config.json",
      "model.safetensors",
      "sub",
      "sub/b.txt",
      "tokenizer.json",
      "vocab.txt",
    ]);
  });

  test("a hard link in the source is not written through", async (t) => {
    const { base, model } = await setUp(t);
    const shared = join(base, "shared.safetensors");
    linkSync(join(model, "model.safetensors"), shared);
    const before = readFileSync(shared);
    await using source = await openCheckpoint(model);
    const options = { source, out: join(base, "out"), force: false, resume: false };
    await using output = await createOutput(options);
    await output.writeTensor("a.0.w.weight", new Float32Array(6));
    await output.finish({ remove: [] });
    assert.deepEqual(readFileSync(shared), before);
    assert.equal(statSync(join(base, "out", "model.safetensors")).nlink, 1);
  });
});

describe("what stands in a file's place", () => {
  const PLACES: Readonly<Record<string, (path: string) => void | Promise<{ close(): void }>>> = {
    pipe: (path) => void execFileSync("mkfifo", [path]),
    device: (path) => symlinkSync("/dev/zero", path),
    folder: (path) => mkdirSync(path),
    socket: async (path) => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(path, resolve));
      return server;
    },
  };
  const READERS: Readonly<Record<string, readonly [file: string, read: (model: string) => unknown]>> = {
    shard: ["a.safetensors", (model) => openCheckpoint(model)],
    index: ["model.safetensors.index.json", (model) => openCheckpoint(model)],
    "config.json": ["config.json", (model) => readModelConfig(model)],
    "generation_config.json": [
      "generation_config.json",
      async (model) => readGenerationDefaults(model, await readModelConfig(model)),
    ],
    text: ["text.txt", (model) => kindOf(join(model, "text.txt"))],
  };
  const skip = process.platform === "win32" && "no such files";
  for (const [kind, put] of Object.entries(PLACES))
    for (const [what, [file, read]] of Object.entries(READERS))
      test(`a ${kind} in place of a ${what} is refused, not waited for`, { skip, timeout: 5000 }, async (t) => {
        const model = temporaryDirectory(t);
        if (file !== "model.safetensors.index.json")
          writeFileSync(
            join(model, "model.safetensors.index.json"),
            JSON.stringify({ weight_map: { a: "a.safetensors" } }),
          );
        if (file !== "config.json") writeFileSync(join(model, "config.json"), '{"model_type":"llama"}');
        const server = await put(join(model, file));
        t.after(() => server?.close());
        await assert.rejects(
          async () => read(model),
          (error: unknown) => {
            assert.ok(error instanceof CheckpointError || error instanceof CalibrationError, String(error));
            return true;
          },
        );
      });
});

describe("names", () => {
  const index = (...shards: string[]): Uint8Array =>
    Buffer.from(JSON.stringify({ weight_map: Object.fromEntries(shards.map((shard, i) => [`t${i}`, shard])) }));
  const REFUSED: readonly (readonly string[])[] = [
    ["../a.safetensors"],
    ["/etc/a.safetensors"],
    ["a/../../b.safetensors"],
    ["..\\a.safetensors"],
    ["C:a.safetensors"],
    ["a.safetensors:stream"],
    ["a\u0000.safetensors"],
    [".."],
    ["passwd"],
    ["model-1.safetensors", "Model-1.safetensors"],
    ["caf\u00e9.safetensors", "cafe\u0301.safetensors"],
  ];
  for (const shards of REFUSED)
    test(`shards ${JSON.stringify(shards)} are refused`, () => {
      assert.throws(() => parseShardIndex(index(...shards)), { code: "E_SHARD_NAME" });
    });
  test("names that any file system tells apart are taken", () => {
    assert.equal(parseShardIndex(index("model-1.safetensors", "model-2.safetensors")).shards.length, 2);
  });
});

describe("__proto__ and its like are keys as any other", () => {
  const NAMES = ["__proto__", "constructor", "toString"];
  test("of tensors and shards", async (t) => {
    const directory = temporaryDirectory(t);
    const tensors = Object.fromEntries(NAMES.map((name) => [name, VALUES]));
    await writeCheckpoint(directory, { tensors, shards: 2 });
    await using checkpoint = await openCheckpoint(directory);
    assert.deepEqual([...checkpoint.tensors.keys()].sort(), [...NAMES].sort());
    for (const name of NAMES) assert.equal((await checkpoint.readTensor(name))[0], 1);
  });
  test("of config.json and generation_config.json", async (t) => {
    const { model } = await setUp(t);
    const text = '{"model_type":"llama","__proto__":{"num_hidden_layers":1,"eos_token_id":5},"constructor":1}';
    writeFileSync(join(model, "config.json"), text);
    const { given } = await inspectConfig({ directory: model });
    assert.deepEqual(Object.keys(given).sort(), ["__proto__", "constructor", "model_type"]);
    const config = await readModelConfig(model);
    assert.equal(config.values.has("num_hidden_layers"), false);
    writeFileSync(join(model, "generation_config.json"), '{"__proto__":{"temperature":5}}');
    assert.deepEqual(readGenerationDefaults(model, config), { endTokens: [] });
  });
  for (const modelType of NAMES)
    test(`model_type ${modelType} is unknown, also of a part of a model`, async (t) => {
      const { model } = await setUp(t);
      for (const config of [{ model_type: modelType }, { model_type: modelType, text_config: {} }]) {
        writeFileSync(join(model, "config.json"), JSON.stringify(config));
        await assert.rejects(openModel(model), CheckpointError);
      }
    });
  const RECIPES = [
    "version: 1\n__proto__: {sparsity: 0.5}\n",
    "version: 1\nmethod: {name: wanda, __proto__: {options: {}}}\n",
    "version: 1\nmethod: {name: wanda, options: {__proto__: {}}}\n",
    'version: 1\nmethod: {name: wanda, options: {"__proto__": 1}}\n',
    "version: 1\nmethod: wanda\nthen:\n  - name: reconstruct\n    options: {__proto__: {epochs: 3}}\n",
    "version: 1\nallocation: {rule: owl, __proto__: {lambda: 1}}\n",
    "version: 1\noverrides: [{match: a, sparsity: 0.5, __proto__: 1}]\n",
  ];
  for (const recipe of RECIPES)
    test(`of a recipe, where it is no key: ${JSON.stringify(recipe)}`, () => {
      assert.throws(
        () => parseRecipe(recipe, "r.yaml"),
        (error: unknown) =>
          error instanceof ConfigError && /^r\.yaml:\d+:\d+ __proto__: unknown key/.test(error.message),
      );
    });
  test("of a method's options", () => {
    const given = JSON.parse('{"__proto__":{"damping":1}}') as Record<string, unknown>;
    const resolved = resolveMethodOptions(findMethod("sparsegpt"), given, UNSTRUCTURED);
    assert.ok(
      resolved instanceof ConfigError && /__proto__: .*no such option/.test(resolved.message),
      String(resolved),
    );
  });
});

describe("what is small and unpacks to much", () => {
  /** 70 MB of zeros in 70 KB, in one part and in three; a plain text that small may have 64 MiB. */
  const part = gzipSync(Buffer.alloc(24 << 20, "a"));
  const BOMBS = { "one part": gzipSync(Buffer.alloc(72 << 20, "a")), "three parts": Buffer.concat([part, part, part]) };
  for (const [name, bytes] of Object.entries(BOMBS))
    test(`${name} of gzip`, async (t) => {
      const directory = temporaryDirectory(t);
      const [text, lines] = [join(directory, "a.txt.gz"), join(directory, "a.jsonl.gz")];
      for (const file of [text, lines]) writeFileSync(file, bytes);
      const refused = (error: unknown): boolean =>
        error instanceof CalibrationError && /over 200 times as long unpacked/.test(error.message);
      await kindOf(text);
      assert.throws(() => readPlainText(text), refused);
      await assert.rejects(openDocuments([lines], WITHOUT_TEMPLATE), refused);
    });
});

describe("what has very many parts", () => {
  test("100,000 shards that are not there", async (t) => {
    const directory = temporaryDirectory(t);
    const shards = Array.from({ length: 100_000 }, (_, i) => [`t${i}`, `s${i}.safetensors`]);
    writeFileSync(
      join(directory, "model.safetensors.index.json"),
      JSON.stringify({ weight_map: Object.fromEntries(shards) }),
    );
    await assert.rejects(openCheckpoint(directory), (error: unknown) => error instanceof PruneError);
  });
  for (const key of ["num_hidden_layers", "num_attention_heads", "head_dim"])
    test(`a config.json with very large ${key}`, async (t) => {
      const { model } = await setUp(t);
      for (const value of [9_007_199_254_740_991, 2 ** 31, 10_001]) {
        writeFileSync(join(model, "config.json"), JSON.stringify({ model_type: "llama", [key]: value }));
        await assert.rejects(openModel(model), { code: "E_CONFIG" });
      }
    });
});
