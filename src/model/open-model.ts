/** Opening a checkpoint as a model: config, tensors and architecture, checked against each other before any work. */
import { CheckpointError, PruneError } from "../errors.js";
import { isFloatDtype } from "../checkpoint/dtype.js";
import { openCheckpoint, type Checkpoint } from "../checkpoint/checkpoint.js";
import type { Logger } from "../logging.js";
import type { Architecture, BlockTensor } from "./architecture.js";
import { withDefaults } from "./class-defaults.js";
import { readModelConfig, type ModelConfig } from "./config.js";
import { FAMILIES, familyOf, findFamily, modelTypesOf } from "./families/registry.js";
import type { Family } from "./family.js";
import { saysNothing } from "./silent-keys.js";
import { quantisationProblem } from "./quantisation.js";
import { findTensorNames, renameTensors } from "./tensor-names.js";

export interface Model extends AsyncDisposable {
  readonly directory: string;
  readonly config: ModelConfig;
  readonly architecture: Architecture;
  readonly checkpoint: Checkpoint;
}

export interface OpenModelOptions {
  /** Name of a family to take instead of the one that config.json's model_type stands for. */
  readonly family?: string | undefined;
  /** Hears of parts of the checkpoint that are not the language model's. */
  readonly logger?: Logger;
  /** Whether tensors may be of types that nothing here computes with: for who moves bytes and runs nothing. */
  readonly isAnyDtype?: boolean;
}

const MOST_PROBLEMS_SHOWN = 12;

/** What of a checkpoint a description looks at. */
export type TensorCatalogue = Pick<Checkpoint, "tensors" | "packed" | "has">;

/** A family's description of a checkpoint, in the names its tensors have there. Nothing is checked yet. */
export function describeCheckpoint(family: Family, config: ModelConfig, checkpoint: TensorCatalogue): Architecture {
  const shapeOf = (name: string): readonly number[] | undefined =>
    (checkpoint.packed.get(name) ?? checkpoint.tensors.get(name))?.shape;
  const complete = withDefaults(config, family);
  const canonical = family.describe(complete, (name) => checkpoint.has(name), shapeOf);
  const rename = findTensorNames(canonical, checkpoint.tensors);
  // What a family decides by looking at tensors (tied heads, layouts of experts) it must decide by the stored names.
  const architecture = family.describe(
    complete,
    (name) => checkpoint.has(rename(name)),
    (name) => shapeOf(rename(name)),
  );
  return renameTensors(architecture, rename);
}

/** All tensors the forward needs, each once: a tied head names the embedding again. */
export function wantedTensors(architecture: Architecture): ReadonlyMap<string, BlockTensor> {
  const { vocabularySize, embedding, embeddingWidth, sideTables, prologue, blocks, head } = architecture;
  const wanted: BlockTensor[] = [
    { tensor: embedding, shape: [vocabularySize, embeddingWidth] },
    ...sideTables.map(({ tensor, rows, width }) => ({ tensor, shape: [rows, width] })),
    ...(prologue?.tensors.values() ?? []),
    ...blocks.flatMap((block) => [...block.tensors.values()]),
    ...head.tensors.values(),
    { tensor: head.projection, shape: [vocabularySize, head.width] },
    ...(head.bias === undefined ? [] : [{ tensor: head.bias, shape: [vocabularySize] }]),
  ];
  return new Map(wanted.map((entry) => [entry.tensor, entry]));
}

/** What of a model's tensors is missing, contradicts its config, or would be left out, one sentence each. */
export function findTensorProblems(
  architecture: Architecture,
  checkpoint: Checkpoint,
  config: ModelConfig,
  { isAnyDtype = false }: Pick<OpenModelOptions, "isAnyDtype"> = {},
): string[] {
  const wanted = wantedTensors(architecture);
  const wrong = [...wanted.values()].flatMap(({ tensor, shape }) => {
    if (!checkpoint.has(tensor)) return [`${tensor} is missing; config.json says [${shape.join(", ")}]`];
    const info = checkpoint.info(tensor);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      return [`${tensor} in ${info.file} is [${info.shape.join(", ")}]; config.json says [${shape.join(", ")}]`];
    }
    if (!isAnyDtype && !isFloatDtype(info.dtype) && !checkpoint.packed.has(tensor))
      return [`${tensor} in ${info.file} is ${info.dtype}; expected F32, F16 or BF16`];
    return [];
  });
  const surplus = surplusTensors(architecture, checkpoint, config).map((name) => {
    const { file, shape } = checkpoint.info(name);
    return `${name} in ${file} is [${shape.join(", ")}]; config.json says there is none`;
  });
  return [...wrong, ...surplus];
}

/**
 * Parameters that the forward would leave out: a bias of a module it reads, or inside the decoder a norm, an expert or
 * a whole block that the config denies. Buffers (masks, rotary frequencies) are not named like a module's parameters
 * and are left alone.
 */
