/** Data sets by name: which of their files the papers' protocols read, and where copies of them lie on this machine. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import type { TokenSource } from "../contract.js";
import { CalibrationError } from "../errors.js";
import { existsSync, readdirSync, readFileSync, statSync } from "../files/request-files.js";
import { DATA_SETS, type DataSet } from "../options/values.js";

/** What tokens are for: calibration takes the training split, perplexity the one that nobody trains on. */
export type TokenUse = "calibration" | "evaluation";

interface DataSetFiles {
  /** Names of the repository on the Hub, the present one first. */
  readonly repositories: readonly string[];
  /** Paths of the same data, of which one is enough; the first is the repository's. */
  readonly files: Readonly<Record<TokenUse, readonly string[]>>;
}

const FILES: Readonly<Record<DataSet, DataSetFiles>> = {
  c4: {
    repositories: ["allenai/c4"],
    files: {
      calibration: ["en/c4-train.00000-of-01024.json.gz"],
      evaluation: ["en/c4-validation.00000-of-00008.json.gz"],
    },
  },
  wikitext2: {
    repositories: ["Salesforce/wikitext", "wikitext"],
    files: {
      calibration: ["wikitext-2-raw-v1/train-00000-of-00001.parquet", "wikitext-2-raw/wiki.train.raw"],
      evaluation: ["wikitext-2-raw-v1/test-00000-of-00001.parquet", "wikitext-2-raw/wiki.test.raw"],
    },
  },
};

/**
 * NAME of a data set, or NAME:PLACE with a file or a folder that holds a copy; undefined where the text is neither.
 * @throws CalibrationError E_DATA_SET where no copy is there
 */
export function findDataSet(text: string, use: TokenUse, workingDirectory: string): TokenSource | undefined {
  const [name = "", place] = text.split(/:(.*)/s);
  const set = DATA_SETS.find((each) => each === name);
  if (set === undefined) return undefined;
  const folders =
    place === undefined || place === ""
      ? cachedSnapshots(set)
      : [resolve(workingDirectory, place)].flatMap(withSnapshots);
  for (const folder of folders) {
    if (existsSync(folder) && !statSync(folder).isDirectory()) return { file: folder, set };
    for (const file of FILES[set].files[use])
      for (const path of [file, file.split("/").at(-1) ?? file])
        if (existsSync(join(folder, path))) return { file: join(folder, path), set };
  }
  const { repositories, files } = FILES[set];
  const [wanted] = files[use];
  const where = place === undefined || place === "" ? "the cache of the Hub" : resolve(workingDirectory, place);
  throw new CalibrationError("E_DATA_SET", `${set}: ${wanted} is not in ${where}.`, {
    hint: `Get it with \`hf download ${repositories[0]} ${wanted} --repo-type dataset\`, or name a copy: ${set}:FOLDER.`,
    details: { set, use, repository: repositories[0], file: wanted },
  });
}

/** Where Hugging Face's libraries keep what they download. */
function cacheDirectory(): string {
  const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
  if (HF_HUB_CACHE !== undefined && HF_HUB_CACHE !== "") return HF_HUB_CACHE;
  if (HF_HOME !== undefined && HF_HOME !== "") return join(HF_HOME, "hub");
  const cache = XDG_CACHE_HOME === undefined || XDG_CACHE_HOME === "" ? join(homedir(), ".cache") : XDG_CACHE_HOME;
  return join(cache, "huggingface", "hub");
}

function cachedSnapshots(set: DataSet): string[] {
  return FILES[set].repositories
    .map((repository) => join(cacheDirectory(), `datasets--${repository.replaceAll("/", "--")}`))
    .flatMap((folder) => withSnapshots(folder).slice(1));
}

/** A folder, and where it is a repository of the cache its revisions, the main branch's first. */
function withSnapshots(folder: string): string[] {
  const snapshots = join(folder, "snapshots");
  if (!existsSync(snapshots)) return [folder];
  const main = join(folder, "refs", "main");
  const first = existsSync(main) ? [readFileSync(main, "utf8").trim()] : [];
  return [folder, ...new Set([...first, ...readdirSync(snapshots)])].map((revision) =>
    revision === folder ? folder : join(snapshots, revision),
  );
}
