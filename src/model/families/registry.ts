/** Which family describes which `model_type`. Adding a family is one file and one line here. */
import { UsageError } from "../../errors.js";
import { nearestName } from "../../nearest-name.js";
import type { Family } from "../family.js";
import { BLOOM } from "./bloom.js";
import { COHERE } from "./cohere.js";
import { DEEPSEEK_V2 } from "./deepseek-v2.js";
import { FALCON } from "./falcon.js";
import { GEMMA, GEMMA2, GEMMA3_TEXT } from "./gemma.js";
import { GPT_NEOX } from "./gpt-neox.js";
import { GPT2 } from "./gpt2.js";
import { GRANITE } from "./granite.js";
import { LLAMA } from "./llama.js";
import { MISTRAL } from "./mistral.js";
import { MIXTRAL } from "./mixtral.js";
import { OLMO2 } from "./olmo2.js";
import { OPT } from "./opt.js";
import { PHI } from "./phi.js";
import { PHI3 } from "./phi3.js";
import { QWEN2_MOE } from "./qwen2-moe.js";
import { QWEN2 } from "./qwen2.js";
import { QWEN3_MOE } from "./qwen3-moe.js";
import { QWEN3 } from "./qwen3.js";
import { SMOLLM3 } from "./smollm3.js";
import { STABLELM } from "./stablelm.js";

export const FAMILIES: readonly Family[] = [
  LLAMA,
  MISTRAL,
  QWEN2,
  QWEN3,
  GEMMA,
  GEMMA2,
  GEMMA3_TEXT,
  PHI,
  PHI3,
  OPT,
  GPT2,
  GPT_NEOX,
  BLOOM,
  FALCON,
  OLMO2,
  STABLELM,
  GRANITE,
  SMOLLM3,
  COHERE,
  MIXTRAL,
  QWEN2_MOE,
  QWEN3_MOE,
  DEEPSEEK_V2,
];

/** Language models of multimodal checkpoints whose forward over text is exactly a plain family's. */
const LANGUAGE_MODELS: Readonly<Record<string, string>> = {
  qwen2_vl: "qwen2",
  qwen2_vl_text: "qwen2",
  qwen2_5_vl: "qwen2",
  qwen2_5_vl_text: "qwen2",
  qwen3_vl_text: "qwen3",
};

/** All values of `model_type` that a family is taken for. */
export function modelTypesOf({ name, modelTypes }: Family): string[] {
  return [...modelTypes, ...Object.keys(LANGUAGE_MODELS).filter((modelType) => LANGUAGE_MODELS[modelType] === name)];
}

/** The family that describes a `model_type`. */
export function familyOf(modelType: string): Family | undefined {
  return FAMILIES.find((candidate) => modelTypesOf(candidate).includes(modelType));
}

/**
 * The family a user named.
 * @throws UsageError E_FAMILY naming the nearest family and all of them
 */
export function findFamily(name: string): Family {
  const family = FAMILIES.find((candidate) => candidate.name === name);
  if (family !== undefined) return family;
  const names = FAMILIES.map((candidate) => candidate.name);
  const nearest = nearestName(name.toLowerCase(), names);
  throw new UsageError("E_FAMILY", `--family: "${name}" is not a family; known families are ${names.join(", ")}.`, {
    hint: nearest === undefined ? "`prune families` says what each covers." : `Did you mean "${nearest}"?`,
    details: { value: name, known: names },
  });
}
