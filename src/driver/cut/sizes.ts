/** What a model takes: parameters, those that a token passes, bytes, what a token leaves behind. */
import { elementsOf } from "../../array.js";
import type { ModelSizes } from "../../contract.js";
import { buildStepGraph, cacheShapeOf } from "../../forward/step-graph.js";
import { lookUp } from "../../look-up.js";
import type { Architecture, BlockSpec } from "../../model/architecture.js";
import { wantedTensors } from "../../model/open-model.js";

/** Of keys and values, as programs that serve models keep them. */
const BYTES_PER_VALUE = 2;

export function sizesOf(architecture: Architecture, bytes: Pick<ModelSizes, "tensorBytes" | "fileBytes">): ModelSizes {
  const { blocks } = architecture;
  const parameters = [...wantedTensors(architecture).values()].reduce((sum, { shape }) => sum + elementsOf(shape), 0);
  const idle = blocks.reduce((sum, block) => sum + idleParameters(block), 0);
  return {
    blocks: blocks.length,
    experts: blocks.find(({ experts }) => experts !== undefined)?.experts?.count ?? null,
    parameters,
    activeParameters: parameters - idle,
    ...bytes,
    keyValueBytesPerToken: keyValueBytes(architecture),
  };
}

/** Of the experts that a token is not sent to; routers are passed by all. */
function idleParameters({ experts, groups }: BlockSpec): number {
  if (experts === undefined) return 0;
  const all = groups
    .filter(({ isRouted }) => isRouted === true)
    .flatMap(({ linears }) => linears)
    .reduce((sum, { inFeatures, outFeatures }) => sum + inFeatures * outFeatures, 0);
  return all * (1 - experts.chosen / experts.count);
}

function keyValueBytes(architecture: Architecture): number {
  const known = new Map<string, number>();
  for (const block of architecture.blocks) {
    if (known.has(block.shapeKey)) continue;
    known.set(block.shapeKey, ofBlock(architecture, block));
  }
  return architecture.blocks.reduce((sum, { shapeKey }) => sum + lookUp(known, shapeKey), 0);
}

function ofBlock(architecture: Architecture, block: BlockSpec): number {
  const { attention } = cacheShapeOf(buildStepGraph(architecture, block));
  if (attention === undefined) return 0;
  const { heads, keyWidth, valueWidth } = attention;
  return heads * (keyWidth + valueWidth) * BYTES_PER_VALUE;
}
