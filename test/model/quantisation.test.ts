/** Quantised checkpoints are refused by their kind; what only says so, and what the index forgets, is passed over aloud. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { CheckpointError } from "../../src/errors.js";
import { createMemoryLogger } from "../../src/logging.js";
import { openModel } from "../../src/model/open-model.js";
import { copyFixture, fixtures } from "../helpers/architectures.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

const bytes = (dtype: string, width: number): TestTensor => ({ dtype, shape: [4], values: new Uint8Array(4 * width) });
const MODULE = "model.layers.0.mlp.up_proj";

test("the kind of a quantisation is told by config.json, and by what the tensors are called", async (t) => {
  const kinds: readonly (readonly [object, Record<string, TestTensor>, RegExp])[] = [
    [
      { quant_method: "gptq", bits: 4 },
      { qweight: bytes("I32", 4), g_idx: bytes("I32", 4) },
      /quantization_config gptq; tensors as of GPTQ,/,
    ],
    [
      { quant_method: "awq" },
      { qweight: bytes("I32", 4), qzeros: bytes("I32", 4) },
      /quantization_config awq; tensors as of GPTQ or AWQ/,
    ],
    [
      { load_in_4bit: true },
      { weight: bytes("U8", 1), "weight.absmax": bytes("F32", 4) },
      /bitsandbytes; tensors as of bitsandbytes, 4 bits/,
    ],
    [{ quant_method: "bitsandbytes" }, { weight: bytes("I8", 1), SCB: bytes("F32", 4) }, /bitsandbytes, 8 bits/],
    [
      { quant_method: "fp8" },
      { weight: bytes("F8_E4M3", 1), weight_scale_inv: bytes("F32", 4) },
      /config fp8; tensors as of FP8 or INT8/,
    ],
    [{ quant_method: "compressed-tensors" }, { weight_packed: bytes("I32", 4) }, /tensors as of compressed-tensors/],
    [{ quant_method: "mxfp4" }, { gate_up_proj_blocks: bytes("U8", 1) }, /tensors as of MXFP4/],
  ];
  for (const [quantization_config, tensors, message] of kinds)
    for (const config of [{ model_type: "llama", quantization_config }, { model_type: "llama" }]) {
      const directory = temporaryDirectory(t);
      const named = Object.entries(tensors).map(([name, tensor]) => [`${MODULE}.${name}`, tensor]);
      await writeCheckpoint(directory, { config, tensors: Object.fromEntries(named) as typeof tensors });
      const said = "quantization_config" in config;
      await assert.rejects(openModel(directory), (error: unknown) => {
        assert.ok(error instanceof CheckpointError && error.code === "E_QUANTISED", String(error));
        if (said) assert.match(error.message, message);
        else assert.match(error.message, /quantised \(tensors as of /);
        assert.match(error.hint ?? "", /dequantise/);
        return true;
      });
    }
});

test("an incomplete checkpoint with a buffer of integers is not called quantised", async (t) => {
  const directory = temporaryDirectory(t);
  const tensors = { [`${MODULE}.weight`]: bytes("F32", 4), "model.position_ids": bytes("I64", 8) };
  await writeCheckpoint(directory, { config: { model_type: "llama" }, tensors });
  await assert.rejects(openModel(directory), { code: "E_TENSORS" });
});

async function llamaWith(t: TestContext, changes: object): Promise<string> {
  const fixture = fixtures().find(({ folder }) => folder === "llama");
  assert.ok(fixture);
  const directory = await copyFixture(t, fixture, "config.json");
  const file = join(directory, "config.json");
  writeFileSync(file, JSON.stringify({ ...(JSON.parse(readFileSync(file, "utf8")) as object), ...changes }));
  return directory;
}

test("a quantisation that no tensor knows of is passed over with a note, and believed where tensors do not fit", async (t) => {
  const quantization_config = { quant_method: "fbgemm_fp8" };
  const logger = createMemoryLogger();
  await using model = await openModel(await llamaWith(t, { quantization_config }), { logger });
  assert.equal(model.architecture.family, "llama");
  assert.ok(logger.lines.some(({ message }) => message.includes("quantization_config, but the weights are floats")));
  const unfit = await llamaWith(t, { quantization_config, intermediate_size: 1 });
  await assert.rejects(openModel(unfit), { code: "E_QUANTISED", message: /quantization_config fbgemm_fp8\)/ });
});

test("tensors that the index leaves out are told of", async (t) => {
  const directory = await llamaWith(t, {});
  const file = join(directory, "model.safetensors.index.json");
  const index = JSON.parse(readFileSync(file, "utf8")) as { weight_map: Record<string, string> };
  delete index.weight_map["model.norm.weight"];
  writeFileSync(file, JSON.stringify(index));
  const logger = createMemoryLogger();
  await using model = await openModel(directory, { logger });
  assert.deepEqual(model.checkpoint.unlisted, ["model.norm.weight"]);
  const warnings = logger.lines.filter(({ level }) => level === "warn").map(({ message }) => message);
  assert.match(warnings.join(), /index does not list model\.norm\.weight, which the shards hold/);
});
