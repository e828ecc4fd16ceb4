import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { UsageError } from "../../src/errors.js";
import { hubSettings } from "../../src/hub/settings.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";

test("the environment is read as Hugging Face's tools read it", async (t) => {
  const home = temporaryDirectory(t);
  const of = (environment: NodeJS.ProcessEnv) => hubSettings({}, { HOME: home, ...environment });
  const plain = await of({});
  assert.deepEqual(plain, {
    endpoint: "https://huggingface.co",
    cache: join(home, ".cache/huggingface/hub"),
    token: undefined,
    isOffline: false,
  });
  assert.equal((await of({ XDG_CACHE_HOME: "/x" })).cache, "/x/huggingface/hub");
  assert.equal((await of({ HF_HOME: "/h", XDG_CACHE_HOME: "/x" })).cache, "/h/hub");
  assert.equal((await of({ HF_HUB_CACHE: "/c", HF_HOME: "/h" })).cache, "/c");
  assert.equal((await of({ HF_HUB_CACHE: "" })).cache, plain.cache);
  assert.equal((await of({ HF_ENDPOINT: "https://mirror.example/" })).endpoint, "https://mirror.example");
  await assert.rejects(of({ HF_ENDPOINT: "mirror.example" }), UsageError);
  for (const [value, expected] of [
    ["1", true],
    ["TRUE", true],
    ["0", false],
    ["", false],
  ] as const)
    assert.equal((await of({ HF_HUB_OFFLINE: value })).isOffline, expected, value);
  assert.equal((await hubSettings({ offline: true }, { HOME: home })).isOffline, true);
});

test("a token is said, else in the environment, else in the file that a login leaves", async (t) => {
  const home = temporaryDirectory(t);
  writeFileSync(join(home, "token"), "of-the-file\n");
  const tokenOf = async (asked: object, environment: NodeJS.ProcessEnv): Promise<string | undefined> =>
    (await hubSettings(asked, { HF_HOME: home, ...environment })).token;
  assert.equal(await tokenOf({}, {}), "of-the-file");
  assert.equal(await tokenOf({}, { HF_TOKEN: " of-the-environment " }), "of-the-environment");
  assert.equal(await tokenOf({ token: "said" }, { HF_TOKEN: "of-the-environment" }), "said");
  writeFileSync(join(home, "elsewhere"), "of-another-file");
  assert.equal(await tokenOf({}, { HF_TOKEN_PATH: join(home, "elsewhere") }), "of-another-file");
});
