/**
 * What the library's configuration classes take where config.json leaves a key out, by `model_type`: a file that says
 * little means these values. Sizes, and what decides the forward; switches that are off everywhere are left to the families.
 *
 * Facts of transformers 5.18, `configuration_*.py`. A key that is there and null means none, not the default.
 */
import type { ModelConfig } from "./config.js";

type Defaults = Readonly<Record<string, number | string | boolean>>;

const LLAMA_SIZES = {
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  hidden_act: "silu",
  max_position_embeddings: 2048,
  tie_word_embeddings: false,
} as const;

const MISTRAL: Defaults = {
  ...LLAMA_SIZES,
  intermediate_size: 14336,
  num_key_value_heads: 8,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
};

const QWEN2: Defaults = {
  ...LLAMA_SIZES,
  vocab_size: 151936,
  intermediate_size: 22016,
  num_key_value_heads: 32,
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-6,
  max_window_layers: 28,
};

/** Multimodal models say whether the head is tied outside of the language model's keys. */
function withoutTying(defaults: Defaults): Defaults {
  const { tie_word_embeddings: _, ...others } = defaults;
  return others;
}

const QWEN2_VL: Defaults = {
  ...withoutTying(QWEN2),
  vocab_size: 152064,
  hidden_size: 8192,
  intermediate_size: 29568,
  num_hidden_layers: 80,
  num_attention_heads: 64,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  max_window_layers: 80,
};

const QWEN2_MOE: Defaults = {
  ...QWEN2,
  hidden_size: 2048,
  intermediate_size: 5632,
  num_hidden_layers: 24,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  moe_intermediate_size: 1408,
  shared_expert_intermediate_size: 5632,
  num_experts_per_tok: 4,
  num_experts: 60,
};

const GEMMA2: Defaults = {
  tie_word_embeddings: true,
  hidden_activation: "gelu_pytorch_tanh",
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
  vocab_size: 256000,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-6,
};

