/** Seed-OSS: llama with biases of q, k, v and a switch of its own for that of the output. */
import { gatedFamily } from "../gated-decoder.js";

export const SEED_OSS = gatedFamily("seed_oss", ["q/k/v bias", "explicit head_dim"], (values) => ({
  hasInputBias: values.boolean("attention_bias"),
  hasOutputBias: values.boolean("attention_out_bias", false),
}));
