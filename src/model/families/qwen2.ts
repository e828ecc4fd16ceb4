/** Qwen2 and 2.5: llama with biases on q, k and v only, and windows that a switch turns on. */
import { readSwitchedWindows } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";

export const QWEN2 = gatedFamily(
  "qwen2",
  ["biases on q, k and v but not on o", "yarn rotary scaling", "sliding window behind a switch"],
  (values) => ({ hasInputBias: true, hasOutputBias: false, windowOf: readSwitchedWindows(values) }),
);