function surplusTensors(architecture: Architecture, checkpoint: Checkpoint, { values }: ModelConfig): string[] {
  const [first] = architecture.blocks;
  if (first === undefined) return [];
  const wanted = wantedTensors(architecture);
  const blocksPrefix = first.name.slice(0, first.name.lastIndexOf(".") + 1);
  // Layers that predict further tokens follow the decoder's own under the same name.
  const mayHaveMoreBlocks = values.has("num_nextn_predict_layers");
  const modules = new Set([...wanted.keys()].map((name) => name.slice(0, name.lastIndexOf("."))));
  const idle = new Set(architecture.idleTensors);
  return [...checkpoint.tensors.keys()].filter((name) => {
    if (wanted.has(name) || idle.has(name)) return false;
    if (name.endsWith(".bias") && modules.has(name.slice(0, -".bias".length))) return true;
    if (!name.startsWith(blocksPrefix) || !/(\.weight|_correction_bias)$/.test(name)) return false;
    const [index = ""] = name.slice(blocksPrefix.length).split(".", 1);
    return Number(index) < architecture.blocks.length || !mayHaveMoreBlocks;
  });
}

/**
 * The family by name, or else by config.json's model_type.
 * @throws UsageError E_FAMILY for an unknown name
 * @throws CheckpointError E_ARCHITECTURE for an unknown model_type; its hint offers families that the tensors fit
 */
function chooseFamily(name: string | undefined, config: ModelConfig, checkpoint: Checkpoint): Family {
  if (name !== undefined) return findFamily(name);
  const known = familyOf(config.modelType);
  if (known !== undefined) return known;
  const alike = FAMILIES.flatMap((family) => {
    const unknownKeys = keysUnknownTo(family, config, checkpoint);
    return unknownKeys === undefined ? [] : [{ name: family.name, unknownKeys }];
  }).toSorted((a, b) => a.unknownKeys.length - b.unknownKeys.length);
  throw new CheckpointError(
    "E_ARCHITECTURE",
    `${checkpoint.directory}: config.json: model_type "${config.modelType}" is not supported; known: ${FAMILIES.flatMap(modelTypesOf).join(", ")}.`,
    {
      hint: hintOf(alike),
      details: { key: "model_type", found: config.modelType, alike: alike.map(({ name }) => name), families: alike },
    },
  );
}

const LAYER_KEYS = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];

/** Whether there are more layers than tensors: the family does not fit then, and describing so many takes long. */
function saysMoreLayers(family: Family, config: ModelConfig, { tensors }: Checkpoint): boolean {
  const { values: said } = withDefaults({ ...config, values: config.values.copy() }, family);
  return LAYER_KEYS.some((key) => Number.isFinite(said.raw(key)) && (said.raw(key) as number) > tensors.size);
}

/** What may be done with an unknown model_type; families that know most of its keys come first. */
function hintOf([first]: readonly { readonly name: string; readonly unknownKeys: readonly string[] }[]): string {
  if (first === undefined) return "No known family has these tensors. `prune families` lists what is supported.";
  const { name, unknownKeys } = first;
  return unknownKeys.length === 0
    ? `looks like ${name}: pass --family ${name}, and check its perplexity with \`prune eval\` first.`
    : `The tensors are those of ${name}, but config.json has keys that ${name} does not know and that may change what the model computes: ${unknownKeys.join(", ")}.`;
}

/**
 * The keys of the config that a family does not ask for and that may say what the model computes; undefined where it
 * cannot be described from the config or does not account for every parameter with its shape.
 */
function keysUnknownTo(family: Family, config: ModelConfig, checkpoint: Checkpoint): string[] | undefined {
  if (saysMoreLayers(family, config, checkpoint)) return undefined;
  const asked = { ...config, values: config.values.copy() };
  try {
    const architecture = describeCheckpoint(family, asked, checkpoint);
    if (findTensorProblems(architecture, checkpoint, asked).length > 0) return undefined;
  } catch (error) {
    if (error instanceof PruneError) return undefined; // its config lacks or contradicts what the family needs
    throw error;
  }
  return asked.values.unasked().filter((key) => !saysNothing(key));
}

function requireNoProblems(problems: readonly string[], config: ModelConfig, checkpoint: Checkpoint): void {
  if (problems.length === 0) return;
  const quantised = quantisationProblem(config, checkpoint);
  if (quantised !== undefined) throw quantised;
  const { directory } = checkpoint;
  const shown = problems.slice(0, MOST_PROBLEMS_SHOWN).join("; ");
  const more = problems.length > MOST_PROBLEMS_SHOWN ? `; and ${problems.length - MOST_PROBLEMS_SHOWN} more` : "";
  throw new CheckpointError("E_TENSORS", `${directory}: tensors do not fit config.json: ${shown}${more}.`, {
    hint: "The download may be incomplete, or config.json belongs to another checkpoint. `prune inspect --config` shows what is taken for keys that it leaves out.",
    details: { directory, problems },
  });
}

