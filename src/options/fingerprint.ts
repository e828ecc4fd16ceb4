/** The options' part of fingerprints: what must be equal for a resumed run to give what an uninterrupted one gives. */
import { fieldOf, RUN_OPTION_LIST, type RunConfig, type RunOptionEntry } from "./run-options.js";

type Texts = Readonly<Record<string, string>>;

/**
 * Every option that decides the result, as text. Options that name files are not among them, since what the files hold
 * decides: the caller has the hashes.
 */
export function bytesOf(config: RunConfig): Texts {
  return textsOf(config, ({ decides }) => decides === "result");
}

/** Those of `bytesOf` that all cells of a comparison share; the others are in the labels of its rows. */
export function sharedBytesOf(config: RunConfig): Texts {
  return textsOf(config, ({ decides, compare }) => decides === "result" && compare === "shared");
}

/** Options that say where a run worked. */
export function placeOf(config: RunConfig): Texts {
  return textsOf(config, ({ decides }) => decides === "place");
}

function textsOf(config: RunConfig, isWanted: (entry: RunOptionEntry) => boolean): Texts {
  const wanted = RUN_OPTION_LIST.flatMap(([name, entry]): [string, string][] => {
    const field = fieldOf(name);
    return field === undefined || !isWanted(entry) ? [] : [[name, textOf(entry, config[field])]];
  });
  return Object.fromEntries(wanted);
}

function textOf({ type }: RunOptionEntry, value: unknown): string {
  if (type.text !== undefined) return type.text(value);
  return typeof value === "string" ? value : JSON.stringify(value ?? null);
}
