/**
 * Rotary position embedding tables: inverse frequencies under the scaling a config asks for, then cos and sin.
 *
 * Arithmetic follows the reference implementation, which computes frequencies and angles in float32: models were
 * trained and are run with those roundings.
 * Source: Su et al. 2021, arXiv:2104.09864; the llama3 rule as released with Llama 3.1.
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

function fixedTable(dimensions: number, inverseFrequencies: Float32Array): RotaryTable {
  return { dimensions, at: () => ({ inverseFrequencies }) };
}

const SUPPORTED = ["default", "linear", "llama3"] as const;

/** Scaling written as `rope_scaling` (4.x libraries) or `rope_parameters` (5.x), keyed `type` or `rope_type`. */
export function readRotaryTable(config: ConfigObject, dimensions: number): RotaryTable {
  const parameters = config.object("rope_parameters") ?? config.object("rope_scaling");
  const theta =
    parameters?.has("rope_theta") === true ? parameters.number("rope_theta") : config.number("rope_theta", 10000);
  const kind = parameters?.string("rope_type", parameters.string("type", "default")) ?? "default";
  const plain = Float32Array.from(
    { length: dimensions / 2 },
    (_, i) => 1 / Math.fround(theta ** ((2 * i) / dimensions)),
  );
  if (parameters === undefined || kind === "default") return fixedTable(dimensions, plain);
  switch (kind) {
    case "linear": {
      const factor = parameters.number("factor");
      return fixedTable(
        dimensions,
        plain.map((frequency) => frequency / factor),
      );
    }
    case "llama3":
      return fixedTable(dimensions, scaleLlama3(plain, parameters, config));
    default:
      throw new CheckpointError(
        "E_ROPE",
        `config.json: rope scaling "${kind}" is not supported; known: ${SUPPORTED.join(", ")}.`,
        {
          hint: "Set --seqlen within the original context and remove the scaling from a copy of config.json, if that is what you mean.",
          details: { key: "rope_type", found: kind },
        },
      );
  }
}

/**
 * Long wavelengths are divided by `factor`, short ones kept, those between blended linearly in
 * original_max_position_embeddings / wavelength.
 */
function scaleLlama3(frequencies: Float32Array, parameters: ConfigObject, config: ConfigObject): Float32Array {
  const factor = parameters.number("factor");
  const low = parameters.number("low_freq_factor");
  const high = parameters.number("high_freq_factor");
  const original = parameters.number(
    "original_max_position_embeddings",
    config.number("max_position_embeddings", 8192),
  );
  return frequencies.map((frequency) => {
    const rotations = (original * frequency) / (2 * Math.PI); // original context / wavelength
    if (rotations < low) return frequency / factor;
    if (rotations > high) return frequency;
    const smooth = (rotations - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
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
