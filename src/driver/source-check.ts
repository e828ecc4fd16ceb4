/**
 * Whether the checkpoint that a run reads is still the one it began with. Files whose size, times and place are those of then hold
 * what they held. Where they differ, a resume looks at the bytes: of blocks that the run has read, by the hashes that were taken
 * on the way and noted before anything of them was overwritten; of all other tensors, by the clone, which has them as they were.
 */
import { changedShards, type Checkpoint } from "../checkpoint/checkpoint.js";
import type { OutputCheckpoint } from "../checkpoint/output.js";
import { CheckpointError, ConfigError } from "../errors.js";
import { readBlockWeights } from "../forward/weights.js";
import type { BlockSpec } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import type { Journal } from "./journal.js";

/** The tensors outside the blocks, in the journal. */
const ENDS = "ends";
const PIECE_BYTES = 8 << 20;

/** A block's weights from the source; the hash of its bytes is noted, or compared with what an earlier run noted. */
export async function readSourceBlock(
  { checkpoint }: Pick<Model, "checkpoint">,
  journal: Journal,
  spec: BlockSpec,
  previous?: ReadonlyMap<string, Float32Array>,
): Promise<Map<string, Float32Array>> {
  const { result, sha256 } = await checkpoint.hashed(() => readBlockWeights(checkpoint, spec, previous));
  await note(journal, checkpoint, spec.name, sha256);
  return result;
}

/** Before tensors outside the blocks are overwritten: what they were. */
export async function noteEnds({ checkpoint, architecture }: Model, journal: Journal): Promise<void> {
  if (journal.finished("source", ENDS) !== undefined) return;
  const tensors = outside([...checkpoint.tensors.keys()], architecture.blocks);
  await note(journal, checkpoint, ENDS, await hashTensors(checkpoint, tensors));
}

/** @throws ConfigError E_FINGERPRINT where a resumed run would go on with other weights */
export async function expectSameSource(
  { checkpoint, architecture }: Model,
  output: Pick<OutputCheckpoint, "clonedFrom" | "checkpoint">,
  journal: Journal,
): Promise<void> {
  const { clonedFrom } = output;
  if (clonedFrom !== undefined && changedShards(clonedFrom, await checkpoint.stamps()).length === 0) return;
  // A clone in another form than its source has nothing to compare its bytes with.
  if (checkpoint.packed.size > 0) throw refusal(checkpoint, "its files were touched");
  const noted = architecture.blocks.filter(({ name }) => journal.finished("source", name) !== undefined);
  for (const spec of noted) await readSourceBlock({ checkpoint }, journal, spec);
  const compared = outside([...checkpoint.tensors.keys()], noted);
  const ends = journal.finished("source", ENDS) === undefined ? [] : outside(compared, architecture.blocks);
  if (ends.length > 0) await note(journal, checkpoint, ENDS, await hashTensors(checkpoint, ends));
  for (const tensor of compared) {
    if (ends.includes(tensor)) continue;
    const [now, then] = [await hashTensors(checkpoint, [tensor]), await hashTensors(output.checkpoint, [tensor])];
    if (now !== then) throw refusal(checkpoint, tensor);
  }
}

/** @throws CheckpointError E_SOURCE_CHANGED where the files that were read are not what they were when they were opened */
export async function expectUntouched(checkpoint: Checkpoint): Promise<void> {
  const [shard] = await checkpoint.rewritten();
  if (shard === undefined) return;
  throw new CheckpointError("E_SOURCE_CHANGED", `${checkpoint.directory}: ${shard} was written to during the run.`, {
    hint: "The output would be a mix of two models. Leave the checkpoint alone, and start again with --force.",
    details: { model: checkpoint.directory, shard },
  });
}

async function note(journal: Journal, checkpoint: Checkpoint, name: string, sha256: string): Promise<void> {
  const noted = journal.finished("source", name);
  if (noted === undefined) return journal.appendSoon("source", name, { sha256 });
  if (noted.sha256 !== sha256) throw refusal(checkpoint, name);
}

function refusal({ directory }: Checkpoint, where: string): ConfigError {
  return new ConfigError(
    "E_FINGERPRINT",
    `--resume: ${directory} holds other weights than the interrupted run read (${where}).`,
    {
      hint: "The output would be a mix of two models. Put the checkpoint back as it was, or start again with --force.",
      details: { model: directory, where },
    },
  );
}

function outside(tensors: readonly string[], blocks: readonly BlockSpec[]): string[] {
  const inside = new Set(blocks.flatMap((block) => [...block.tensors.values()].map(({ tensor }) => tensor)));
  return tensors.filter((tensor) => !inside.has(tensor));
}

async function hashTensors(checkpoint: Checkpoint, tensors: readonly string[]): Promise<string> {
  const { sha256 } = await checkpoint.hashed(async () => {
    for (const tensor of tensors) {
      const { byteLength } = checkpoint.info(tensor);
      for (let begin = 0; begin < byteLength; begin += PIECE_BYTES)
        await checkpoint.readBytes(tensor, begin, Math.min(byteLength, begin + PIECE_BYTES));
    }
  });
  return sha256;
}
