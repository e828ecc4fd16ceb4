/** Files that are often found where another was meant, told by their first bytes, whatever their name says. */
import { CheckpointError } from "../errors.js";

export interface ForeignFile {
  /** With its article: "a Git LFS pointer, not the file itself". */
  readonly what: string;
  readonly hint: string;
}

/** How many bytes from the start tell all of them apart. */
export const FOREIGN_HEAD_BYTES = 512;

const DOWNLOAD = "The download was answered by something else than the file (a login or an error): download it again.";
const CONVERT = "Convert it to safetensors first (transformers: load it and save_pretrained).";
const UNPACK = "Unpack it first.";

/** Beginnings in Latin-1, so that every byte is a character. */
const BEGINNINGS: readonly (readonly [RegExp, string, string])[] = [
  [/^version https:\/\/git-lfs\./, "a Git LFS pointer, not the file itself", "Run `git lfs pull` in its folder."],
  [/^(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|\?xml|head|body)/i, "an HTML page", DOWNLOAD],
  [/^PK\x03\x04/, "a zip archive, as torch.save writes for PyTorch", CONVERT],
  [/^\x80[\x02-\x05][\x28-\x95}\]]/, "a Python pickle, as older PyTorch writes", CONVERT],
  [/^GGUF/, "a GGUF file of llama.cpp", "Take the original checkpoint: GGUF weights are for inference."],
  [/^(?:lmgg|fmgg|tjgg)/, "a GGML file of llama.cpp", "Take the original checkpoint: GGML weights are for inference."],
  [/^\x89HDF\r\n/, "an HDF5 file, as Keras writes", CONVERT],
  [/^\x93NUMPY/, "a NumPy array", CONVERT],
  [/^PAR1/, "a Parquet file", "Take the checkpoint: Parquet is read as text to calibrate on."],
  [/^ARROW1/, "an Arrow file", 'Write it as Parquet or JSON lines first: {"text": …} per line.'],
  [/^\x28\xb5\x2f\xfd/, "compressed with zstd", `${UNPACK} Of compressed texts gzip and zstd are read.`],
  [/^\xfd7zXZ\x00/, "compressed with xz", `${UNPACK} Of compressed texts gzip and zstd are read.`],
  [/^BZh[1-9]/, "compressed with bzip2", `${UNPACK} Of compressed texts gzip and zstd are read.`],
  [/^7z\xbc\xaf/, "a 7z archive", UNPACK],
  [/^\x1f\x8b/, "compressed with gzip", UNPACK],
  [/^%PDF-/, "a PDF", "Extract its text first."],
  [/^[^]{257}ustar/, "a tar archive", UNPACK],
];

/**
 * What a file is instead of what it should be, or undefined where nothing is known of it.
 * @param head the file's first bytes
 */
export function recogniseForeign(head: Uint8Array): ForeignFile | undefined {
  const text = Buffer.from(head.subarray(0, FOREIGN_HEAD_BYTES)).toString("latin1");
  const found = BEGINNINGS.find(([beginning]) => beginning.test(text));
  return found === undefined ? undefined : { what: found[1], hint: found[2] };
}

/**
 * The error for a file of a checkpoint that is another kind of file; undefined where nothing is known of it.
 * @param head the file's first bytes
 */
export function refusalOfForeign(file: string, head: Uint8Array): CheckpointError | undefined {
  const foreign = recogniseForeign(head);
  if (foreign === undefined) return undefined;
  return new CheckpointError("E_FOREIGN_FILE", `${file}: is ${foreign.what}.`, {
    hint: foreign.hint,
    details: { file, found: foreign.what },
  });
}
