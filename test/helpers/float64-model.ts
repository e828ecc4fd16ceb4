/** A whole model in the float64 interpreter: the loss of a sequence, for whatever its blocks' tensors are moved to. */
import { addTileLogits, buildNormGraph } from "../../src/forward/head.js";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { buildPrologueGraph } from "../../src/forward/embedding.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { GraphBuilder } from "../../src/graph/graph.js";
import { lookUp } from "../../src/look-up.js";
import type { Architecture, BlockTensor } from "../../src/model/architecture.js";
import { maskShape, maskValues } from "../../src/model/mask.js";
import type { Model } from "../../src/model/open-model.js";
import { rotaryAngles } from "../../src/model/rotary.js";
import { interpret, tensor, type Tensor } from "../reference/graph-interpreter.js";

type Tensors = Map<string, Tensor>;

/** What goes by positions, for one sequence of so many tokens. */
export function positionTensors({ rotaryTables, masks }: Architecture, tokens: number): Tensors {
  const feeds: Tensors = new Map([["positions", tensor([1, tokens], (index) => index)]]);
  for (const [name, table] of rotaryTables) {
    const { cos, sin } = rotaryAngles(table, tokens);
    const shape = [tokens, table.dimensions / 2];
    feeds.set(`cos.${name}`, { shape, values: Float64Array.from(cos) });
    feeds.set(`sin.${name}`, { shape, values: Float64Array.from(sin) });
  }
  for (const [name, mask] of masks)
    feeds.set(`mask.${name}`, {
      shape: maskShape(mask.slopes, tokens),
      values: Float64Array.from(maskValues(mask, tokens)),
    });
  return feeds;
}

export interface Float64Model {
  /** Of every block, by role; may be changed. */
  readonly blocks: readonly Tensors[];
  /** Mean next-token cross-entropy of a sequence. */
  loss(ids: Int32Array): number;
}

export async function float64Model({ architecture, checkpoint }: Model): Promise<Float64Model> {
  const { head, state, embeddingWidth, sideTables, vocabularySize, prologue } = architecture;
  const read = async (named: ReadonlyMap<string, BlockTensor>): Promise<Tensors> => {
    const tensors: Tensors = new Map();
    for (const [role, { tensor: name, shape }] of named)
      tensors.set(role, { shape, values: Float64Array.from(await checkpoint.readTensor(name)) });
    return tensors;
  };
  const blocks: Tensors[] = [];
  for (const block of architecture.blocks) {
    const weights = await readBlockWeights(checkpoint, block);
    const values = (role: string): Float64Array => Float64Array.from(lookUp(weights, role));
    blocks.push(new Map([...block.tensors].map(([role, { shape }]) => [role, { shape, values: values(role) }])));
  }
  const ends = await read(new Map([...(prologue?.tensors ?? []), ...head.tensors]));
  const embedding = await checkpoint.readTensor(architecture.embedding);
  const projection = Float64Array.from(await checkpoint.readTensor(head.projection));
  const bias = head.bias === undefined ? new Float32Array(vocabularySize) : await checkpoint.readTensor(head.bias);
  const logitGraph = new GraphBuilder("logits");
  logitGraph.output("logits", addTileLogits(logitGraph, architecture));
  const logits = logitGraph.build();

  const sides: Float32Array[] = [];
  for (const table of sideTables) sides.push(await checkpoint.readTensor(table.tensor));
  /** A column of a token's slot: of the embedding, or of a table behind it. */
  const lookedUp = (id: number, column: number): number => {
    if (column < embeddingWidth) return embedding[id * embeddingWidth + column] as number;
    let at = column - embeddingWidth;
    for (const [index, { rows, width }] of sideTables.entries()) {
      if (at < width) return sides[index]?.[(id < rows ? id : 0) * width + at] ?? NaN;
      at -= width;
    }
    return 0;
  };

  const embed = (ids: Int32Array): Tensor => {
    const slots = tensor([ids.length, state.width], (index) => {
      const [row, column] = [Math.floor(index / state.width), index % state.width];
      return lookedUp(ids[row] as number, column);
    });
    if (prologue === undefined) return slots;
    const positions = tensor([ids.length], (index) => index);
    const feeds = new Map([...ends, ["slots", slots], ["positions", positions]] as const);
    return lookUp(interpret(buildPrologueGraph(architecture, prologue), feeds), "hidden");
  };

  return {
    blocks,
    loss(ids) {
      let hidden = embed(ids);
      const feeds = positionTensors(architecture, ids.length);
      for (const block of architecture.blocks) {
        const graph = buildBlockGraph(architecture, block, { hidden: true, taps: undefined });
        const own = blocks[block.index] as Tensors;
        hidden = lookUp(interpret(graph, new Map([...feeds, ...own, ["hidden", hidden]])), "output");
      }
      const normed = lookUp(interpret(buildNormGraph(architecture), new Map([...ends, ["hidden", hidden]])), "normed");
      const { values } = lookUp(
        interpret(
          logits,
          new Map<string, Tensor>([
            ["hidden", normed],
            ["tile", { shape: [vocabularySize, head.width], values: projection }],
            ["bias", { shape: [vocabularySize], values: Float64Array.from(bias) }],
          ]),
        ),
        "logits",
      );
      let loss = 0;
      for (let row = 0; row + 1 < ids.length; row++) {
        const own = values.subarray(row * vocabularySize, (row + 1) * vocabularySize);
        const top = own.reduce((largest, logit) => Math.max(largest, logit), -Infinity);
        const partition = top + Math.log(own.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
        loss += partition - (own[ids[row + 1] as number] as number);
      }
      return loss / (ids.length - 1);
    },
  };
}
