/**
 * Rotary position embedding tables: inverse frequencies under the scaling a config asks for, then cos and sin.
 *
 * Arithmetic follows the reference implementation, which computes frequencies and angles in float32: models were
 * trained and are run with those roundings.
 * Sources: Su et al. 2021, arXiv:2104.09864; yarn: Peng et al. 2023, arXiv:2309.00071; longrope: Ding et al. 2024,
 * arXiv:2402.13753; the llama3 rule as released with Llama 3.1.
 */
import { CheckpointError } from "../errors.js";
import type { ConfigObject } from "./config.js";

export interface RotaryTable {
  /** Rotated dimensions of a head; even. */
  readonly dimensions: number;
  /** Some scalings depend on how long a sequence is. */
  at(tokens: number): RotaryFrequencies;
}

export interface RotaryFrequencies {
  /** [dimensions / 2], float32 values */
  readonly inverseFrequencies: Float32Array;
  /** cos and sin are multiplied by this; default 1. */
  readonly attentionFactor?: number;
}

/** How a family's config departs from `rope_theta` over the whole head. */
export interface RotaryKeys {
  /** The base where the config has none; default 10000. */
  readonly theta?: number;
  /** Names of the base, the first one present counts; default `rope_theta`. */
  readonly thetaKeys?: readonly [string, ...string[]];
  /** Whether a part of a head is rotated, which the config says. */
  readonly isPartial?: boolean;
  /** The fraction of a head that is rotated, where the config has none; without it and `isPartial` the whole head is. */
  readonly fraction?: number;
  /** Names of that fraction; default `partial_rotary_factor`. */
  readonly fractionKeys?: readonly [string, ...string[]];
  /** Which of several sets of parameters, where the config has one per kind of layer. */
  readonly layerKind?: string;
  /** Whether a 4.x config's `rope_scaling` is meant for another table than this. */
  readonly isUnscaled?: boolean;
}

/** What every scaling starts from. */
interface Basis {
  readonly config: ConfigObject;
  readonly parameters: ConfigObject;
  readonly dimensions: number;
  readonly theta: number;
  readonly plain: Float32Array;
}

const SCALINGS: Readonly<Record<string, (basis: Basis) => RotaryTable["at"]>> = {
  default: ({ plain }) => fixed(plain),
  mrope: ({ plain }) => fixed(plain), // positions in time, height and width are one and the same for text
  linear({ plain, parameters }) {
    const factor = parameters.number("factor");
    return fixed(plain.map((frequency) => frequency / factor));
  },
  llama3: (basis) => fixed(scaleLlama3(basis)),
  yarn: scaleYarn,
  dynamic: scaleDynamic,
  longrope: scaleLongRope,
  su: scaleLongRope, // longrope's name in the first Phi-3 files
};

function fixed(inverseFrequencies: Float32Array, attentionFactor = 1): RotaryTable["at"] {
  return () => ({ inverseFrequencies, attentionFactor });
}

/** θ^(-2i / dimensions) */
function frequenciesOf(theta: number, dimensions: number): Float32Array {
  return Float32Array.from({ length: dimensions / 2 }, (_, i) => 1 / Math.fround(theta ** ((2 * i) / dimensions)));
}

/**
 * Scaling written as `rope_scaling` (4.x libraries) or `rope_parameters` (5.x), keyed `type` or `rope_type`.
 * @throws CheckpointError for a scaling that is not known, or one whose values are missing
 */
export function readRotaryTable(config: ConfigObject, headDim: number, keys: RotaryKeys = {}): RotaryTable {
  const parameters = findParameters(config, keys);
  const read = ([first, ...others]: readonly [string, ...string[]], fallback?: number): number => {
    const key = config.keyAmong(first, ...others); // a file may say it in both places
    return parameters?.has(first) === true ? parameters.number(first) : config.number(key, fallback);
  };
  const theta = read(keys.thetaKeys ?? ["rope_theta"], keys.theta ?? 10000);
  const fraction =
    keys.fraction === undefined && keys.isPartial !== true
      ? 1
      : read(keys.fractionKeys ?? ["partial_rotary_factor"], keys.fraction);
  const dimensions = Math.trunc(headDim * fraction);
  if (dimensions < 2 || dimensions % 2 !== 0 || dimensions > headDim) {
    throw new CheckpointError(
      "E_ROPE",
      `config.json: rotary positions over ${fraction} of a head of ${headDim} are ${dimensions} dimensions; expected an even number from 2 to ${headDim}.`,
      { details: { key: "partial_rotary_factor", fraction, headDim } },
    );
  }
  const plain = frequenciesOf(theta, dimensions);
  if (parameters === undefined) return { dimensions, at: fixed(plain) };
  return { dimensions, at: findScaling(parameters)({ config, parameters, dimensions, theta, plain }) };
}

function findParameters(config: ConfigObject, keys: RotaryKeys): ConfigObject | undefined {
  const parameters = config.object("rope_parameters");
  if (parameters !== undefined && keys.layerKind !== undefined && parameters.has(keys.layerKind))
    return parameters.object(keys.layerKind);
  if (keys.isUnscaled === true) return undefined;
  return parameters ?? config.object("rope_scaling");
}

function findScaling(parameters: ConfigObject): (basis: Basis) => RotaryTable["at"] {
  const kind = parameters.string("rope_type", parameters.string("type", "default"));
  const scale = Object.hasOwn(SCALINGS, kind) ? SCALINGS[kind] : undefined;
  if (scale !== undefined) return scale;
  throw new CheckpointError(
    "E_ROPE",
    `config.json: rope scaling "${kind}" is not supported; known: ${Object.keys(SCALINGS).join(", ")}.`,
    {
      hint: "Set --seqlen within the original context and remove the scaling from a copy of config.json, if that is what you mean.",
      details: { key: "rope_type", found: kind },
    },
  );
}

