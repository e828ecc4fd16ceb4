/** What a stored architecture's block is fed, for tests that run its graph. */
import type { BlockSpec } from "../../src/model/architecture.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { maskShape, maskValues } from "../../src/model/mask.js";
import type { Model } from "../../src/model/open-model.js";
import { rotaryAngles } from "../../src/model/rotary.js";
import { tensor, type Tensor } from "../reference/graph-interpreter.js";
import { rounded } from "./graphs.js";

const [BATCH, TOKENS] = [2, 5];

/** A block's own weights, tables and masks, and hidden states that look like some. */
export async function blockFeeds({ architecture, checkpoint }: Model, block: BlockSpec): Promise<Map<string, Tensor>> {
  const weights = await readBlockWeights(checkpoint, block);
  const feeds = new Map<string, Tensor>();
  const put = (name: string, shape: readonly number[], values: Iterable<number>): void =>
    void feeds.set(name, { shape, values: Float64Array.from(values) });
  for (const [role, { shape }] of block.tensors) put(role, shape, weights.get(role) ?? []);
  for (const [name, table] of architecture.rotaryTables) {
    const { cos, sin } = rotaryAngles(table, TOKENS);
    put(`cos.${name}`, [TOKENS, table.dimensions / 2], cos);
    put(`sin.${name}`, [TOKENS, table.dimensions / 2], sin);
  }
  for (const [name, mask] of architecture.masks)
    put(`mask.${name}`, maskShape(mask.slopes, TOKENS), maskValues(mask, TOKENS));
  feeds.set(
    "positions",
    tensor([BATCH, TOKENS], (index) => index % TOKENS),
  );
  feeds.set(
    "hidden",
    tensor([BATCH * TOKENS, architecture.state.width], (index) => Math.sin(index * 0.7) + 0.3),
  );
  return rounded(feeds);
}
