/**
 * What a block's gradient holds at once, by the sizes of its values and the order of its nodes: within twice what the
 * forward does, and never the scores of several heads.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { decompose } from "../../src/graph/decompose.js";
import type { Bindings } from "../../src/graph/dimensions.js";
import { gradientOf } from "../../src/graph/gradient.js";
import { isFresh, type Graph } from "../../src/graph/graph.js";
import type { Architecture, BlockSpec } from "../../src/model/architecture.js";
import { ConfigObject } from "../../src/model/config.js";
import { LLAMA } from "../../src/model/families/llama.js";
import { openModel } from "../../src/model/open-model.js";
import { canEncode } from "../../src/onnx/encoder.js";
import { blockKinds, fixturesByBlockJoins } from "../helpers/graph-joins.js";
import { peakBytes } from "../helpers/peak.js";

interface Passes {
  readonly forward: Graph;
  readonly gradient: Graph;
}

function passesOf(architecture: Architecture, block: BlockSpec): Passes {
  const forward = buildBlockGraph(architecture, block, { hidden: true, taps: undefined });
  return { forward, gradient: gradientOf(forward, { of: ["hidden", ...block.tensors.keys()], through: ["output"] }) };
}

/** Those that hold more, with what they were measured at, rounded up. */
const HEAVIER: ReadonlyMap<string, number> = new Map([
  ["gemma3n_text", 2.2], // all of its streams, and what is carried beside them, go back side by side
  ["gpt_oss", 2.2],
  ["lfm2", 2.2],
  ["minimax", 2.6],
]);

/** Sizes of a run in which every expert has a quarter of the rows. */
function sizesOf(graph: Graph, batch: number, tokens: number): Bindings {
  const sizes: Bindings = new Map([
    ["batch", batch],
    ["tokens", tokens],
    ["table", tokens],
  ]);
  for (const node of decompose(graph, canEncode).nodes) {
    const size = node.operator === "cut" ? Math.ceil(tokens / node.attributes.size) : (batch * tokens) / 4;
    for (const dim of node.outputs.flatMap(({ shape }) => shape))
      if (isFresh(dim) && !sizes.has(dim)) sizes.set(dim, size);
  }
  return sizes;
}

function ratioOf({ forward, gradient }: Passes, batch: number, tokens: number): number {
  const [of, by] = [gradient, forward].map((graph) => peakBytes(graph, sizesOf(graph, batch, tokens)).bytes);
  return (of as number) / (by as number);
}

for (const { fixture, own } of await fixturesByBlockJoins()) {
  test(`${fixture.folder}: a block's gradient holds no more than twice what its forward does`, async () => {
    await using model = await openModel(fixture.directory);
    const kinds = blockKinds(model);
    for (const block of own.map((kind) => kinds[kind] as BlockSpec)) {
      const passes = passesOf(model.architecture, block);
      const ratio = ratioOf(passes, 8, 128);
      assert.ok(ratio <= (HEAVIER.get(fixture.folder) ?? 2), `${block.name}: ${ratio}`);
      const { nodes } = decompose(passes.gradient, canEncode);
      assert.ok(
        nodes.every(({ operator }) => operator !== "attention"),
        "ONNX Runtime's own attention holds the scores of all heads",
      );
      const several = nodes.filter(
        ({ operator, outputs }) =>
          operator !== "reshape" && // of a mask, which is an input
          outputs.some(({ shape }) => {
            const others = shape.filter((dim) => dim !== "tokens" && dim !== "batch" && dim !== 1);
            return shape.filter((dim) => dim === "tokens").length === 2 && others.length > 0;
          }),
      );
      assert.deepEqual(several, []);
    }
  });
}

test("the same holds at the sizes of a model of 1.1B parameters, for few and many tokens", () => {
  const values = {
    hidden_act: "silu",
    hidden_size: 2048,
    intermediate_size: 5632,
    num_hidden_layers: 1,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    vocab_size: 32000,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: false,
  };
  const architecture = LLAMA.describe(
    { values: new ConfigObject(values, "config.json"), modelType: "llama", text: JSON.stringify(values) },
    () => true,
    () => undefined,
  );
  const passes = passesOf(architecture, architecture.blocks[0] as BlockSpec);
  for (const [batch, tokens] of [
    [64, 32],
    [8, 256],
    [4, 512],
    [1, 2048],
  ] as const) {
    const ratio = ratioOf(passes, batch, tokens);
    assert.ok(ratio <= 2, `${batch} sequences of ${tokens}: ${ratio}`);
  }
});