/**
 * Long wavelengths are divided by `factor`, short ones kept, those between blended linearly in
 * original_max_position_embeddings / wavelength.
 */
function scaleLlama3({ plain, parameters, config }: Basis): Float32Array {
  const factor = parameters.number("factor");
  const low = parameters.number("low_freq_factor");
  const high = parameters.number("high_freq_factor");
  const original = parameters.number(
    "original_max_position_embeddings",
    config.number("max_position_embeddings", 8192),
  );
  return plain.map((frequency) => {
    const rotations = (original * frequency) / (2 * Math.PI); // original context / wavelength
    if (rotations < low) return frequency / factor;
    if (rotations > high) return frequency;
    const smooth = (rotations - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

/**
 * Frequencies that turn more than `beta_fast` times within the original context are kept, those below `beta_slow`
 * turns divided by `factor`, those between blended linearly in their index.
 */
function scaleYarn({ plain, parameters, config, dimensions, theta }: Basis): RotaryTable["at"] {
  const longest = config.number("max_position_embeddings", 0);
  const original = parameters.number("original_max_position_embeddings", longest);
  const factor = parameters.number("factor", original > 0 ? longest / original : 1);
  /** The index (times two: the dimension) whose frequency turns this often within the original context. */
  const dimensionAt = (turns: number): number =>
    (dimensions * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const whole = parameters.boolean("truncate", true);
  const fast = dimensionAt(parameters.number("beta_fast", 32));
  const slow = dimensionAt(parameters.number("beta_slow", 1));
  const first = Math.max(whole ? Math.floor(fast) : fast, 0);
  const last = Math.min(whole ? Math.ceil(slow) : slow, dimensions - 1);
  const width = first === last ? 0.001 : last - first;
  const frequencies = plain.map((frequency, i) => {
    const divided = Math.min(1, Math.max(0, (i - first) / width));
    return (frequency / factor) * divided + frequency * (1 - divided);
  });
  return fixed(frequencies, yarnAttentionFactor(parameters, factor));
}

/** 0.1 ln(factor) + 1 unless the config says otherwise; `mscale` pairs are DeepSeek's way of saying it. */
function yarnAttentionFactor(parameters: ConfigObject, factor: number): number {
  const grown = (mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  if (parameters.has("attention_factor")) return parameters.number("attention_factor");
  const mscale = parameters.number("mscale", 0);
  const mscaleAll = parameters.number("mscale_all_dim", 0);
  return mscale !== 0 && mscaleAll !== 0 ? grown(mscale) / grown(mscaleAll) : grown(1);
}

/**
 * Beyond the trained context the base grows with the length of the sequence. With Hunyuan's `alpha` it has grown for
 * all of the context, which is then what the model was trained with.
 */
function scaleDynamic({ parameters, config, dimensions, theta }: Basis): RotaryTable["at"] {
  if (parameters.has("alpha"))
    return fixed(frequenciesOf(theta * parameters.number("alpha") ** (dimensions / (dimensions - 2)), dimensions));
  const factor = parameters.number("factor");
  const longest = config.count("max_position_embeddings");
  return (tokens) => {
    const grown = (factor * Math.max(tokens, longest)) / longest - (factor - 1);
    return { inverseFrequencies: frequenciesOf(theta * grown ** (dimensions / (dimensions - 2)), dimensions) };
  };
}

/** Each frequency has two divisors, one for sequences within the original context and one for longer ones. */
function scaleLongRope({ plain, parameters, config, dimensions }: Basis): RotaryTable["at"] {
  const key = "original_max_position_embeddings";
  const longest = config.count("max_position_embeddings");
  const original = parameters.has(key) ? parameters.count(key) : config.count(key, longest);
  const factor = config.has(key) || parameters.has(key) ? longest / original : parameters.number("factor", 1);
  const grown = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  const attentionFactor = parameters.number("attention_factor", grown);
  const factorOf = (key: "short_mscale" | "long_mscale"): number => parameters.number(key, attentionFactor); // Phi-MoE's
  const [shortFactor, longFactor] = [factorOf("short_mscale"), factorOf("long_mscale")];
  const [long, short] = ["long_factor", "short_factor"].map((name) => {
    const divisors = parameters.numbers(name);
    if (divisors?.length !== dimensions / 2) throw parameters.refuse(name, `a list of ${dimensions / 2} numbers`);
    return plain.map((frequency, i) => frequency / divisors[i]);
  }) as [Float32Array, Float32Array];
  return (tokens) =>
    tokens > original
      ? { inverseFrequencies: long, attentionFactor: longFactor }
      : { inverseFrequencies: short, attentionFactor: shortFactor };
}

/** cos and sin of position · frequency, each [tokens, dimensions / 2]. */
export function rotaryAngles(
  table: RotaryTable,
  tokens: number,
): { readonly cos: Float32Array; readonly sin: Float32Array } {
  const half = table.dimensions / 2;
  const { inverseFrequencies, attentionFactor = 1 } = table.at(tokens);
  const cos = new Float32Array(tokens * half);
  const sin = new Float32Array(tokens * half);
  for (let position = 0; position < tokens; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * inverseFrequencies[i]);
      cos[position * half + i] = Math.cos(angle) * attentionFactor;
      sin[position * half + i] = Math.sin(angle) * attentionFactor;
    }
  }
  return { cos, sin };
}
