/**
 * model.safetensors.index.json: which shard holds which tensor.
 *
 * Pure: parses bytes and compares names. Shard names come from the file and are joined to a path later, so anything
 * but a plain file name is refused here.
 */
import { CheckpointError } from "../errors.js";
import { isJsonObject, parseStrictJson, quoteName, StrictJsonError, type StrictJson } from "./strict-json.js";

export const INDEX_FILE = "model.safetensors.index.json";
/** As large as the format lets a header be; real ones are below 20 MB. */
export const INDEX_SIZE_CAP = 100_000_000;

const INDEX_HINT =
  "Download the checkpoint again, or fix the index: every tensor must be listed with the shard that holds it.";

export interface ShardIndex {
  /** Tensor name to shard file name. */
  readonly shardOf: ReadonlyMap<string, string>;
  /** Shard file names, sorted. */
  readonly shards: readonly string[];
}

/**
 * Parse an index.
 *
 * @param file name used in errors
 * @throws CheckpointError `E_INDEX_INVALID`, or `E_SHARD_NAME` when a shard is not a plain .safetensors file name
 */
export function parseShardIndex(json: Uint8Array, file: string = INDEX_FILE): ShardIndex {
  let root: StrictJson;
  try {
    root = parseStrictJson(json);
  } catch (cause) {
    if (cause instanceof StrictJsonError) throw invalid(file, cause.message);
    throw cause;
  }
  const weightMap = isJsonObject(root) ? root.get("weight_map") : undefined;
  if (!isJsonObject(weightMap)) throw invalid(file, `"weight_map" is missing or not an object`);
  if (weightMap.size === 0) throw invalid(file, `"weight_map" is empty`);
  const shardOf = new Map<string, string>();
  for (const [tensor, shard] of weightMap) {
    if (typeof shard !== "string") throw invalid(file, `tensor ${quoteName(tensor)}: expected a file name`);
    checkShardName(shard, tensor, file);
    shardOf.set(tensor, shard);
  }
  const shards = [...new Set(shardOf.values())].sort();
  checkTwins(shards, file);
  return { shardOf, shards };
}

function invalid(file: string, problem: string): CheckpointError {
  return new CheckpointError("E_INDEX_INVALID", `${file}: ${problem}.`, { hint: INDEX_HINT, details: { file } });
}

/** What file systems allow. */
const NAME_LENGTH_CAP = 255;

/** No separators of any system, no drive letters or streams (":"), no control characters: only a name in this folder. */
function checkShardName(shard: string, tensor: string, file: string): void {
  if (shard.length <= NAME_LENGTH_CAP && /^[^/\\:\p{Cc}]+\.safetensors$/u.test(shard)) return;
  throw new CheckpointError(
    "E_SHARD_NAME",
    `${file}: tensor ${quoteName(tensor)}: shard ${quoteName(shard)} is not the name of a .safetensors file in the same folder.`,
    {
      hint: "Do not use this checkpoint unless you trust its source; shard names must not leave the folder.",
      details: { file, tensor, shard },
    },
  );
}

/** Names that only some file systems tell apart would be one file on the others, where the output may be. */
function checkTwins(shards: readonly string[], file: string): void {
  const seen = new Map<string, string>();
  for (const shard of shards) {
    const folded = shard.normalize("NFC").toLowerCase();
    const twin = seen.get(folded);
    if (twin !== undefined)
      throw new CheckpointError(
        "E_SHARD_NAME",
        `${file}: shards ${quoteName(twin)} and ${quoteName(shard)} differ only in case or in the form of their characters.`,
        { hint: "Rename one of them, in the index too.", details: { file, shards: [twin, shard] } },
      );
    seen.set(folded, shard);
  }
}

/** Problems listed in one message. */
const LISTED_PROBLEMS = 5;

/**
 * Compare the index with what the shards hold; all differences are reported at once. Tensors that it leaves out are no
 * problem by themselves: loaders take whatever a shard holds.
 *
 * @param held tensor names of each shard
 * @returns tensors of the shards that the index does not list
 * @throws CheckpointError `E_INDEX_MISMATCH`
 */
export function checkShardIndex(
  index: ShardIndex,
  held: ReadonlyMap<string, Iterable<string>>,
  file: string = INDEX_FILE,
): string[] {
  const problems: string[] = [];
  const unlisted = new Map<string, string>();
  const missing = new Map(index.shardOf);
  for (const [shard, names] of held) {
    for (const name of names) {
      const listed = index.shardOf.get(name);
      const other = unlisted.get(name);
      if (listed === shard) missing.delete(name);
      else if (listed !== undefined) problems.push(`tensor ${quoteName(name)} of ${shard} is listed in ${listed}`);
      else if (other !== undefined) problems.push(`tensor ${quoteName(name)} is in ${other} and in ${shard}`);
      else unlisted.set(name, shard);
    }
  }
  for (const [name, shard] of missing)
    problems.push(`tensor ${quoteName(name)} is listed in ${shard}, which does not hold it`);
  if (problems.length === 0) return [...unlisted.keys()];
  for (const [name, shard] of unlisted) problems.push(`tensor ${quoteName(name)} of ${shard} is not listed`);
  const more = problems.length > LISTED_PROBLEMS ? `; and ${problems.length - LISTED_PROBLEMS} more` : "";
  throw new CheckpointError("E_INDEX_MISMATCH", `${file}: ${problems.slice(0, LISTED_PROBLEMS).join("; ")}${more}.`, {
    hint: INDEX_HINT,
    details: { file, problems: problems.length },
  });
}
