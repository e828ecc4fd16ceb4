/** What many families' config.json files share: head counts, activations, windows, tied heads. */
import { CheckpointError } from "../errors.js";
import { MOST_PARTS, type ConfigObject } from "./config.js";
import type { Activation } from "./pieces.js";

/** Whether the checkpoint holds a tensor of this name. */
export type HasTensor = (name: string) => boolean;

export interface HeadCounts {
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
}

/**
 * Head counts from `num_attention_heads`, `num_key_value_heads` and `head_dim`.
 * @param headDimDefault where a family's heads are not hidden / heads wide when the config is silent
 */
export function readHeads(values: ConfigObject, hiddenSize: number, headDimDefault?: number): HeadCounts {
  const heads = values.count("num_attention_heads");
  const keyValueHeads = values.count("num_key_value_heads", heads);
  if (heads % keyValueHeads !== 0) {
    throw new CheckpointError(
      "E_CONFIG",
      `config.json: ${heads} attention heads cannot be shared by ${keyValueHeads} key/value heads; expected a divisor.`,
      { details: { heads, keyValueHeads } },
    );
  }
  const headDim = values.has("head_dim")
    ? values.count("head_dim")
    : (headDimDefault ?? widthOfHead(hiddenSize, heads));
  return { heads, keyValueHeads, headDim };
}

/** hidden / heads, which must come out even, and as wide as a head may be. */
export function widthOfHead(hiddenSize: number, heads: number): number {
  const width = hiddenSize / heads;
  if (Number.isInteger(width) && width <= MOST_PARTS) return width;
  throw new CheckpointError(
    "E_CONFIG",
    `config.json: a hidden size of ${hiddenSize} cannot be split over ${heads} attention heads; expected a divisor, and heads of at most ${MOST_PARTS}.`,
    { details: { hiddenSize, heads } },
  );
}

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu-tanh",
  gelu_fast: "gelu-tanh",
  gelu_pytorch_tanh: "gelu-tanh",
  relu: "relu",
  relu2: "relu2",
};

/** @throws CheckpointError naming the key and its value where the activation is not one of ours */
export function readActivation(values: ConfigObject, key: string, fallback?: string): Activation {
  const name = values.string(key, fallback);
  const activation = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (activation === undefined) throw values.refuse(key, `one of ${Object.keys(ACTIVATIONS).join(", ")}`);
  return activation;
}

/** The config's word, else the library's default for the family; a file without a head tensor is tied in any case. */
export function readTied(values: ConfigObject, isTiedByDefault: boolean, hasTensor: HasTensor, head: string): boolean {
  return values.boolean("tie_word_embeddings", isTiedByDefault) || !hasTensor(`${head}.weight`);
}

/** A switch that this program knows in one position only. */
export function requireBoolean(values: ConfigObject, key: string, expected: boolean): void {
  if (values.boolean(key, expected) !== expected) throw values.refuse(key, String(expected));
}

/** The window of a layer, or undefined where it sees its whole past. */
export type WindowOf = (layer: number) => number | undefined;

/** `sliding_window` on the layers that `layer_types` calls sliding, or that the family's own rule does. */
export function readWindows(values: ConfigObject, isLocal: (layer: number) => boolean, fallback?: number): WindowOf {
  const window =
    fallback === undefined && !values.has("sliding_window") ? undefined : values.count("sliding_window", fallback);
  const isSliding = readLocalLayers(values, isLocal);
  return (layer) => (isSliding(layer) ? window : undefined);
}

/** Which layers are local: as `layer_types` says, else by the family's own rule. */
export function readLocalLayers(values: ConfigObject, isLocal: (layer: number) => boolean): (layer: number) => boolean {
  const kinds = values.strings("layer_types");
  if (kinds === undefined) return isLocal;
  const layers = values.count("num_hidden_layers");
  const isKnown = kinds.every((kind) => kind === "full_attention" || kind === "sliding_attention");
  if (!isKnown || kinds.length !== layers)
    throw values.refuse("layer_types", `${layers} times "full_attention" or "sliding_attention"`);
  return (layer) => kinds[layer] === "sliding_attention";
}

/** What kind each layer is of: as `layer_types` says, else by the family's own rule. */
export function readLayerKinds<Kind extends string>(
  values: ConfigObject,
  known: readonly Kind[],
  fallback: (layer: number) => Kind,
): (layer: number) => Kind {
  const kinds = values.strings("layer_types");
  if (kinds === undefined) return fallback;
  const layers = values.count("num_hidden_layers");
  const isKnown = (kind: string): kind is Kind => (known as readonly string[]).includes(kind);
  if (!kinds.every(isKnown) || kinds.length !== layers)
    throw values.refuse("layer_types", `${layers} times ${known.map((kind) => `"${kind}"`).join(" or ")}`);
  return (layer) => kinds[layer] as Kind;
}

/** As the Qwen families have it: windows only with `use_sliding_window`, and then from `max_window_layers` on. */
export function readSwitchedWindows(values: ConfigObject): WindowOf {
  const window = values.numberOrNull("sliding_window", 4096);
  const first = values.number("max_window_layers", 28);
  if (!values.boolean("use_sliding_window", false) || window === undefined) return () => undefined;
  return readWindows(values, (layer) => layer >= first, 4096);
}
