/** Checkpoints whose weights are quantised: which kind it is, told by config.json and by what the tensors are called. */
import type { Checkpoint } from "../checkpoint/checkpoint.js";
import { isFloatDtype } from "../checkpoint/dtype.js";
import { CheckpointError } from "../errors.js";
import type { ModelConfig } from "./config.js";

/** Tensor names, and sometimes dtypes, that only one kind of quantisation has. */
const MARKS: readonly (readonly [name: RegExp, kind: string, dtype?: RegExp])[] = [
  [/\.g_idx$/, "GPTQ"],
  [/\.(?:qweight|qzeros)$/, "GPTQ or AWQ"],
  [/\.q_weight$/, "EXL2"],
  [/\.W_q$/, "HQQ"],
  [/\.(?:codes|codebooks)$/, "AQLM"],
  [/\.quant_state\.bitsandbytes__|\.weight\.(?:absmax|quant_map|nested_absmax)$/, "bitsandbytes, 4 bits"],
  [/\.(?:SCB|weight_format)$/, "bitsandbytes, 8 bits"],
  [/\.weight_packed$/, "compressed-tensors, packed integers"],
  [/_blocks$/, "MXFP4", /^U8$/],
  [/\.weight_scale_2$/, "NVFP4"],
  [/\.(?:weight_scale_inv|weight_scale|input_scale)$/, "FP8 or INT8 with scales"],
  [/\.weight$/, "FP8", /^F8_/],
  [/\.weight$/, "INT8", /^[IU]8$/],
];

/** The name of what config.json says of a quantisation: "gptq", "fp8"; undefined where it says nothing. */
function declared({ quantisation }: ModelConfig): string | undefined {
  if (quantisation === undefined) return undefined;
  const method = quantisation["quant_method"] ?? quantisation["quant_type"];
  if (typeof method === "string") return method;
  const isBitsAndBytes = quantisation["load_in_4bit"] === true || quantisation["load_in_8bit"] === true;
  return isBitsAndBytes ? "bitsandbytes" : "of an unknown kind";
}

/** What the tensors say, with one of them; nothing where all of them are floats. */
function stored({ tensors }: Checkpoint): { readonly kind: string; readonly tensor: string } | undefined {
  const all = [...tensors.values()];
  if (all.every(({ dtype }) => isFloatDtype(dtype))) return undefined;
  for (const [mark, kind, dtypes] of MARKS) {
    const found = all.find(({ name, dtype }) => mark.test(name) && dtypes?.test(dtype) !== false);
    if (found !== undefined) return { kind, tensor: found.name };
  }
  return undefined;
}

/** The error for a checkpoint whose tensors do not fit its model; undefined where nothing says that they are quantised. */
export function quantisationProblem(config: ModelConfig, checkpoint: Checkpoint): CheckpointError | undefined {
  const [said, found] = [declared(config), stored(checkpoint)];
  if (found === undefined && said === undefined) return undefined;
  const grounds = [
    ...(said === undefined ? [] : [`config.json: quantization_config ${said}`]),
    ...(found === undefined ? [] : [`tensors as of ${found.kind}, such as ${found.tensor}`]),
  ];
  const { directory } = checkpoint;
  return new CheckpointError("E_QUANTISED", `${directory}: the checkpoint is quantised (${grounds.join("; ")}).`, {
    hint: "Take the original checkpoint in BF16, or dequantise this one first (transformers: load it, model.dequantize(), save_pretrained): pruning comes before quantisation.",
    details: { directory, method: said ?? null, kind: found?.kind ?? null },
  });
}
