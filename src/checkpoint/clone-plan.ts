/**
 * Which files of a checkpoint directory belong into its pruned clone.
 *
 * By exclusion: an inclusion list is what loses processors, chat templates and custom code. Left out are weights in
 * other files than the shards (they hold the dense model, and some loaders prefer them) and traces of tools.
 * Symbolic links are followed, because snapshots of the Hugging Face cache consist of them.
 */
import { readdir, realpath, stat } from "../files/checkpoint-files.js";
import { join } from "node:path";
import { CheckpointError } from "../errors.js";

export interface PlannedFile {
  /** Path relative to the checkpoint, with the separators of the system. */
  readonly path: string;
  /** Where its bytes really are. */
  readonly realPath: string;
  readonly sizeBytes: number;
}

export interface ClonePlan {
  /** Subdirectories to create, parents first. */
  readonly directories: readonly string[];
  readonly files: readonly PlannedFile[];
}

/** Deeper trees are not checkpoints; also ends cycles of symbolic links that the cycle check cannot see. */
export const DEPTH_CAP = 16;

const EXCLUDED_FILES: readonly RegExp[] = [
  // Weights in other formats, optimiser states, and indexes of either.
  /\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx|onnx_data|ort|h5|msgpack|tflite|ot|npz|nemo|engine|mlmodel|pdparams)$/i,
  /\.(safetensors|bin|h5|msgpack)\.index(\.[^.]+)?\.json$/i,
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
 * @param skip   top-level names never copied (this program's own working files)
 * @throws CheckpointError `E_FILE_MISSING` for a dangling link, `E_FILE_ACCESS`, `E_DIRECTORY_DEPTH`
 */
export async function planClone(
  directory: string,
  shards: readonly string[],
  skip: readonly string[],
): Promise<ClonePlan> {
  const directories: string[] = [];
  const files: PlannedFile[] = [];
  const wanted = new Set(shards);
  const skipped = new Set(skip);

  const visit = async (folder: string, ancestors: readonly string[]): Promise<void> => {
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
      const isShard = isTop && wanted.has(name);
      if (!isShard && ((isTop && skipped.has(name)) || isExcluded(name, EXCLUDED_FILES))) continue;
      const found = await stat(join(directory, path));
      if (found.isFile()) {
        files.push({ path, realPath: await realpath(join(directory, path)), sizeBytes: found.size });
      } else if (found.isDirectory() && !isExcluded(name, EXCLUDED_DIRECTORIES)) {
        if (chain.includes(await realpath(join(directory, path)))) continue; // a link to a folder around it
        directories.push(path);
        await visit(path, chain);
      }
    }
  };
  await visit("", []);
  return { directories, files };
}
