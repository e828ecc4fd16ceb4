/** Stored architectures written another way, or as another family has the same tensors. */
import type { TestContext } from "node:test";
import { fixturePath, readJson } from "./architectures.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "./checkpoints.js";
import { readTensors, type StoredTensor } from "./tensors.js";

type Tensors = Record<string, TestTensor>;

function floats({ shape, values }: Pick<StoredTensor, "shape"> & { readonly values: Iterable<number> }): TestTensor {
  return { dtype: "F32", shape, values: Float32Array.from(values) };
}

async function write(t: TestContext, tensors: Tensors, config: object): Promise<string> {
  const directory = temporaryDirectory(t);
  await writeCheckpoint(directory, { tensors, config });
  return directory;
}

const EXPERT = /^(.*)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$/;

/** Experts that are stored one by one as the newer libraries hold them: [experts, out, in], gate before up. */
export async function stackExperts(t: TestContext, folder: string): Promise<string> {
  const tensors: Tensors = {};
  const stacks = new Map<string, StoredTensor[][]>();
  for (const [name, tensor] of readTensors(fixturePath(folder, "model.safetensors"))) {
    const match = EXPERT.exec(name);
    if (match === null) {
      tensors[name.replace(".block_sparse_moe.", ".mlp.")] = floats(tensor);
      continue;
    }
    const [, block = "", expert = "", linear = ""] = match;
    const isDown = linear === "down_proj" || linear === "w2";
    const stack = `${block}.mlp.experts.${isDown ? "down_proj" : "gate_up_proj"}`;
    const parts = (stacks.get(stack) ?? stacks.set(stack, []).get(stack)) as StoredTensor[][];
    (parts[Number(expert)] ??= [])[linear === "up_proj" || linear === "w3" ? 1 : 0] = tensor;
  }
  for (const [name, experts] of stacks) {
    const [rows = 0, columns = 0] = experts[0]?.[0]?.shape ?? [];
    const values = experts.flatMap((parts) => parts.flatMap((part) => [...part.values]));
    tensors[name] = floats({ shape: [experts.length, rows * (experts[0]?.length ?? 0), columns], values });
  }
  return write(t, tensors, readJson<object>(fixturePath(folder, "config.json")));
}

/**
 * DeepSeek-V2's fixture as a DeepSeek-V3: with corrections of the router's scores, the router's keys, and a layer that
 * predicts a further token.
 */
export async function deepseekV3(t: TestContext, changes: object = {}): Promise<string> {
  const {
    topk_method: _,
    scoring_func: __,
    ...config
  } = readJson<Record<string, unknown>>(fixturePath("deepseek_v2", "config.json"));
  const tensors: Tensors = {};
  for (const [name, tensor] of readTensors(fixturePath("deepseek_v2", "model.safetensors"))) {
    tensors[name] = floats(tensor);
    if (!name.endsWith(".mlp.gate.weight")) continue;
    const shape = tensor.shape.slice(0, 1);
    const values = Array.from({ length: shape[0] ?? 0 }, (__, expert) => 0.2 * Math.cos(expert * 2.3));
    tensors[name.replace(".weight", ".e_score_correction_bias")] = floats({ shape, values });
  }
  const further = `model.layers.${Number(config["num_hidden_layers"])}`;
  for (const name of Object.keys(tensors).filter((each) => each.startsWith("model.layers.1.")))
    tensors[name.replace("model.layers.1", further)] = tensors[name] as TestTensor;
  const router = { norm_topk_prob: true, routed_scaling_factor: 2.5, num_nextn_predict_layers: 1 };
  return write(t, tensors, { ...config, model_type: "deepseek_v3", ...router, ...changes });
}
