/** What a block's graph is fed besides hidden states and weights: positions, and the tables and masks that go by them. */
import { borrowed, type HostArray, type NdArray } from "../array.js";
import type { Architecture } from "../model/architecture.js";
import { maskShape, maskValues } from "../model/mask.js";
import { rotaryAngles } from "../model/rotary.js";

export class PositionFeeds {
  readonly #architecture: Pick<Architecture, "rotaryTables" | "masks">;
  #last: { readonly key: string; readonly feeds: ReadonlyMap<string, NdArray> } | undefined;

  constructor(architecture: Pick<Architecture, "rotaryTables" | "masks">) {
    this.#architecture = architecture;
  }

  /** By the names of the graph's inputs; made again only where the sizes are not those of the call before. */
  of(batch: number, tokens: number): ReadonlyMap<string, NdArray> {
    const key = `${batch}x${tokens}`;
    if (this.#last?.key === key) return this.#last.feeds;
    const feeds = new Map<string, HostArray>();
    const feed = (name: string, values: Float32Array | BigInt64Array, shape: readonly number[]): void =>
      void feeds.set(name, borrowed(name, values, shape));
    const positions = BigInt64Array.from({ length: batch * tokens }, (_, i) => BigInt(i % tokens));
    feed("positions", positions, [batch, tokens]);
    for (const [name, table] of this.#architecture.rotaryTables) {
      const { cos, sin } = rotaryAngles(table, tokens);
      feed(`cos.${name}`, cos, [tokens, table.dimensions / 2]);
      feed(`sin.${name}`, sin, [tokens, table.dimensions / 2]);
    }
    for (const [name, mask] of this.#architecture.masks)
      feed(`mask.${name}`, maskValues(mask, tokens), maskShape(mask.slopes, tokens));
    this.#last = { key, feeds };
    return feeds;
  }
}
