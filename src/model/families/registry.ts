/** Which family describes which `model_type`. Adding a family is one file and one line here. */
import { UsageError } from "../../errors.js";
import { nearestName } from "../../nearest-name.js";
import type { Family } from "../family.js";
import { APERTUS } from "./apertus.js";
import { ARCEE } from "./arcee.js";
import { BLOOM } from "./bloom.js";
import { COHERE, COHERE2 } from "./cohere.js";
import { DEEPSEEK_V2 } from "./deepseek-v2.js";
import { DEEPSEEK_V3 } from "./deepseek-v3.js";
import { DOTS1 } from "./dots1.js";
import { ERNIE4_5 } from "./ernie4-5.js";
import { ERNIE4_5_MOE } from "./ernie4-5-moe.js";
import { EXAONE4 } from "./exaone4.js";
import { FALCON } from "./falcon.js";
import { GEMMA, GEMMA2, GEMMA3_TEXT } from "./gemma.js";
import { GEMMA3N_TEXT } from "./gemma3n.js";
import { GLM4 } from "./glm4.js";
import { GLM4_MOE } from "./glm4-moe.js";
import { GPT_BIGCODE } from "./gpt-bigcode.js";
import { GPT_NEOX } from "./gpt-neox.js";
import { GPT2 } from "./gpt2.js";
import { GPT_OSS } from "./gpt-oss.js";
import { GPTJ, CODEGEN } from "./gptj.js";
import { GRANITE } from "./granite.js";
import { GRANITEMOE, GRANITEMOESHARED } from "./granitemoe.js";
import { HUNYUAN_V1_DENSE, HUNYUAN_V1_MOE } from "./hunyuan.js";
import { LFM2 } from "./lfm2.js";
import { LLAMA } from "./llama.js";
import { LLAMA4_TEXT } from "./llama4.js";
import { MINIMAX_M2 } from "./minimax-m2.js";
import { MINIMAX } from "./minimax.js";
import { MINISTRAL, MINISTRAL3 } from "./ministral.js";
import { MISTRAL } from "./mistral.js";
import { MIXTRAL } from "./mixtral.js";
import { MPT } from "./mpt.js";
import { NEMOTRON } from "./nemotron.js";
import { OLMO2 } from "./olmo2.js";
import { OLMO3 } from "./olmo3.js";
import { OLMOE, FLEX_OLMO } from "./olmoe.js";
import { OPT } from "./opt.js";
import { PHI } from "./phi.js";
import { PHI3 } from "./phi3.js";
import { PHIMOE } from "./phimoe.js";
import { QWEN2_MOE } from "./qwen2-moe.js";
import { QWEN2 } from "./qwen2.js";
import { QWEN3_MOE } from "./qwen3-moe.js";
import { QWEN3_5_MOE_TEXT, QWEN3_5_TEXT, QWEN3_NEXT } from "./qwen3-next.js";
import { QWEN3 } from "./qwen3.js";
import { SEED_OSS } from "./seed-oss.js";
import { SMOLLM3 } from "./smollm3.js";
import { STABLELM } from "./stablelm.js";
import { STARCODER2 } from "./starcoder2.js";

export const FAMILIES: readonly Family[] = [
  LLAMA,
  MISTRAL,
  QWEN2,
  QWEN3,
  GEMMA,
  GEMMA2,
  GEMMA3_TEXT,
  GEMMA3N_TEXT,
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
  COHERE2,
  MIXTRAL,
  QWEN2_MOE,
  QWEN3_MOE,
  DEEPSEEK_V2,
  ERNIE4_5,
  GLM4,
  GLM4_MOE,
  DOTS1,
  DEEPSEEK_V3,
  SEED_OSS,
  HUNYUAN_V1_DENSE,
  HUNYUAN_V1_MOE,
  ARCEE,
  MINISTRAL,
  MINISTRAL3,
  EXAONE4,
  OLMO3,
  OLMOE,
  FLEX_OLMO,
  ERNIE4_5_MOE,
  MINIMAX_M2,
  PHIMOE,
  GRANITEMOE,
  GRANITEMOESHARED,
  NEMOTRON,
  APERTUS,
  STARCODER2,
  GPTJ,
  CODEGEN,
  GPT_BIGCODE,
  MPT,
  GPT_OSS,
  LLAMA4_TEXT,
  QWEN3_NEXT,
  QWEN3_5_TEXT,
  QWEN3_5_MOE_TEXT,
  LFM2,
  MINIMAX,
];

