/** Opening a checkpoint as a model: config, tensors and architecture, checked against each other before any work. */
import { CheckpointError } from "../errors.js";
import { isFloatDtype } from "../checkpoint/dtype.js";
import { openCheckpoint, type Checkpoint } from "../checkpoint/checkpoint.js";
import type { Architecture, BlockTensor } from "./architecture.js";
import { readModelConfig, type ModelConfig } from "./config.js";
import { findFamily } from "./families/registry.js";

export interface Model extends AsyncDisposable {
  readonly directory: string;
  readonly config: ModelConfig;
  readonly architecture: Architecture;
  readonly checkpoint: Checkpoint;
}

const MOST_PROBLEMS_SHOWN = 12;

/** What of a model's tensors is missing or contradicts its config, one sentence each. */
export function findTensorProblems(architecture: Architecture, checkpoint: Checkpoint): string[] {
  const { vocabularySize, embedding, embeddingWidth, prologue, blocks, head } = architecture;
  const wanted: BlockTensor[] = [
    { tensor: embedding, shape: [vocabularySize, embeddingWidth] },
    ...(prologue?.tensors.values() ?? []),
    ...blocks.flatMap((block) => [...block.tensors.values()]),
    ...head.tensors.values(),
    { tensor: head.projection, shape: [vocabularySize, head.width] },
    ...(head.bias === undefined ? [] : [{ tensor: head.bias, shape: [vocabularySize] }]),
  ];
  const distinct = new Map(wanted.map((entry) => [entry.tensor, entry])); // a tied head names the embedding again
  return [...distinct.values()].flatMap(({ tensor, shape }) => {
    if (!checkpoint.has(tensor)) return [`${tensor} is missing (expected [${shape.join(", ")}])`];
    const info = checkpoint.info(tensor);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      return [`${tensor} in ${info.file} is [${info.shape.join(", ")}]; config.json says [${shape.join(", ")}]`];
    }
    if (!isFloatDtype(info.dtype)) return [`${tensor} in ${info.file} is ${info.dtype}; expected F32, F16 or BF16`];
    return [];
  });
}

/** Open DIRECTORY and check every tensor the forward needs; all problems are reported at once. */
export async function openModel(directory: string): Promise<Model> {
  const config = await readModelConfig(directory);
  const family = findFamily(config);
  const checkpoint = await openCheckpoint(directory);
  try {
    const architecture = family.describe(config, (name) => checkpoint.has(name));
    const problems = findTensorProblems(architecture, checkpoint);
    if (problems.length > 0) {
      const shown = problems.slice(0, MOST_PROBLEMS_SHOWN).join("; ");
      const more = problems.length > MOST_PROBLEMS_SHOWN ? `; and ${problems.length - MOST_PROBLEMS_SHOWN} more` : "";
      throw new CheckpointError("E_TENSORS", `${directory}: tensors do not fit config.json: ${shown}${more}.`, {
        hint: "The download may be incomplete, or config.json belongs to another checkpoint.",
        details: { directory, problems },
      });
    }
    return {
      directory,
      config,
      architecture,
      checkpoint,
      [Symbol.asyncDispose]: () => checkpoint[Symbol.asyncDispose](),
    };
  } catch (error) {
    await checkpoint[Symbol.asyncDispose]();
    throw error;
  }
}
