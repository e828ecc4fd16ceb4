/**
 * `prune verify`: whether a checkpoint has what its config.json says by the family's own description. Loaders differ in what
 * they pass over: some fill missing tensors with random values.
 */
import { findPacked } from "../../checkpoint/packed.js";
import { INDEX_FILE } from "../../checkpoint/sharded-index.js";
import { join } from "node:path";
import { indexMetadata, type Checkpoint } from "../../checkpoint/checkpoint.js";
import type { VerifyConfig, VerifyReport } from "../../contract.js";
import { CheckpointError } from "../../errors.js";
import { openModel, wantedTensors } from "../../model/open-model.js";
import { sizesOf } from "./sizes.js";

/**
 * @throws CheckpointError E_TENSORS for tensors that are missing, too many or of another shape, E_INDEX_MISMATCH,
 *   E_INDEX_SIZE, and those of opening
 */
export async function verifyModel({ directory, family }: VerifyConfig): Promise<VerifyReport> {
  await using model = await openModel(directory, { family, isAnyDtype: true });
  const { architecture, checkpoint } = model;
  const tensorBytes = [...checkpoint.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  await expectTotalSize(checkpoint, tensorBytes);
  const fileBytes = (await checkpoint.stamps()).reduce((sum, { size }) => sum + Number(size), 0);
  const wanted = wantedTensors(architecture);
  const packed = [...findPacked(checkpoint.tensors).values()].flatMap(({ blocks, scales }) => [blocks, scales]);
  const isNamed = new Set([...wanted.keys(), ...packed]);
  return {
    schema: "prune.verify/v1",
    model: directory,
    family: architecture.family,
    tensors: checkpoint.tensors.size,
    shards: checkpoint.shards.length,
    ...sizesOf(architecture, { tensorBytes, fileBytes }),
    others: [...checkpoint.tensors.keys()].filter((name) => !isNamed.has(name)),
    unlisted: checkpoint.unlisted,
  };
}

/** What the index says of all bytes together. */
async function expectTotalSize(checkpoint: Checkpoint, bytes: number): Promise<void> {
  const { total_size: said } = await indexMetadata(checkpoint);
  if (said === undefined || said === bytes) return;
  const file = join(checkpoint.directory, INDEX_FILE);
  throw new CheckpointError(
    "E_INDEX_SIZE",
    `${file}: "total_size" is ${JSON.stringify(said)}; the tensors take ${bytes} bytes.`,
    {
      hint: "The index is of another checkpoint, or was not made anew when tensors were changed.",
      details: { file, said, bytes },
    },
  );
}
