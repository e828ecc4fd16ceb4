/** Names of models, from what is typed to a directory: paths, folders of the cache, repositories; and which files come when. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { PruneError } from "../../src/errors.js";
import { repositoryOfSnapshot } from "../../src/hub/cache.js";
import { HubModels } from "../../src/hub/models.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { commitOf, HubServer } from "../helpers/hub-server.js";

const SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX = JSON.stringify({ weight_map: { a: SHARDS[0], b: SHARDS[1], c: SHARDS[0] } });
const FILES = {
  "config.json": "{}",
  "generation_config.json": "{}",
  "tokenizer.json": "t".repeat(300),
  "tokenizer.model": "m",
  "merges.txt": "",
  "chat_template.jinja": "j",
  "modeling_own.py": "p",
  LICENSE: "l",
  "README.md": "# card",
  "model.safetensors.index.json": INDEX,
  [SHARDS[0] as string]: "1".repeat(400),
  [SHARDS[1] as string]: "2".repeat(400),
};
const NOT_NEEDED = {
  ".gitattributes": "",
  "pytorch_model.bin": "b",
  "pytorch_model.bin.index.json": "{}",
  "model.gguf": "g",
  "onnx/model.onnx": "o",
  "onnx/config.json": "{}",
  "original/params.json": "{}",
  "params.json": "{}",
  "consolidated.safetensors": "c",
  "adapter_config.json": "{}",
  "figure.png": "f",
};

async function modelsOf(t: TestContext, files: Readonly<Record<string, string>>) {
  const server = await HubServer.start(t, { name: "org/name", files, refs: ["main", "v2"] });
  const directory = temporaryDirectory(t);
  const environment = { HF_HOME: join(directory, "home"), HF_ENDPOINT: server.endpoint };
  return { server, directory, models: () => new HubModels(directory, {}, environment) };
}

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "nothing thrown",
    (error: unknown) => (error instanceof PruneError ? error.code : String(error)),
  );

test("what describes a model comes first, its weights when they are wanted, and nothing else", async (t) => {
  const { models } = await modelsOf(t, { ...FILES, ...NOT_NEEDED });
  const own = models();
  const found = await own.find("org/name", {});
  const description = Object.keys(FILES).filter((name) => !SHARDS.includes(name));
  assert.deepEqual(readdirSync(found).sort(), description.sort());
  assert.deepEqual(repositoryOfSnapshot(found), {
    kind: "model",
    id: "org/name",
    revision: commitOf({ name: "org/name" }),
  });
  await own.complete();
  assert.deepEqual(readdirSync(found).sort(), Object.keys(FILES).sort());
});

test("a single file is preferred to shards, as loaders do; without safetensors the hint says what is there", async (t) => {
  const single = await modelsOf(t, { ...FILES, "model.safetensors": "whole" });
  const own = single.models();
  const found = await own.find("hf://org/name@v2", {});
  await own.complete();
  assert.deepEqual(
    [existsSync(join(found, "model.safetensors")), existsSync(join(found, SHARDS[0] ?? ""))],
    [true, false],
  );

  for (const [files, pattern] of [
    [{ "config.json": "{}", "pytorch_model.bin": "b" }, /pytorch_model\.bin.*convert/],
    [{ "config.json": "{}", "m.gguf": "g" }, /gguf/],
    [{ ...FILES, "model.safetensors.index.json": "{}" }, /index/],
  ] as const) {
    const { models } = await modelsOf(t, files);
    const none = models();
    await none.find("org/name", {});
    await assert.rejects(
      none.complete(),
      (error) =>
        error instanceof PruneError &&
        error.code === "E_HUB_WEIGHTS" &&
        pattern.test(`${error.message} ${error.hint ?? ""}`),
    );
  }
});

test("what exists is a path; a folder of the cache is its snapshot, by main or by the revision", async (t) => {
  const { server, directory, models } = await modelsOf(t, FILES);
  mkdirSync(join(directory, "org/name"), { recursive: true });
  assert.equal(await models().find("org/name", {}), join(directory, "org/name"));
  assert.equal(await models().find("./nowhere", {}), join(directory, "nowhere"));
  assert.equal(server.heard.length, 0);

  const [first, second] = ["a".repeat(40), "b".repeat(40)];
  const folder = join(directory, "models--acme--small");
  for (const commit of [first, second]) mkdirSync(join(folder, "snapshots", commit), { recursive: true });
  mkdirSync(join(folder, "refs"));
  writeFileSync(join(folder, "refs/main"), first);
  writeFileSync(join(folder, "refs/v1"), second);
  symlinkSync(folder, join(directory, "a-link"));
  assert.equal(await models().find("models--acme--small", {}), join(folder, "snapshots", first));
  assert.equal(await models().find(folder, { revision: "v1" }), join(folder, "snapshots", second));
  assert.equal(await models().find(folder, { revision: second }), join(folder, "snapshots", second));
  assert.equal(await codeOf(models().find(folder, { revision: "v3" })), "E_REVISION");
});

test("a revision belongs to a repository, and is said once", async (t) => {
  const { directory, models } = await modelsOf(t, FILES);
  mkdirSync(join(directory, "checkpoint"));
  const revision = "v2";
  assert.equal(await codeOf(models().find("checkpoint", { revision })), "E_REVISION");
  assert.equal(await codeOf(models().find("./nowhere", { revision })), "E_REVISION");
  assert.equal(await codeOf(models().find("org/name@main2", { revision })), "E_REVISION");
  assert.equal(await codeOf(models().find("org/name", { revision: "../x" })), "E_REVISION");
  await models().find("org/name@v2", { revision });
  await models().find("org/name", { revision });
});

test("a name that is neither here nor there is told with both", async (t) => {
  const { directory, models } = await modelsOf(t, FILES);
  await assert.rejects(models().find("org/nothing", {}), (error) => {
    assert.ok(error instanceof PruneError);
    assert.ok(error.hint?.includes(join(directory, "org/nothing")), error.hint);
    return error.code === "E_HUB_MISSING";
  });
});