/** What the names of a decoder's blocks begin with, "model.layers." */
function blocksPrefixOf({ blocks }: Architecture): string {
  return blocks[0]?.name.replace(/\.\d+$/, ".") ?? "";
}

/**
 * Tensors of layers that predict further tokens: blocks behind those of the decoder, as GLM-4.5 and DeepSeek-V3 have them, or
 * a module `mtp` beside it, as Qwen3-Next and Qwen3.5. They are no part of the model and stay dense.
 */
export function furtherTensors(architecture: Architecture, checkpoint: Checkpoint): string[] {
  const prefix = blocksPrefixOf(architecture);
  const { length } = architecture.blocks;
  return [...checkpoint.tensors.keys()].filter(
    (name) =>
      /(^|\.)mtp\./.test(name) ||
      (prefix !== "" && name.startsWith(prefix) && Number(name.slice(prefix.length).split(".", 1)[0]) >= length),
  );
}

/** Say which parts of a checkpoint are only carried along: layers that predict further tokens, other modalities. */
function tellOfOtherParts({ architecture, checkpoint, config }: Model, logger: Logger): void {
  const wanted = wantedTensors(architecture);
  const prefix = blocksPrefixOf(architecture);
  const further = furtherTensors(architecture, checkpoint);
  if (further.length > 0) {
    logger.info(
      `${further.length} tensors of layers that predict further tokens are passed through untouched and stay dense`,
      { family: architecture.family, tensors: further.length },
    );
  }
  const idle = architecture.idleTensors.filter((name) => checkpoint.has(name));
  if (idle.length > 0) {
    logger.info(
      `${idle.length} tensors that no forward reads, ${idle[0] ?? ""} among them, are passed through untouched and stay dense`,
      { family: architecture.family, tensors: idle.length },
    );
  }
  if (config.wrapper === undefined) return;
  const others = [...checkpoint.tensors.keys()].filter(
    (name) => !wanted.has(name) && !name.startsWith(prefix) && !further.includes(name),
  );
  const parts = [...new Set(others.map((name) => name.split(".").slice(0, 2).join(".")))];
  logger.info(
    `${config.wrapper}: only the language model is read; ${others.length} tensors of other parts are passed through untouched`,
    { wrapper: config.wrapper, family: architecture.family, tensors: others.length, parts },
  );
}

/** Say what loaders pass over without a word. */
function tellOfOddities({ architecture, checkpoint, config }: Model, logger: Logger): void {
  if (architecture.isHeadTied && !withDefaults(config).values.boolean("tie_word_embeddings", true))
    logger.warn(
      "there is no head (lm_head), and config.json does not tie it to the embedding: the embedding stands in for it, so that perplexities and trainings mean little",
    );
  const { unlisted } = checkpoint;
  if (unlisted.length > 0) {
    const [first = ""] = unlisted;
    const others = unlisted.length === 1 ? "" : ` and ${unlisted.length - 1} more`;
    logger.warn(`the index does not list ${first}${others}, which the shards hold: carried along`, {
      tensors: unlisted.slice(0, MOST_PROBLEMS_SHOWN),
      count: unlisted.length,
    });
  }
  const [packed] = checkpoint.packed.values();
  if (packed !== undefined)
    logger.info(
      `${checkpoint.packed.size} weights are stored as ${packed.dtype} with scales and read as floats; an output has them as BF16, without scales and quantization_config`,
      { weights: checkpoint.packed.size, dtype: packed.dtype },
    );
  else if (config.quantisation !== undefined)
    logger.info("config.json has a quantization_config, but the weights are floats: it is not heeded");
}

/**
 * Open DIRECTORY and check every tensor the forward needs; all problems are reported at once.
 * @throws CheckpointError E_ARCHITECTURE, E_TENSORS, E_CONFIG and those of opening; UsageError E_FAMILY
 */
export async function openModel(directory: string, options: OpenModelOptions = {}): Promise<Model> {
  const config = await readModelConfig(directory);
  const checkpoint = await openCheckpoint(directory);
  try {
    const family = chooseFamily(options.family, config, checkpoint);
    const architecture = describeCheckpoint(family, config, checkpoint);
    requireNoProblems(findTensorProblems(architecture, checkpoint, config, options), config, checkpoint);
    const model: Model = {
      directory,
      config,
      architecture,
      checkpoint,
      [Symbol.asyncDispose]: () => checkpoint[Symbol.asyncDispose](),
    };
    if (options.logger !== undefined) {
      tellOfOtherParts(model, options.logger);
      tellOfOddities(model, options.logger);
    }
    return model;
  } catch (error) {
    await checkpoint[Symbol.asyncDispose]();
    throw error;
  }
}
