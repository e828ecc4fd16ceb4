/** `prune apply-mask`: zeros of a mask file put into a checkpoint of the same tensors, one tensor in memory at a time. */
import { openCheckpoint } from "../checkpoint/checkpoint.js";
import { isFloatDtype } from "../checkpoint/dtype.js";
import { clearPruned, MaskFile } from "../checkpoint/mask-file.js";
import { createOutput } from "../checkpoint/output.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { MaskConfig, MaskedTensor, MaskReport } from "../contract.js";
import { CheckpointError } from "../errors.js";
import { Journal, JOURNAL_NAME } from "./journal.js";
import { expectUntouched } from "./source-check.js";

const OWN_NAMES = { working: [JOURNAL_NAME], written: [] };

/**
 * The output is the checkpoint with +0 wherever a mask says pruned; everything else is as it was, to the bit. A resumed one applies
 * all masks again, from the source, which gives the same bytes.
 * @throws CheckpointError E_MASK for masks of other tensors, before anything is written; those of `createOutput`
 * @throws InterruptedError when a stop was requested
 */
export async function applyMask(config: MaskConfig, context: EngineContext): Promise<MaskReport> {
  const started = performance.now();
  const { out, force, resume } = config;
  await using mask = await MaskFile.open(config.mask);
  await using checkpoint = await openCheckpoint(config.model);
  mask.expectFits(checkpoint);
  const names = [...checkpoint.tensors.keys()].filter((name) => mask.shapes.has(name));
  for (const name of names) {
    const { dtype } = checkpoint.info(name);
    if (isFloatDtype(dtype)) continue;
    throw new CheckpointError(
      "E_TENSOR_DTYPE",
      `${config.model}: "${name}" is ${dtype}; masks are applied to F32, F16 and BF16.`,
      {
        hint: "Apply the mask before quantising.",
        details: { tensor: name, dtype },
      },
    );
  }
  const warn = (message: string): void => context.logger.warn(message);
  await using output = await createOutput({ source: checkpoint, out, force, resume, own: OWN_NAMES, warn });
  const bytes = { task: "apply-mask", model: checkpoint.headersSha256, mask: await mask.sha256() };
  await using _journal = await Journal.open(output.partialDirectory, { bytes, place: {} }, resume);
  await output.flush(); // before anything of it is overwritten the clone is whole, for a resume to take over
  const tensors: MaskedTensor[] = [];
  for (const name of names) {
    throwIfStopped(context, true);
    const info = checkpoint.info(name);
    const values = await checkpoint.readTensor(name);
    const counts = clearPruned(values, info, await mask.read(name));
    await output.writeTensor(name, values);
    tensors.push({ name, elements: values.length, ...counts });
  }
  await expectUntouched(checkpoint);
  await output.finish({ remove: OWN_NAMES.working });
  const sum = (key: "elements" | "pruned" | "cleared"): number =>
    tensors.reduce((total, tensor) => total + tensor[key], 0);
  return {
    schema: "prune.apply-mask/v1",
    out,
    model: config.model,
    mask: config.mask,
    ...{ elements: sum("elements"), pruned: sum("pruned"), cleared: sum("cleared") },
    tensors,
    seconds: (performance.now() - started) / 1000,
  };
}
