/**
 * What `prune families` and docs/families.md say: the families, their model types, what each exercises, and which
 * linears of a block are pruned in which order. The last is read from each family's own description of a small model,
 * so that it cannot differ from what a run does. Opens no checkpoint.
 */
import { PruneError } from "../errors.js";
import { buildBlockGraph } from "../forward/block-graph.js";
import { buildStepGraph } from "../forward/step-graph.js";
import { gradientOf } from "../graph/gradient.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import { withDefaults } from "../model/class-defaults.js";
import { ConfigObject } from "../model/config.js";
import { channelGroup } from "../model/cut-tensors.js";
import { FAMILIES, modelTypesOf, releasedModelsOf } from "../model/families/registry.js";
import type { Family } from "../model/family.js";
import { formatTable } from "./format.js";

/** Stages → groups → linears, by module path within the block; "*" stands for every expert. */
export type PrunableStages = readonly (readonly (readonly string[])[])[];

export interface FamilyReport {
  readonly name: string;
  /** Values of config.json's model_type. */
  readonly modelTypes: readonly string[];
  readonly exercises: readonly string[];
  /** Some models that were released with this layout. */
  readonly models: readonly string[];
  /**
   * Tensors, besides gains, biases, the embedding and the head, that no method prunes: of a block routers, gates, corrections of
   * scores, …, by their names within it; learned positions and what else stands in front of the blocks and behind them.
   */
  readonly dense: readonly string[];
  /** What beyond pruning layer by layer can be done with it: methods and steps that look at gradients; calibration text of its own. */
  readonly gradients: boolean;
  readonly generation: boolean;
  /** What of it a part can be without, by `prune cut`: "blocks", "experts", "channels". */
  readonly cuts: readonly string[];
  /** One entry per kind of block, as the family has them by default. */
  readonly blocks: readonly PrunableStages[];
}

/** `--json` of `prune families`. */
export interface FamiliesReport {
  readonly schema: "prune.families/v1";
  readonly families: readonly FamilyReport[];
}

/** Keys of every family side by side: a family reads its own and takes its defaults for the rest. */
const SMALL_CONFIG: Readonly<Record<string, unknown>> = {
  vocab_size: 32,
  vocab_size_per_layer_input: 32,
  hidden_size: 16,
  n_embd: 16,
  num_hidden_layers: 2,
  n_layer: 2,
  num_attention_heads: 2,
  num_key_value_heads: 2,
  n_head: 4,
  rotary_dim: 4,
  intermediate_size: 24,
  ffn_dim: 24,
  max_position_embeddings: 32,
  n_positions: 32,
  moe_intermediate_size: 8,
  num_experts: 4,
  num_local_experts: 4,
  n_routed_experts: 4,
  num_experts_per_tok: 2,
  mlp_only_layers: [0],
  moe_num_experts: 4,
  moe_k: 2,
  n_group: 2,
  topk_group: 1,
  shared_expert_intermediate_size: 8,
  shared_intermediate_size: 8,
  n_shared_experts: 1,
  first_k_dense_replace: 1,
  kv_lora_rank: 8,
  q_lora_rank: 8,
  qk_nope_head_dim: 4,
  qk_rope_head_dim: 4,
  v_head_dim: 4,
  full_attention_interval: 2,
  full_attn_idxs: [1],
  interleave_moe_layer_step: 2,
  hidden_size_per_layer_input: 4,
  laurel_rank: 4,
  num_kv_shared_layers: 1,
};

export function describeFamilies(): FamiliesReport {
  return { schema: "prune.families/v1", families: FAMILIES.map(reportOf) };
}

function reportOf(family: Family): FamilyReport {
  const { name, exercises } = family;
  const modelTypes = modelTypesOf(family);
  const [modelType = name] = modelTypes;
  const values = new ConfigObject(SMALL_CONFIG, `a small ${name}`);
  const architecture = family.describe(
    withDefaults({ values, modelType, text: "" }, family),
    () => false,
    () => undefined,
  );
  const blocks = [...new Map(architecture.blocks.map((block) => [block.shapeKey, block])).values()];
  const kinds = new Map(blocks.map((block) => [JSON.stringify(stagesOf(block)), stagesOf(block)]));
  return {
    name,
    modelTypes,
    exercises,
    models: releasedModelsOf(family),
    dense: [...new Set([...blocks.flatMap(denseTensors), ...denseEnds(architecture)])],
    gradients: blocks.every((block) => isPossible(() => gradientGraph(architecture, block))),
    generation: isPossible(() => {
      for (const block of blocks) buildStepGraph(architecture, block);
    }),
    cuts: cutsOf(family, blocks),
    blocks: [...kinds.values()],
  };
}

function cutsOf({ edit }: Family, blocks: readonly BlockSpec[]): string[] {
  if (edit === undefined) return [];
  const hasExperts = edit.experts !== undefined && blocks.some(({ experts }) => experts !== undefined);
  const hasChannels = edit.width !== undefined && blocks.some((block) => channelGroup(block) !== undefined);
  return ["blocks", ...(hasExperts ? ["experts"] : []), ...(hasChannels ? ["channels"] : [])];
}

