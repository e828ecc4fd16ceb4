/** SmolLM3: llama in which some layers have no positions at all. */
import { readHeads, readWindows } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";
import { readRotaryTable } from "../rotary.js";

export const SMOLLM3 = gatedFamily(
  "smollm3",
  ["layers without rotary positions", "tied by default"],
  (values) => {
    const layers = values.count("num_hidden_layers");
    const interval = values.count("no_rope_layer_interval", 4);
    const flags = values.numbers("no_rope_layers"); // 1 where a layer does have positions, whatever the name says
    if (flags !== undefined && flags.length !== layers) throw values.refuse("no_rope_layers", `a list of ${layers}`);
    const hasRotary = (layer: number): boolean =>
      flags === undefined ? (layer + 1) % interval !== 0 : flags[layer] === 1;
    const hasWindows = values.boolean("use_sliding_window", false) && values.has("sliding_window");
    const { headDim } = readHeads(values, values.count("hidden_size"));
    return {
      rotaryTables: new Map([["default", readRotaryTable(values, headDim, { theta: 2e6 })]]),
      rotaryOf: (layer) => (hasRotary(layer) ? "default" : undefined),
      windowOf: hasWindows ? readWindows(values, (layer) => !hasRotary(layer)) : () => undefined,
      isTiedByDefault: true,
    };
  },
  { lists: { layer_types: ["full_attention", "sliding_attention"], no_rope_layers: [1, 0] } },
);
