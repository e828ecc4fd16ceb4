/** Which files of a repository a run needs: what loaders read beside the weights, and the weights as safetensors. Pure. */
import { NetworkError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";
import { layoutHint } from "../layout-hint.js";
import { listed, repositoryText } from "./names.js";
import type { HubFile, Snapshot } from "./hub.js";

const INDEX = "model.safetensors.index.json";
const SINGLE = "model.safetensors";

/** Configuration, tokenizer, templates, code, licence and card. */
const DESCRIPTION: readonly RegExp[] = [
  /^[^/]+\.(?:json|txt|model|tiktoken|jinja|py)$/i,
  /^additional_chat_templates\/[^/]+\.jinja$/,
  /^(?:LICENSE|LICENCE|NOTICE|USE_POLICY|README)[^/]*$/i,
];
/** Indexes of weights in other formats, the makers' layout, and adapters. */
const FOREIGN =
  /^(?:params\.json|adapter_config\.json|.*\.(?:bin|h5|msgpack)\.index.*\.json|.*\.safetensors\.index\.(?!json$).*)$/i;

/** What a model is described by: everything that is small. */
export function descriptionFiles({ files }: Pick<Snapshot, "files">): HubFile[] {
  return files.filter(({ path }) => DESCRIPTION.some((rule) => rule.test(path)) && !FOREIGN.test(path));
}

/**
 * The weights.
 * @param index text of model.safetensors.index.json, where the snapshot has one
 * @throws NetworkError E_HUB_WEIGHTS for a repository without safetensors, or without a shard that the index names
 */
export function weightFiles(
  { repository, files }: Pick<Snapshot, "repository" | "files">,
  index: string | undefined,
): HubFile[] {
  const byPath = new Map(files.map((file) => [file.path, file]));
  // Loaders prefer the single file where both are there.
  const names = byPath.has(SINGLE) || index === undefined ? [SINGLE] : shardsOf(index);
  const missing = names.filter((name) => !byPath.has(name));
  if (missing.length === 0 && names.length > 0) return names.flatMap((name) => byPath.get(name) ?? []);
  const lacks = names.length === 0 ? `shards that ${INDEX} names` : listed(missing);
  throw new NetworkError("E_HUB_WEIGHTS", `${repositoryText(repository)}: has no ${lacks}.`, {
    hint:
      layoutHint(files.map(({ path }) => path)) ??
      "Take a repository that has the weights as safetensors, in the layout of transformers.",
    details: { repository: repository.id, missing },
  });
}

export function indexOf({ files }: Pick<Snapshot, "files">): HubFile | undefined {
  return files.find(({ path }) => path === INDEX);
}

/** Names of an index; what is no index names nothing here, and is refused with its mistakes when it is opened. */
function shardsOf(index: string): string[] {
  try {
    const content = parseJson(index);
    const map = isRecord(content) ? content["weight_map"] : undefined;
    return isRecord(map) ? [...new Set(Object.values(map).map(String))].sort() : [];
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}
