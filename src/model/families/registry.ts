/** Which family describes which `model_type`. Adding a family is one file and one line here. */
import { CheckpointError } from "../../errors.js";
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { LLAMA } from "./llama.js";

export interface Family {
  readonly name: string;
  /** Values of config.json's `model_type`. */
  readonly modelTypes: readonly string[];
  /** @param hasTensor whether the checkpoint holds a tensor of this name */
  describe(config: ModelConfig, hasTensor: (name: string) => boolean): Architecture;
}

export const FAMILIES: readonly Family[] = [LLAMA];

export function findFamily(config: ModelConfig): Family {
  const family = FAMILIES.find((candidate) => candidate.modelTypes.includes(config.modelType));
  if (family !== undefined) return family;
  const known = FAMILIES.flatMap((candidate) => candidate.modelTypes).join(", ");
  throw new CheckpointError(
    "E_ARCHITECTURE",
    `config.json: model_type "${config.modelType}" is not supported; known: ${known}.`,
    {
      hint: "prune reads the layout of these families; see docs/architecture.md for how one is added.",
      details: { key: "model_type", found: config.modelType },
    },
  );
}
