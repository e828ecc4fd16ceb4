/** `prune inspect`: which tensors of a checkpoint count as prunable, then their zeros. */
import { openCheckpoint, type Checkpoint } from "../checkpoint/checkpoint.js";
import { isFloatDtype } from "../checkpoint/dtype.js";
import type { InspectionConfig, InspectionReport } from "../contract.js";
import { tensorOf } from "../model/architecture.js";
import { readModelConfig, type ModelConfig } from "../model/config.js";
import { familyOf, findFamily } from "../model/families/registry.js";
import { describeCheckpoint, furtherTensors } from "../model/open-model.js";
import { inspectCheckpoint } from "./inspect.js";

/**
 * Count zeros in a checkpoint directory. Of a model whose family is not known every float matrix inside a numbered
 * block counts as prunable, which is what families say of theirs too.
 */
export async function inspectModel({ directory, family: name }: InspectionConfig): Promise<InspectionReport> {
  const config = await readModelConfig(directory);
  await using checkpoint = await openCheckpoint(directory);
  const { prunable, further } = prunableTensors(config, checkpoint, name);
  return { ...(await inspectCheckpoint(checkpoint, prunable)), further };
}

/** The tensors that count as prunable, with the axis that inputs lie along. */
export function prunableTensors(
  config: ModelConfig,
  checkpoint: Checkpoint,
  name: string | undefined,
): {
  readonly prunable: ReadonlyMap<string, { readonly inputAxis: 0 | 1 }>;
  /** Tensors of layers that predict further tokens. */
  readonly further: readonly string[];
} {
  const family = name === undefined ? familyOf(config.modelType) : findFamily(name);
  const prunable = new Map<string, { readonly inputAxis: 0 | 1 }>();
  const further: string[] = [];
  if (family !== undefined) {
    const architecture = describeCheckpoint(family, config, checkpoint);
    further.push(...furtherTensors(architecture, checkpoint));
    for (const block of architecture.blocks) {
      for (const linear of block.groups.flatMap((group) => group.linears)) {
        prunable.set(tensorOf(block, linear), { inputAxis: linear.inputAxis });
      }
    }
  } else {
    for (const [name, { dtype, shape }] of checkpoint.tensors) {
      if (isFloatDtype(dtype) && shape.length === 2 && /\.\d+\..*weight$/.test(name))
        prunable.set(name, { inputAxis: 1 });
    }
  }
  return { prunable, further };
}
