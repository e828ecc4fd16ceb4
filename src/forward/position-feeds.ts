/** What a block's graph is fed besides hidden states and weights: positions, and the tables and masks that go by them. */
import { borrowed, type HostArray, type NdArray } from "../array.js";
import type { Architecture } from "../model/architecture.js";
import { maskShape, maskValues } from "../model/mask.js";
import { rotaryAngles } from "../model/rotary.js";

/** cos and sin of positions 0 … tokens - 1 of sequences of that length, by the names of the graphs' inputs. */
export function rotaryFeeds(
  { rotaryTables }: Pick<Architecture, "rotaryTables">,
  tokens: number,
): ReadonlyMap<string, HostArray> {
  return new Map(
    [...rotaryTables].flatMap(([name, table]) =>
      Object.entries(rotaryAngles(table, tokens)).map(([part, values]: [string, Float32Array]) => {
        const label = `${part}.${name}`;
        return [label, borrowed(label, values, [tokens, table.dimensions / 2])] as const;
      }),
    ),
  );
}

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
    for (const [name, array] of rotaryFeeds(this.#architecture, tokens)) feeds.set(name, array);
    for (const [name, mask] of this.#architecture.masks)
      feed(`mask.${name}`, maskValues(mask, tokens), maskShape(mask.slopes, tokens));
    this.#last = { key, feeds };
    return feeds;
  }
}
