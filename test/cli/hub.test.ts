/** Models of the Hub on the command line, against a server on localhost. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { runPrune } from "../helpers/cli.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { HubServer } from "../helpers/hub-server.js";

test("a model is pruned by its name, looked at offline after that, and refused by its own exit code", async (t) => {
  const directory = temporaryDirectory(t);
  const own = join(directory, "own");
  await writeShortDemo(own, { blocks: 1, config: { max_position_embeddings: 16 } });
  const files = Object.fromEntries(readdirSync(own).map((name) => [name, readFileSync(join(own, name))]));
  const server = await HubServer.start(t, {
    name: "org/tiny",
    files,
    access: { kind: "gated", token: "secret-token" },
  });
  const env = {
    ...process.env,
    HF_ENDPOINT: server.endpoint,
    HF_HOME: join(directory, "home"),
    HF_TOKEN: "secret-token",
  };
  const run = (...args: string[]) => runPrune(args, { cwd: directory, env });

  const bad = await run("org/tiny", "--sparsity", "70", "--method", "magnitude");
  assert.equal(bad.code, 2, bad.stderr);
  const snapshots = join(directory, "home/hub/models--org--tiny/snapshots");
  const [commit = ""] = readdirSync(snapshots);
  assert.ok(!existsSync(join(snapshots, commit, "model.safetensors")), "weights wait until the request is good");

  const pruned = await run("org/tiny", "--sparsity", "0.5", "--method", "magnitude");
  assert.equal(pruned.code, 0, pruned.stderr);
  assert.match(pruned.stderr, /org\/tiny of the Hub: commit/);
  assert.ok(existsSync(join(directory, "tiny-magnitude-0.5/model.safetensors")), "beside nothing of the cache");
  assert.doesNotMatch(pruned.stdout + pruned.stderr, /secret-token|do-not-tell/);
  assert.doesNotMatch(readFileSync(join(directory, "tiny-magnitude-0.5/recipe.yaml"), "utf8"), /secret-token/);

  const asked = server.heard.length;
  const inspected = await run("inspect", "org/tiny", "--offline", "--json");
  assert.equal(inspected.code, 0, inspected.stderr);
  assert.equal(server.heard.length, asked);

  const refused = await runPrune(["org/tiny", "--sparsity", "0.5", "--json"], {
    cwd: directory,
    env: { ...env, HF_TOKEN: "", HF_HOME: join(directory, "other") },
  });
  assert.equal(refused.code, 6, refused.stderr);
  assert.equal((JSON.parse(refused.stdout) as { code: string }).code, "E_HUB_GATED");
});