/** Language models of multimodal checkpoints whose forward over text is exactly a plain family's. */
const LANGUAGE_MODELS: Readonly<Record<string, string>> = {
  qwen2_vl: "qwen2",
  qwen2_vl_text: "qwen2",
  qwen2_5_vl: "qwen2",
  qwen2_5_vl_text: "qwen2",
  qwen3_vl_text: "qwen3",
};

/** Models that were released with a family's layout, for whom reads the list; not all of them, none where absent. */
const RELEASED: Readonly<Record<string, readonly string[]>> = {
  llama: ["Llama 2", "Llama 3, 3.1 and 3.2", "TinyLlama", "SmolLM2", "Yi"],
  mistral: ["Mistral 7B", "Mistral NeMo", "Mistral Small 24B"],
  qwen2: ["Qwen2", "Qwen2.5", "QwQ 32B", "DeepSeek-R1-Distill-Qwen"],
  qwen3: ["Qwen3 0.6B to 32B"],
  gemma: ["Gemma 2B and 7B", "CodeGemma"],
  gemma2: ["Gemma 2"],
  gemma3_text: ["Gemma 3"],
  gemma3n_text: ["Gemma 3n E2B and E4B"],
  phi: ["Phi-1, 1.5 and 2"],
  phi3: ["Phi-3 mini and medium", "Phi-3.5 mini", "Phi-4"],
  opt: ["OPT"],
  gpt2: ["GPT-2", "DistilGPT2"],
  gpt_neox: ["GPT-NeoX-20B", "Pythia"],
  bloom: ["BLOOM", "BLOOMZ"],
  falcon: ["Falcon 7B, 40B and 180B"],
  olmo2: ["OLMo 2"],
  stablelm: ["StableLM 3B", "StableLM 2 1.6B and 12B"],
  granite: ["Granite 3.0 to 3.3, dense"],
  smollm3: ["SmolLM3 3B"],
  cohere: ["Command R and R+", "Aya 23"],
  cohere2: ["Command R7B", "Command A"],
  gpt_oss: ["gpt-oss 20b and 120b"],
  llama4_text: ["Llama 4 Scout and Maverick"],
  qwen3_next: ["Qwen3-Next-80B-A3B"],
  qwen3_5_text: ["Qwen3.5, dense"],
  qwen3_5_moe_text: ["Qwen3.5-35B-A3B"],
  lfm2: ["LFM2 350M to 2.6B"],
  minimax: ["MiniMax-Text-01"],
  mixtral: ["Mixtral 8x7B and 8x22B"],
  qwen2_moe: ["Qwen1.5-MoE-A2.7B", "Qwen2-57B-A14B"],
  qwen3_moe: ["Qwen3-30B-A3B", "Qwen3-235B-A22B"],
  deepseek_v2: ["DeepSeek-V2 and V2-Lite", "DeepSeek-Coder-V2"],
  ernie4_5: ["ERNIE-4.5-0.3B"],
  glm4: ["GLM-4-9B-0414", "GLM-4-32B-0414", "GLM-Z1"],
  glm4_moe: ["GLM-4.5", "GLM-4.5-Air", "GLM-4.6"],
  dots1: ["dots.llm1"],
  deepseek_v3: ["DeepSeek-V3", "DeepSeek-R1"],
  seed_oss: ["Seed-OSS-36B"],
  hunyuan_v1_dense: ["Hunyuan 0.5B, 1.8B, 4B and 7B"],
  hunyuan_v1_moe: ["Hunyuan-A13B"],
  arcee: ["AFM-4.5B"],
  ministral3: ["Ministral 3 3B, 8B and 14B"],
  exaone4: ["EXAONE 4.0 1.2B and 32B"],
  olmo3: ["Olmo 3 7B and 32B"],
  olmoe: ["OLMoE-1B-7B"],
  flex_olmo: ["FlexOlmo-7x7B-1T"],
  ernie4_5_moe: ["ERNIE-4.5-21B-A3B", "ERNIE-4.5-300B-A47B"],
  minimax_m2: ["MiniMax-M2"],
  phimoe: ["Phi-3.5-MoE"],
  granitemoe: ["Granite 3.0 and 3.1 1B-A400M and 3B-A800M"],
  granitemoeshared: ["moe-7b-1b-active-shared-experts"],
  nemotron: ["Minitron-4B and 8B", "Nemotron-Mini-4B"],
  apertus: ["Apertus 8B and 70B"],
  starcoder2: ["StarCoder2 3B, 7B and 15B"],
  gptj: ["GPT-J-6B"],
  codegen: ["CodeGen 350M to 16B"],
  gpt_bigcode: ["SantaCoder", "StarCoder"],
  mpt: ["MPT-7B and 30B"],
};

export function releasedModelsOf({ name }: Family): readonly string[] {
  return RELEASED[name] ?? [];
}

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
