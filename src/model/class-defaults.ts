/**
 * Keys that config.json leaves out have the values of the library's configuration classes (class-default-values.ts): a file
 * that says little means those. A key that is there and null means none, not the default.
 */
import { CLASS_DEFAULTS, type Defaults } from "./class-default-values.js";
import type { ModelConfig } from "./config.js";
import type { Family } from "./family.js";

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
  d_model: ["hidden_size"],
  n_heads: ["num_attention_heads"],
  n_layers: ["num_hidden_layers"],
  partial_rotary_factor: ["rope_percent"],
  rope_parameters: ["rope_scaling"],
  rope_theta: ["theta"],
  sliding_window_pattern: ["_sliding_window_pattern"],
};

/**
 * The defaults that a config's language model takes, for want of a key or one of its other names.
 * @param family whose class stands in for one that is not known
 */
export function missingDefaults(config: Pick<ModelConfig, "values" | "modelType">, family?: Family): Defaults {
  const known = defaultsOf(config.modelType) ?? defaultsOf(family?.modelTypes[0] ?? "") ?? {};
  const isSaid = (key: string, isObject: boolean): boolean => {
    const value = config.values.peek(key);
    return value !== undefined && !(isObject && value === null);
  };
  return Object.fromEntries(
    Object.entries(known).filter(([key, value]) =>
      [key, ...(ALIASES[key] ?? [])].every((name) => !isSaid(name, typeof value === "object")),
    ),
  );
}

function defaultsOf(modelType: string): Defaults | undefined {
  return Object.hasOwn(CLASS_DEFAULTS, modelType) ? CLASS_DEFAULTS[modelType] : undefined;
}

/** A config in which keys that are left out have their defaults. */
export function withDefaults(config: ModelConfig, family?: Family): ModelConfig {
  const missing = missingDefaults(config, family);
  return { ...config, values: config.values.with(missing) };
}
