/** Seed-OSS: llama with biases of q, k, v and a switch of its own for that of the output. */
import { readHeads } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";

export const SEED_OSS = gatedFamily("seed_oss", ["q/k/v bias", "explicit head_dim"], (values) => ({
  heads: readHeads(values, values.count("hidden_size"), 128, 8),
  hasInputBias: values.boolean("attention_bias", true),
  hasOutputBias: values.boolean("attention_out_bias", false),
}));