const CLASS_DEFAULTS: Readonly<Record<string, Defaults>> = {
  llama: { ...LLAMA_SIZES, rms_norm_eps: 1e-6 },
  mistral: MISTRAL,
  qwen2: QWEN2,
  qwen2_vl: QWEN2_VL,
  qwen2_vl_text: QWEN2_VL,
  qwen2_5_vl: QWEN2_VL,
  qwen2_5_vl_text: QWEN2_VL,
  qwen3: { ...QWEN2, head_dim: 128 },
  qwen3_vl_text: { ...withoutTying(QWEN2), head_dim: 128, max_position_embeddings: 128000 },
  gemma: {
    tie_word_embeddings: true,
    vocab_size: 256000,
    hidden_size: 3072,
    intermediate_size: 24576,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    head_dim: 256,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-6,
  },
  gemma2: { ...GEMMA2, attn_logit_softcapping: 50, final_logit_softcapping: 30 },
  gemma3_text: { ...GEMMA2, vocab_size: 262208, max_position_embeddings: 131072 },
  gemma3n_text: {
    tie_word_embeddings: true,
    hidden_activation: "gelu_pytorch_tanh",
    sliding_window: 512,
    vocab_size: 262400,
    vocab_size_per_layer_input: 262144,
    hidden_size: 2048,
    hidden_size_per_layer_input: 256,
    intermediate_size: 16384,
    num_hidden_layers: 35,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    head_dim: 256,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    final_logit_softcapping: 30,
    altup_active_idx: 0,
    altup_correct_scale: true,
    altup_num_inputs: 4,
    num_kv_shared_layers: 15,
    laurel_rank: 64,
  },
  phi: {
    tie_word_embeddings: false,
    vocab_size: 51200,
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 24,
    num_attention_heads: 32,
    hidden_act: "gelu_new",
    max_position_embeddings: 2048,
    layer_norm_eps: 1e-5,
  },
  phi3: {
    tie_word_embeddings: false,
    vocab_size: 32064,
    hidden_size: 3072,
    intermediate_size: 8192,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    hidden_act: "silu",
    max_position_embeddings: 4096,
    original_max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
  },
  opt: {
    tie_word_embeddings: true,
    vocab_size: 50272,
    hidden_size: 768,
    num_hidden_layers: 12,
    ffn_dim: 3072,
    max_position_embeddings: 2048,
    num_attention_heads: 12,
    activation_function: "relu",
  },
  gpt2: {
    tie_word_embeddings: true,
    vocab_size: 50257,
    n_positions: 1024,
    n_embd: 768,
    n_layer: 12,
    n_head: 12,
    activation_function: "gelu_new",
    layer_norm_epsilon: 1e-5,
  },
  gpt_neox: {
    tie_word_embeddings: false,
    vocab_size: 50432,
    hidden_size: 6144,
    num_hidden_layers: 44,
    num_attention_heads: 64,
    intermediate_size: 24576,
    hidden_act: "gelu",
    max_position_embeddings: 2048,
    layer_norm_eps: 1e-5,
  },
  bloom: {
    tie_word_embeddings: true,
    vocab_size: 250880,
    hidden_size: 64,
    n_layer: 2,
    n_head: 8,
    layer_norm_epsilon: 1e-5,
  },
  falcon: {
    tie_word_embeddings: true,
    vocab_size: 65024,
    hidden_size: 4544,
    num_hidden_layers: 32,
    num_attention_heads: 71,
    layer_norm_epsilon: 1e-5,
    max_position_embeddings: 2048,
    activation: "gelu",
  },
  olmo2: { ...LLAMA_SIZES, vocab_size: 50304, rms_norm_eps: 1e-5 },
  stablelm: {
    ...LLAMA_SIZES,
    vocab_size: 50304,
    intermediate_size: 6912,
    hidden_size: 2560,
    num_key_value_heads: 32,
    max_position_embeddings: 4096,
    layer_norm_eps: 1e-5,
  },
  granite: { ...LLAMA_SIZES, rms_norm_eps: 1e-6 },
  smollm3: {
    ...LLAMA_SIZES,
    tie_word_embeddings: true,
    vocab_size: 128256,
    hidden_size: 2048,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
  },
  cohere: {
    ...LLAMA_SIZES,
    tie_word_embeddings: true,
    logit_scale: 0.0625,
    vocab_size: 256000,
    hidden_size: 8192,
    intermediate_size: 22528,
    num_hidden_layers: 40,
    num_attention_heads: 64,
    max_position_embeddings: 8192,
    layer_norm_eps: 1e-5,
    rope_theta: 500000,
  },
  mixtral: {
    ...LLAMA_SIZES,
    intermediate_size: 14336,
    num_key_value_heads: 8,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    num_local_experts: 8,
    num_experts_per_tok: 2,
  },
  qwen2_moe: QWEN2_MOE,
  qwen3_moe: {
    ...QWEN2,
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 24,
    num_key_value_heads: 4,
    moe_intermediate_size: 768,
    num_experts_per_tok: 8,
    num_experts: 128,
  },
  deepseek_v2: {
    ...LLAMA_SIZES,
    vocab_size: 102400,
    rms_norm_eps: 1e-6,
    kv_lora_rank: 512,
    q_lora_rank: 1536,
    n_routed_experts: 64,
    n_shared_experts: 2,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: 128,
    moe_intermediate_size: 1407,
  },
};

/** Other names of a key: where one of them is there, the default of the key is not taken. */
const ALIASES: Readonly<Record<string, readonly string[]>> = {
  hidden_size: ["n_embd", "n_embed"],
  n_embd: ["hidden_size"],
  num_hidden_layers: ["n_layer"],
  n_layer: ["num_hidden_layers"],
  num_attention_heads: ["n_head"],
  n_head: ["num_attention_heads"],
  max_position_embeddings: ["n_positions", "n_ctx"],
  n_positions: ["max_position_embeddings", "n_ctx"],
  num_local_experts: ["num_experts"],
};

/** The defaults that a config's language model takes, for want of a key or one of its other names. */
export function missingDefaults(config: Pick<ModelConfig, "values" | "modelType">): Defaults {
  const known = Object.hasOwn(CLASS_DEFAULTS, config.modelType) ? CLASS_DEFAULTS[config.modelType] : {};
  return Object.fromEntries(
    Object.entries(known ?? {}).filter(([key]) =>
      [key, ...(ALIASES[key] ?? [])].every((name) => config.values.raw(name) === undefined),
    ),
  );
}

/** A config in which keys that are left out have their defaults. */
export function withDefaults(config: ModelConfig): ModelConfig {
  const missing = missingDefaults(config);
  if (Object.keys(missing).length === 0) return config; // whoever asks it for keys is known to it
  return { ...config, values: config.values.with(missing) };
}
