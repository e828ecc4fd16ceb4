/**
 * Seeded random llama blocks of any width, for what only wide linears reach: several panels of a Gram matrix, pieces of
 * an embedding table, long spectra.
 */
import { mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeHeader } from "../../src/checkpoint/header.js";
import type { TokenSource } from "../../src/contract.js";
import { createRandom, normals } from "../reference/random.js";
import { encodeSafetensors, writeCheckpoint, type TestTensor } from "./checkpoints.js";

export interface SyntheticLlama {
  readonly hidden?: number;
  /** Inputs of the down projection. */
  readonly intermediate?: number;
  readonly vocabulary?: number;
  readonly seed?: number;
  readonly blocks?: number;
  /** As `TestCheckpoint`. */
  readonly shards?: number;
  readonly files?: Readonly<Record<string, string>>;
}

const HEADS = 2;

/** Write a checkpoint of bf16 blocks, by default one, with tied embeddings and no tokenizer: it takes token ids. */
export async function writeSyntheticLlama(directory: string, model: SyntheticLlama = {}): Promise<void> {
  const { hidden = 64, intermediate = 1200, vocabulary = 96, seed = 1, blocks = 1, ...layout } = model;
  let next = seed;
  const random = (rows: number, columns: number): TestTensor => {
    const scale = 1 / Math.sqrt(columns);
    const values = normals(rows * columns, next++).map((value) => scale * value);
    return { dtype: "BF16", shape: [rows, columns], values };
  };
  const ones = (): TestTensor => ({ dtype: "BF16", shape: [hidden], values: new Float32Array(hidden).fill(1) });
  const tensorsOf = (block: string): Record<string, TestTensor> => ({
    [`${block}.input_layernorm.weight`]: ones(),
    [`${block}.self_attn.q_proj.weight`]: random(hidden, hidden),
    [`${block}.self_attn.k_proj.weight`]: random(hidden, hidden),
    [`${block}.self_attn.v_proj.weight`]: random(hidden, hidden),
    [`${block}.self_attn.o_proj.weight`]: random(hidden, hidden),
    [`${block}.post_attention_layernorm.weight`]: ones(),
    [`${block}.mlp.gate_proj.weight`]: random(intermediate, hidden),
    [`${block}.mlp.up_proj.weight`]: random(intermediate, hidden),
    [`${block}.mlp.down_proj.weight`]: random(hidden, intermediate),
  });
  const tensors = { "model.embed_tokens.weight": random(vocabulary, hidden) };
  for (let index = 0; index < blocks; index++) Object.assign(tensors, tensorsOf(`model.layers.${index}`));
  await writeCheckpoint(directory, {
    ...layout,
    tensors: { ...tensors, "model.norm.weight": ones() },
    config: {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: hidden,
      intermediate_size: intermediate,
      num_hidden_layers: blocks,
      num_attention_heads: HEADS,
      num_key_value_heads: HEADS,
      head_dim: hidden / HEADS,
      hidden_act: "silu",
      max_position_embeddings: 2048,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      tie_word_embeddings: true,
      torch_dtype: "bfloat16",
      vocab_size: vocabulary,
    },
  });
}

/** Write `sequences` rows of random ids below `vocabulary` beside a model; what a run calibrates on. */
export async function writeRandomIds(
  directory: string,
  { sequences, tokens, vocabulary = 96, seed = 1 }: Readonly<Record<"sequences" | "tokens", number>> & SyntheticLlama,
): Promise<TokenSource> {
  const random = createRandom(seed);
  const ids = Int32Array.from({ length: sequences * tokens }, () => Math.floor(vocabulary * random()));
  const file = join(directory, "ids.safetensors");
  const calib = { dtype: "I32", shape: [sequences, tokens], values: new Uint8Array(ids.buffer) };
  await writeFile(file, encodeSafetensors({ calib }));
  return { file, tensor: "calib" };
}

/** Shape of Llama 3 70B. */
const LARGE = {
  ...{ hidden_size: 8192, intermediate_size: 28672, num_hidden_layers: 80, num_attention_heads: 64 },
  ...{ num_key_value_heads: 8, vocab_size: 128256, max_position_embeddings: 8192, rope_theta: 500000 },
  ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], hidden_act: "silu", rms_norm_eps: 1e-5 },
  ...{ tie_word_embeddings: false, torch_dtype: "bfloat16" },
};

/** A checkpoint of that shape, 141 GB, of which the headers alone are on the disk: all else is holes, which read as zeros. */
export async function writeSparseLarge(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const { hidden_size: hidden, intermediate_size: wide, vocab_size: vocabulary, num_hidden_layers: layers } = LARGE;
  const narrow = (hidden / LARGE.num_attention_heads) * LARGE.num_key_value_heads;
  const block: readonly (readonly [role: string, shape: readonly number[]])[] = [
    ["input_layernorm.weight", [hidden]],
    ["self_attn.q_proj.weight", [hidden, hidden]],
    ["self_attn.k_proj.weight", [narrow, hidden]],
    ["self_attn.v_proj.weight", [narrow, hidden]],
    ["self_attn.o_proj.weight", [hidden, hidden]],
    ["post_attention_layernorm.weight", [hidden]],
    ["mlp.gate_proj.weight", [wide, hidden]],
    ["mlp.up_proj.weight", [wide, hidden]],
    ["mlp.down_proj.weight", [hidden, wide]],
  ];
  const ends = ["model.embed_tokens.weight", "lm_head.weight"].map((name) => [name, [vocabulary, hidden]] as const);
  const shards = [
    [...ends, ["model.norm.weight", [hidden]] as const],
    ...Array.from({ length: layers }, (_, index) =>
      block.map(([role, shape]) => [`model.layers.${index}.${role}`, shape] as const),
    ),
  ];
  const shardOf: Record<string, string> = {};
  for (const [index, tensors] of shards.entries()) {
    const file = `model-${String(index + 1).padStart(5, "0")}-of-${String(shards.length).padStart(5, "0")}.safetensors`;
    const layouts = tensors.map(([name, shape]) => {
      shardOf[name] = file;
      return { name, dtype: "BF16", shape, byteLength: 2 * shape.reduce((a, b) => a * b, 1) };
    });
    const { bytes } = encodeHeader(layouts);
    await writeFile(join(directory, file), bytes);
    await truncate(join(directory, file), bytes.length + layouts.reduce((sum, { byteLength }) => sum + byteLength, 0));
  }
  await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify({ weight_map: shardOf }));
  await writeFile(join(directory, "config.json"), JSON.stringify(LARGE));
}
