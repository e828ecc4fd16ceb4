/** What a family of models is: a name, the model types it describes, and the description itself. */
import type { Architecture } from "./architecture.js";
import type { ModelConfig } from "./config.js";
import type { FamilyEdit } from "./family-edit.js";

export interface Family {
  readonly name: string;
  /** Values of config.json's `model_type`. */
  readonly modelTypes: readonly string[];
  /** What of the program it covers, in short phrases, for `prune families` and the documentation. */
  readonly exercises: readonly string[];
  /** How its config says a part of a model: fewer blocks, experts, channels. Absent: no part of it can be written. */
  readonly edit?: FamilyEdit;
  /**
   * The model in canonical tensor names; those of the checkpoint may differ by a prefix (see ../tensor-names.ts).
   * @param hasTensor whether the checkpoint holds a tensor of this name
   * @param shapeOf   its shape, for families that are stored in several layouts
   */
  describe(
    config: ModelConfig,
    hasTensor: (name: string) => boolean,
    shapeOf: (name: string) => readonly number[] | undefined,
  ): Architecture;
}
