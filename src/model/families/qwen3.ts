/** Qwen3: every query and key head is normed before rotation; windows behind a switch. */
import { readSwitchedWindows } from "../decoder-config.js";
import { gatedFamily, perHeadNorm, readRmsNorm } from "../gated-decoder.js";

export const QWEN3 = gatedFamily(
  "qwen3",
  ["RMS norm of every query and key head", "explicit head_dim", "sliding window on some layers"],
  (values) => ({ headNorm: perHeadNorm(readRmsNorm(values)), windowOf: readSwitchedWindows(values) }),
);