function gradientGraph(architecture: Architecture, block: BlockSpec): void {
  const forward = buildBlockGraph(architecture, block, { hidden: true, taps: undefined });
  gradientOf(forward, { of: ["hidden", ...block.tensors.keys()], through: ["output"] });
}

/** Whether a graph can be written. */
function isPossible(write: () => unknown): boolean {
  try {
    write();
    return true;
  } catch (error) {
    if (error instanceof PruneError) return false;
    throw error;
  }
}

function denseTensors({ tensors, groups }: BlockSpec): string[] {
  const pruned = new Set(groups.flatMap(({ linears }) => linears.map(({ role }) => role)));
  const isGainOrBias = (role: string, rank: number): boolean => rank === 1 && /\.(weight|bias)$/.test(role);
  return [...tensors].flatMap(([role, { shape }]) =>
    pruned.has(role) || isGainOrBias(role, shape.length) ? [] : [role.replace(/\.weight$/, "")],
  );
}

function denseEnds({ sideTables, prologue, head }: Architecture): string[] {
  const matrices = [...(prologue?.tensors.values() ?? []), ...head.tensors.values()].filter(
    ({ shape }) => shape.length > 1,
  );
  return [...sideTables, ...matrices].map(({ tensor }) => tensor.replace(/\.weight$/, "").replace(/\.\d+$/, ".*"));
}

function stagesOf(block: BlockSpec): PrunableStages {
  const stages: Map<string, readonly string[]>[] = [];
  for (const { stage, linears } of block.groups) {
    const names = linears.map(({ name }) => name.slice(block.name.length + 1).replace(/(\.experts)\.\d+\./, "$1.*."));
    (stages[stage] ??= new Map()).set(names.join(" "), names); // all experts give the same entry
  }
  return stages.map((groups) => [...groups.values()]);
}

/** "[q k v] → [o]": groups in brackets, stages in order. */
export function formatStages(stages: PrunableStages): string {
  return stages.map((groups) => groups.map((linears) => `[${linears.join(" ")}]`).join(", ")).join(" → ");
}

export function renderFamilies({ families }: FamiliesReport): string {
  const rows = families.map(({ name, modelTypes, exercises }) => [name, modelTypes.join(", "), exercises.join("; ")]);
  const table = formatTable(["family", "model_type", "exercises"], rows);
  const groups = families.map(
    ({ name, blocks }) => `${name}\n${blocks.map((stages) => `  ${formatStages(stages)}`).join("\n")}`,
  );
  return `${table}\n\nPrunable linears of a block; those in brackets share one input, arrows separate stages:\n\n${groups.join("\n")}`;
}

/** The text of docs/families.md. */
export function familiesDocument({ families }: FamiliesReport): string {
  const sections = families.map(
    ({ name, modelTypes, exercises, models, dense, gradients, generation, cuts, blocks }) => {
      const features = [...(gradients ? ["gradients"] : []), ...(generation ? ["generation"] : [])];
      const stages = blocks.map((block) => `  - \`${formatStages(block)}\``);
      return [
        `## ${name}`,
        "",
        `- \`model_type\`: ${modelTypes.map((type) => `\`${type}\``).join(", ")}`,
        ...(exercises.length === 0 ? [] : [`- exercises: ${exercises.join("; ")}`]),
        ...(models.length === 0 ? [] : [`- models: ${models.join("; ")}`]),
        `- whole-run features: ${features.length === 0 ? "none" : features.join(", ")}`,
        `- structured edits: ${cuts.length === 0 ? "none" : cuts.join(", ")}`,
        ...(dense.length === 0 ? [] : [`- never pruned: ${dense.map((role) => `\`${role}\``).join(", ")}`]),
        `- prunable linears of a block${blocks.length > 1 ? ", by kind of block" : ""}:`,
        ...stages,
        "",
      ].join("\n");
    },
  );
  return `${INTRODUCTION}\n${sections.join("\n")}`;
}

const INTRODUCTION = `# Families

<!-- Generated by scripts/generate-families.mjs from the families' own descriptions; do not edit. -->

What \`prune families\` prints. A checkpoint is read by the family of its \`model_type\` in config.json, or by the one that
\`--family\` names. In a multimodal checkpoint that is the \`model_type\` of \`text_config\`; its other parts are passed
through untouched. Base prefixes (\`model.\`, \`transformer.\`, …) may be there or not.

Linears in one pair of brackets read the same input, so one statistic serves them all. Arrows separate stages: what
stands after an arrow reads what stands before it. \`*\` is every expert. Parts of fused tensors (\`qkv_proj.q\`) are
pruned each by itself. Routers, gates of shared experts, corrections of a router's scores, attention sinks, short
convolutions, the decays and step biases of delta nets (\`A_log\`, \`dt_bias\`), what makes and mixes streams of hidden states,
embeddings (those of single blocks, too) and heads are never pruned; nor are layers that predict further tokens
(\`num_nextn_predict_layers\`, or a module \`mtp\`), which are passed through untouched and stay dense.

Models are some that were released with a layout, not all. Whole-run features are what needs more than a block's forward:
methods and steps that look at gradients (\`gradients\`), and calibration text written by the model itself (\`generation\`).
Structured edits are what \`prune cut\` can write a model without: blocks where what they compute does not go by their place,
experts of mixtures, channels of dense MLPs ([structured.md](methods/structured.md)).
`;
