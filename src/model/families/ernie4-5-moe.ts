/**
 * ERNIE 4.5, sparse: softmax scores with a correction in the choice alone, experts that all tokens share, and mixtures in
 * a range of layers.
 */
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { requireBoolean, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { readMixture, type RouterParts, type ShapeOf } from "../moe-config.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";
import { readErnie } from "./ernie4-5.js";

/** The smallest sum that weights are divided by; sums of probabilities come nowhere near it. */
const MOST_FLOOR = 1e-6;

function readRouter(values: ConfigObject): RouterParts {
  const experts = values.count("moe_num_experts");
  if (values.number("moe_norm_min") > MOST_FLOOR) throw values.refuse("moe_norm_min", `at most ${MOST_FLOOR}`);
  return {
    experts,
    chosen: values.count("moe_k"),
    isRenormalized: true,
    correction: { role: "mlp.moe_statics.e_score_correction_bias", shape: [1, experts] },
  };
}

/** Every `moe_layer_interval`-th layer from a first to a last one; -1 is the model's last. */
function readExpertLayers(values: ConfigObject): (layer: number) => boolean {
  const [first, end] = [values.number("moe_layer_start_index"), values.number("moe_layer_end_index")];
  const last = end === -1 ? values.count("num_hidden_layers") - 1 : end;
  const interval = values.count("moe_layer_interval");
  return (layer) => (layer + 1) % interval === 0 && layer >= first && layer <= last;
}

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  requireBoolean(values, "use_bias", false);
  const hasExperts = readExpertLayers(values);
  const shared = values.number("moe_num_shared_experts");
  return describeGatedDecoder("ernie4_5_moe", config, hasTensor, {
    ...readErnie(values),
    mlpOf: (layer, dense) =>
      hasExperts(layer)
        ? readMixture(values, `model.layers.${layer}`, shapeOf, {
            router: readRouter(values),
            ...(shared > 0
              ? { shared: { path: "mlp.shared_experts", width: shared * values.count("moe_intermediate_size") } }
              : {}),
          })
        : dense(),
  });
}

export const ERNIE4_5_MOE: Family = {
  name: "ernie4_5_moe",
  modelTypes: ["ernie4_5_moe"],
  exercises: [
    "mixture of experts with a correction in the choice alone",
    "shared experts",
    "dense layers among sparse ones",
    "interleaved rotary",
  ],
  edit: { ...DECODER_EDIT, experts: ["moe_num_experts", "num_experts"], mixtures: "moe_layer_start_index" },
  describe,
};
