/**
 * Which files of a checkpoint directory belong into its pruned clone.
 *
 * By exclusion: an inclusion list is what loses processors, chat templates and custom code. Left out are weights in
 * other files than the shards (they hold the dense model, and some loaders prefer them) and traces of tools.
 * Symbolic links are followed, because snapshots of the Hugging Face cache consist of them, but out of the folder only to
 * where a checkpoint's files are: a link to anything else would put a private file into what may be published.
 */
import { constants } from "../files/door.js";
import { access, readdir, realpath, stat } from "../files/checkpoint-files.js";
import { basename, dirname, join, sep } from "node:path";
import { CheckpointError } from "../errors.js";

export interface PlannedFile {
  /** Path relative to the clone, with the separators of the system. */
  readonly path: string;
  /** Where its bytes really are. */
  readonly realPath: string;
  readonly sizeBytes: number;
  /** In place of a copy. */
  readonly rewrite?: (path: string) => Promise<void>;
}

export interface ClonePlan {
  /** Subdirectories to create, parents first. */
  readonly directories: readonly string[];
  readonly files: readonly PlannedFile[];
  /** What users may miss, in words: left out, or under another name. */
  readonly notes: readonly string[];
}

/** The run's own names in the output, which the source may have too. */
export interface OwnNames {
  /**
   * Files and folders that are there only while the run is at work: what the source has of these names is left out. The first is
   * removed first: while it is there, so are the others.
   */
  readonly working: readonly string[];
  /** Files that the run leaves: what the source has of these names is kept under another. */
  readonly written: readonly string[];
}

/** Deeper trees are not checkpoints; also ends cycles of symbolic links that the cycle check cannot see. */
export const DEPTH_CAP = 16;

const EXCLUDED_FILES: readonly RegExp[] = [
  // Weights in other formats, optimiser states, and indexes of either.
  /\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx|onnx_data|ort|h5|msgpack|tflite|ot|npz|nemo|engine|mlmodel|pdparams)$/i,
  /\.(safetensors|bin|h5|msgpack)\.index(\.[^.]+)?\.json$/i,
  /^adapter_config\.json$/i, // without the adapter's weights it leads loaders past the pruned ones, to its base model
  /^params\.json$/, // describes consolidated*.safetensors and makes some loaders look for them
  // Traces of tools and unfinished downloads.
  /\.(partial|incomplete|tmp|lock)$/i,
  /^\.DS_Store$/,
];

const EXCLUDED_DIRECTORIES: readonly RegExp[] = [
  /^(original|onnx|openvino|coreml|gguf)$/i, // the same model in another format
  /^(checkpoint-|global_step)\d+$/, // training states
  /^(\.git|\.cache|\.ipynb_checkpoints|__pycache__)$/,
  /\.(partial|mlpackage)$/i,
];

function isExcluded(name: string, rules: readonly RegExp[]): boolean {
  return rules.some((rule) => rule.test(name));
}

/**
 * List what to copy beside the shards and the index in use.
 *
 * @param shards the shard names and, where there is one, the index: copied in any case
 * @param own    top-level names that the output has for itself
 * @throws CheckpointError `E_FILE_MISSING` for a dangling link, `E_FILE_ACCESS`, `E_DIRECTORY_DEPTH`
 */
export async function planClone(directory: string, shards: readonly string[], own: OwnNames): Promise<ClonePlan> {
  const directories: string[] = [];
  const files: PlannedFile[] = [];
  const wanted = new Set(shards);
  const top = new Set(await readdir(directory));
  const notes = [...top].flatMap((name) =>
    own.working.includes(name)
      ? [`${join(directory, name)} is not copied: a run has a file of that name while it works`]
      : [],
  );
  const renamed = new Map(own.written.flatMap((name) => (top.has(name) ? [[name, freeName(name, top)] as const] : [])));
  for (const [name, kept] of renamed) notes.push(`${join(directory, name)} is kept as ${kept}: the run writes its own`);

  /** @param target the folder's name in the clone */
  const visit = async (folder: string, target: string, ancestors: readonly string[]): Promise<void> => {
    const here = join(directory, folder);
    if (ancestors.length > DEPTH_CAP) {
      throw new CheckpointError(
        "E_DIRECTORY_DEPTH",
        `${here}: more than ${DEPTH_CAP} folders deep; expected a checkpoint directory.`,
        {
          hint: "Give the directory that holds config.json itself.",
          details: { directory: here, limit: DEPTH_CAP },
        },
      );
    }
    const isTop = ancestors.length === 0;
    const chain = [...ancestors, await realpath(here)];
    for (const name of (await readdir(here)).sort()) {
      const path = join(folder, name);
      const isTaken = async (real: string): Promise<boolean> => {
        if (await mayLeadTo(real, chain)) return true;
        notes.push(`${join(directory, path)} is not copied: it is a link to ${real}, where no checkpoint is`);
        return false;
      };
      const targetPath = join(target, (isTop ? renamed.get(name) : undefined) ?? name);
      const isShard = isTop && wanted.has(name);
      if (/^adapter_config\.json$/i.test(name))
        notes.push(
          `${join(directory, path)} is not copied, nor are its adapter's weights: they belong to the dense model`,
        );
      if (!isShard && ((isTop && own.working.includes(name)) || isExcluded(name, EXCLUDED_FILES))) continue;
      const found = await stat(join(directory, path));
      if (found.isFile()) {
        const realPath = await realpath(join(directory, path));
        if (!isShard && !(await isTaken(realPath))) continue;
        await access(realPath, constants.R_OK);
        files.push({ path: targetPath, realPath, sizeBytes: found.size });
      } else if (found.isDirectory() && !isExcluded(name, EXCLUDED_DIRECTORIES)) {
        const realFolder = await realpath(join(directory, path));
        if (chain.includes(realFolder)) continue; // a link to a folder around it
        if (!(await isTaken(realFolder))) continue;
        directories.push(targetPath);
        await visit(path, targetPath, chain);
      }
    }
  };
  await visit("", "", []);
  return { directories, files, notes };
}

/** The folder of the files that snapshots of the Hub's cache link to. */
const BLOBS = "blobs";

/** Whether what a path really leads to is inside one of the folders, or a part of another checkpoint. */
async function mayLeadTo(real: string, folders: readonly string[]): Promise<boolean> {
  if (folders.some((folder) => real.startsWith(folder + sep))) return true;
  const folder = dirname(real);
  if (basename(folder) === BLOBS) return true;
  return (await readdir(folder)).some((name) => name.endsWith(".safetensors"));
}

/** recipe.yaml → source-recipe.yaml, or with a number behind that where it is taken. */
function freeName(name: string, taken: ReadonlySet<string>): string {
  for (let number = 1; ; number++) {
    const free = `source${number === 1 ? "" : `-${number}`}-${name}`;
    if (!taken.has(free)) return free;
  }
}
