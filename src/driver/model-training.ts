/**
 * Training of the whole model after its last block is pruned; how is training/finetune.ts's business. What was trained lies in a
 * file of its own before any tensor of the output is overwritten, so that a run which is killed meanwhile goes on from there.
 */
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { borrowed } from "../array.js";
import { openCheckpoint, SINGLE_FILE } from "../checkpoint/checkpoint.js";
import { encodeHeader } from "../checkpoint/header.js";
import { throwIfStopped } from "../context.js";
import { InternalError } from "../errors.js";
import { embedTokens } from "../forward/embedding.js";
import { readBlockWeights } from "../forward/weights.js";
import { CalibratedEnds } from "../training/calibrated-ends.js";
import { finetuneModel, type FinetuneOptions, type FinetuneReport } from "../training/finetune.js";
import { HeadGradient, type HeadTensors } from "../training/head-gradient.js";
import { BlockGradients, stepStates } from "../training/model-gradients.js";
import { blockParameters, type Parameters } from "../training/parameters.js";
import type { Journal } from "./journal.js";
import { maskedRoles, type RunParts } from "./run.js";

/** Folder in OUT.partial. */
export const TRAINED_NAME = "trained";
export const STATES_NAME = "training-states.bin";

/** The steps' name in the journal. */
const FINETUNE = "finetune";

/** What an earlier run trained and may not have written to the output in full. */
export function finishedTraining(journal: Journal): FinetuneReport | undefined {
  return journal.finished("training", FINETUNE)?.report;
}

/** @param sequences of the calibration; the run's stream is used for their embeddings, its dense stream is behind the last block */
export async function trainModel(
  run: RunParts,
  journal: Journal,
  sequences: readonly Int32Array[],
  options: FinetuneOptions,
): Promise<FinetuneReport> {
  const { model, device, runner, selected, output, stream, denseStream, config, context } = run;
  const { architecture } = model;
  if (stream === undefined || denseStream === undefined)
    throw new InternalError("E_TRAINING", "nothing to train the model with");
  await embedTokens(model, sequences, stream.states);
  const size = Math.min(options.batchSize, sequences.length);
  const parameters: Parameters[] = [];
  const isDistilled = options.distillation > 0;
  await using gradients = new BlockGradients(runner, architecture);
  await using head = await HeadGradient.compile(runner.executor, architecture, {
    ...{ isProjectionTrained: false, isDistilled },
  });
  await using states = await stepStates(architecture, {
    ...{ sequences: size, tokens: config.seqlen, memoryBytes: config.memoryBytes / 2 },
    scratchFile: join(output.partialDirectory, STATES_NAME),
  });
  try {
    for (const block of architecture.blocks) {
      const weights = await readBlockWeights(output.checkpoint, block);
      parameters.push(blockParameters(device, block, weights, maskedRoles(block, selected)));
    }
    const ends = new CalibratedEnds({
      ...{ head: await readHead(run), gradient: head, sequences },
      ...{ embedded: stream.states, taught: denseStream.states, distillation: options.distillation },
    });
    const blocks = architecture.blocks.length;
    const report = await finetuneModel(
      {
        ...{
          architecture,
          runner,
          gradients,
          parameters,
          ends,
          sequences: sequences.length,
          states,
          seed: config.seed,
        },
        onBlock: () => throwIfStopped(context, true),
        onStep: ({ step, steps, loss }) => {
          const said = `finetune, step ${step} of ${steps}, loss ${loss.toPrecision(4)}`;
          context.emit({ type: "stage", block: blocks - 1, blocks, stage: said, fraction: step / steps });
        },
      },
      options,
    );
    await keep(run, parameters);
    await journal.append("training", FINETUNE, { report });
    return report;
  } finally {
    for (const each of parameters) each[Symbol.dispose]();
  }
}

/** Write what was trained to the output. */
export async function writeTrained({
  model,
  output,
  context,
}: Pick<RunParts, "model" | "output" | "context">): Promise<void> {
  await using trained = await openCheckpoint(join(output.partialDirectory, TRAINED_NAME));
  const blocks = model.architecture.blocks.length;
  for (const tensor of trained.tensors.keys()) {
    context.emit({ type: "stage", block: blocks - 1, blocks, stage: `write ${tensor}`, fraction: 1 });
    const { overflowed } = await output.writeTensor(tensor, await trained.readTensor(tensor));
    if (overflowed > 0)
      context.logger.warn(`${tensor}: ${overflowed} weights exceed the range of the stored type`, {
        tensor,
        overflowed,
      });
  }
  await output.flush();
}

async function readHead({ model }: Pick<RunParts, "model">): Promise<HeadTensors> {
  const { checkpoint, architecture } = model;
  const { head } = architecture;
  const tensors = new Map<string, ReturnType<typeof borrowed>>();
  for (const [role, { tensor, shape }] of head.tensors)
    tensors.set(role, borrowed(role, await checkpoint.readTensor(tensor), shape));
  const projection = await checkpoint.readTensor(head.projection);
  return { tensors, projection, ...(head.bias === undefined ? {} : { bias: await checkpoint.readTensor(head.bias) }) };
}

/** All trained tensors in f32, under their names in the checkpoint, on the disk when this resolves. */
async function keep(
  { model, output }: Pick<RunParts, "model" | "output">,
  parameters: readonly Parameters[],
): Promise<void> {
  const directory = join(output.partialDirectory, TRAINED_NAME);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory);
  const values = new Map<string, { readonly shape: readonly number[]; readonly values: Float32Array }>();
  for (const [index, block] of model.architecture.blocks.entries())
    for (const { name, shape, values: own } of parameters[index] ?? [])
      values.set(block.tensors.get(name)?.tensor ?? name, { shape, values: own.host });
  const layouts = [...values].map(([name, { shape, values: own }]) => {
    return { name, dtype: "F32", shape, byteLength: own.byteLength };
  });
  const { bytes, tensors } = encodeHeader(layouts);
  const file = await open(join(directory, SINGLE_FILE), "w");
  try {
    await file.writeFile(bytes);
    for (const { name } of tensors) {
      const { values: own } = values.get(name) as { readonly values: Float32Array };
      await file.writeFile(new Uint8Array(own.buffer, own.byteOffset, own.byteLength));
    }
    await file.datasync();
  } finally {
    await file.close();
  }
}
