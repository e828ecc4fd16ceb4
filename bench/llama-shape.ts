/** A Llama of 1.1B parameters as config and tensors, for benchmarks: hidden 2048, 32 heads over 4 key/value heads. */
import { mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeHeader } from "../src/checkpoint/header.js";
import { ConfigObject, type ModelConfig } from "../src/model/config.js";
import { LLAMA } from "../src/model/families/llama.js";
import type { Architecture } from "../src/model/architecture.js";

export interface SyntheticShape {
  readonly blocks: number;
  readonly vocabulary: number;
}

export function syntheticConfig({ blocks, vocabulary }: SyntheticShape): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: 2048,
    intermediate_size: 5632,
    num_hidden_layers: blocks,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    vocab_size: vocabulary,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: false,
    torch_dtype: "bfloat16",
  };
}

export function syntheticArchitecture(shape: SyntheticShape): Architecture {
  const values = syntheticConfig(shape);
  const config: ModelConfig = {
    values: new ConfigObject(values, "config.json"),
    modelType: "llama",
    text: JSON.stringify(values),
  };
  return LLAMA.describe(
    config,
    () => true,
    () => undefined,
  );
}

const PATTERN_BYTES = 2 ** 24;

/** bf16 normals of standard deviation 0.02, repeated: enough variety for timing, cheap to write. */
function weightPattern(): Uint8Array {
  const values = new Uint16Array(PATTERN_BYTES / 2);
  const single = new Float32Array(1);
  const bits = new Uint32Array(single.buffer);
  for (let i = 0; i < values.length; i++) {
    single[0] = 0.02 * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    values[i] = (bits[0] as number) >>> 16;
  }
  return new Uint8Array(values.buffer);
}

/** Write a checkpoint of random bf16 weights: one shard per four blocks. */
export async function writeSyntheticCheckpoint(directory: string, shape: SyntheticShape): Promise<void> {
  await mkdir(directory, { recursive: true });
  const architecture = syntheticArchitecture(shape);
  const pattern = weightPattern();
  const vocabulary = [architecture.vocabularySize, architecture.hiddenSize];
  const shards: { name: string; shape: readonly number[] }[][] = [
    [{ name: architecture.embedding, shape: vocabulary }],
  ];
  for (let first = 0; first < architecture.blocks.length; first += 4) {
    const blocks = architecture.blocks.slice(first, first + 4);
    shards.push(
      blocks.flatMap((block) =>
        [...block.tensors.values()].map(({ tensor, shape: size }) => ({ name: tensor, shape: size })),
      ),
    );
  }
  shards.push([
    { name: "lm_head.weight", shape: vocabulary },
    { name: "model.norm.weight", shape: [architecture.hiddenSize] },
  ]);
  const weightMap: Record<string, string> = {};
  for (const [index, tensors] of shards.entries()) {
    const file = `model-${String(index + 1).padStart(5, "0")}-of-${String(shards.length).padStart(5, "0")}.safetensors`;
    for (const { name } of tensors) weightMap[name] = file;
    const header = encodeHeader(
      tensors.map(({ name, shape: size }) => ({
        name,
        dtype: "BF16",
        shape: size,
        byteLength: 2 * size.reduce((a, b) => a * b, 1),
      })),
    );
    await using handle = await open(join(directory, file), "w");
    await handle.write(header.bytes);
    for (const { begin, end } of header.tensors) {
      for (let done = begin; done < end; done += PATTERN_BYTES)
        await handle.write(pattern.subarray(0, Math.min(PATTERN_BYTES, end - done)));
    }
  }
  await writeFile(join(directory, "config.json"), JSON.stringify(syntheticConfig(shape)));
  await writeFile(
    join(directory, "model.safetensors.index.json"),
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  );
}
