/** Files and folders that are something else than they are taken for are refused by what they are. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { CheckpointError, exitCodeOf } from "../../src/errors.js";
import { layoutHint } from "../../src/layout-hint.js";
import { openModel } from "../../src/model/open-model.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";

const POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n";
const PAGE = "<!DOCTYPE html>\n<html><head><title>404</title></head></html>";
const CONFIG = JSON.stringify({ model_type: "llama" });

/** What opening a folder with these files is refused with. */
async function refusalOf(
  directory: string,
  files: Readonly<Record<string, string | Uint8Array>>,
): Promise<CheckpointError> {
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  let refusal: unknown;
  await assert.rejects(openModel(directory), (error) => ((refusal = error), true));
  assert.ok(refusal instanceof CheckpointError, String(refusal));
  assert.equal(exitCodeOf(refusal), 4);
  return refusal;
}

test("another kind of file under the name of a checkpoint's is named, with what to do", async (t) => {
  const latin = (text: string): Uint8Array => Buffer.from(`${text}${"x".repeat(600)}`, "latin1");
  const tar = Buffer.alloc(1024);
  tar.write("ustar", 257);
  for (const [content, what, hint] of [
    [POINTER, /is a Git LFS pointer/, /git lfs pull/],
    [PAGE, /is an HTML page/, /download it again/],
    [latin("PK\x03\x04"), /is a zip archive, as torch\.save/, /save_pretrained/],
    [latin("\x80\x02}q\x00"), /is a Python pickle/, /save_pretrained/],
    [latin("GGUF\x03"), /is a GGUF file/, /original checkpoint/],
    [latin("\x1f\x8b\x08"), /is compressed with gzip/, /Unpack/],
    [latin("\x28\xb5\x2f\xfd"), /is compressed with zstd/, /Unpack/],
    [tar, /is a tar archive/, /Unpack/],
  ] as const) {
    const error = await refusalOf(temporaryDirectory(t), { "config.json": CONFIG, "model.safetensors": content });
    assert.match(error.message, what);
    assert.match(error.message, /model\.safetensors: is /);
    assert.match(error.hint ?? "", hint);
    assert.equal(error.code, "E_FOREIGN_FILE");
  }
  for (const name of ["config.json", "model.safetensors.index.json"])
    for (const content of [POINTER, PAGE]) {
      const error = await refusalOf(temporaryDirectory(t), { "config.json": CONFIG, [name]: content });
      assert.match(error.message, new RegExp(`${name}: is an? (?:HTML|Git LFS)`));
    }
});

test("a folder in another layout gets a hint about what it holds", () => {
  for (const [names, hint] of [
    [
      ["config.json", "model.fp16.safetensors"],
      /"model\.fp16\.safetensors" is there, a variant.* to model\.safetensors\.$/,
    ],
    [["model.safetensors.index.fp16.json"], /a variant.* to model\.safetensors\.index\.json\.$/],
    [["consolidated.safetensors", "params.json"], /"consolidated\.safetensors" is there: .*other tensor names/],
    [["consolidated.00.pth"], /"consolidated\.00\.pth" is there/],
    [["adapter_config.json", "adapter_model.safetensors"], /LoRA adapter.*merge_and_unload/],
    [["weights.safetensors"], /"weights\.safetensors" is there: .*rename or link it/],
    [["pytorch_model.bin", "pytorch_model.bin.index.json"], /Only "pytorch_model\.bin" is there: convert/],
    [["tf_model.h5"], /"tf_model\.h5"/],
  ] as const)
    assert.match(layoutHint(names) ?? "nothing", hint);
  for (const names of [
    [],
    ["notes.txt"],
    ["model.safetensors", "consolidated.safetensors"],
    ["a\u001b[31m.safetensors"],
  ])
    assert.equal(layoutHint(names), undefined, names.join());
});

test(
  "a pipe in place of a shard or of config.json is refused, not waited for",
  { skip: process.platform === "win32" },
  async (t) => {
    const directory = temporaryDirectory(t);
    execFileSync("mkfifo", [join(directory, "a.safetensors")]);
    writeFileSync(join(directory, "model.safetensors.index.json"), '{"weight_map":{"a":"a.safetensors"}}');
    await assert.rejects(openCheckpoint(directory), { code: "E_FILE_UNREADABLE" });
    execFileSync("mkfifo", [join(directory, "config.json")]);
    await assert.rejects(openModel(directory), { code: "E_CONFIG_MISSING" });
  },
);
