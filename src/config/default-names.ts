/** What outputs are called, and where they go, where a request does not say. */
import { basename, dirname, join, sep } from "node:path";
import { realpath } from "../files/request-files.js";

export interface ModelPlace {
  /** What the model is called. */
  readonly name: string;
  /** The repository's folder in the Hub's cache, where the model lies in one: revisions are there, nothing else belongs there. */
  readonly cache: string | undefined;
}

/** A folder of the cache: models--org--name, with its revisions in snapshots/. Names hold no "--". */
const REPOSITORY = /^models--(?:.*--)?([^/\\]+)$/;

/** @param model absolute path of a checkpoint, which need not exist */
export async function placeOfModel(model: string): Promise<ModelPlace> {
  const parent = await realpath(dirname(model)).catch(() => dirname(model)); // a link may lead into a cache
  const parts = parent.split(sep);
  const depth = parts.findLastIndex((part) => REPOSITORY.test(part));
  const name = REPOSITORY.exec(parts[depth] ?? "")?.[1];
  if (name === undefined) return { name: basename(model), cache: undefined };
  return { name, cache: parts.slice(0, depth + 1).join(sep) };
}

/** Whether a path is inside a folder of the cache. */
export async function isInCache(path: string, cache: string): Promise<boolean> {
  const real = await realpath(path).catch(() => path);
  return real === cache || join(real, sep).startsWith(join(cache, sep));
}
