/**
 * What a method is told about the inputs of linears, and where it comes from: a pass over the calibration sequences, a store
 * that an earlier run filled, or a pass in which starved experts see all tokens. Which it is, is decided when the run opens.
 */
import { collectStatistics, type GroupStatistics } from "../calibration/statistics.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { StarvedTreatment } from "../contract.js";
import type { Device } from "../device/device.js";
import type { Stream } from "../forward/stream.js";
import type { InputGroup } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import type { LayerStatistics, StatisticName } from "../solvers/solver.js";
import { isRouted, stage, type BlockAtWork, type Clock } from "./run.js";
import { NO_STATISTICS } from "./solve-linear.js";
import { isStarved } from "./starved-experts.js";
import type { StoredStatistics } from "./stored-statistics.js";

/** Statistics of some groups of a block; what they hold on the device is disposed of with them. */
export class StageStatistics implements Disposable {
  readonly #groups: Map<string, GroupStatistics>;
  readonly #tokens: ReadonlyMap<string, number>;

  /** @param groups by name; owned */
  constructor(groups: Map<string, GroupStatistics>) {
    this.#groups = groups;
    this.#tokens = new Map([...groups].map(([name, group]) => [name, group.tokens]));
  }

  /** Calibration tokens that reached a group by themselves; undefined where nothing was collected. */
  tokensOf(group: string): number | undefined {
    return this.#tokens.get(group);
  }

  /** To be called once for a group; nothing is known of one that nothing was collected of. */
  async finish(group: string): Promise<LayerStatistics> {
    return (await this.#groups.get(group)?.finish()) ?? NO_STATISTICS;
  }

  /** Let a group's statistics go as soon as its linears are solved. */
  release(group: string): void {
    this.#groups.get(group)?.[Symbol.dispose]();
    this.#groups.delete(group);
  }

  /** Take other statistics for some groups; how many tokens reached them stays what it was. */
  replace(groups: ReadonlyMap<string, GroupStatistics>): void {
    for (const [name, group] of groups) {
      this.#groups.get(name)?.[Symbol.dispose]();
      this.#groups.set(name, group);
    }
  }

  [Symbol.dispose](): void {
    for (const group of this.#groups.values()) group[Symbol.dispose]();
    this.#groups.clear();
  }
}

export interface StatisticsSource {
  /** Of the inputs that groups of a block have now; groups without pruned linears may be among them. */
  of(block: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics>;
}

/** Where nothing looks at inputs. */
export const NOTHING_KNOWN: StatisticsSource = { of: () => Promise.resolve(new StageStatistics(new Map())) };

export interface CollectedOptions {
  readonly model: Model;
  readonly context: EngineContext;
  readonly device: Device;
  readonly stream: Stream;
  readonly denseStream?: Stream | undefined;
  readonly needs: readonly StatisticName[];
  /** Names of the linears that are pruned. */
  readonly selected: ReadonlySet<string>;
}

/** Collected in a pass over the sequences. */
export class CollectedStatistics implements StatisticsSource {
  readonly #options: CollectedOptions;
  readonly #moves: boolean;

  /** @param moves whether the pass takes the states past the block, so that the next one sees what this one saw */
  constructor(options: CollectedOptions, moves: boolean) {
    this.#options = options;
    this.#moves = moves;
  }

  async of(block: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    return new StageStatistics(await this.collect(block, groups, { moves: this.#moves }));
  }

  /** Statistics of all tokens, as if the router sent every token to each of these groups. */
  ofAllTokens(block: BlockAtWork, groups: readonly InputGroup[]): Promise<Map<string, GroupStatistics>> {
    return this.collect(block, groups, { moves: false, isRoutingBypassed: true });
  }

  async collect(
    { spec, weights, denseWeights }: BlockAtWork,
    groups: readonly InputGroup[],
    how: { readonly moves: boolean; readonly isRoutingBypassed?: boolean },
  ): Promise<Map<string, GroupStatistics>> {
    const { model, context, device, stream, denseStream, needs, selected } = this.#options;
    const needed = groups.filter((group) => group.linears.some((linear) => selected.has(linear.name)));
    const dense = denseStream && denseWeights && { stream: denseStream, weights: denseWeights };
    return collectStatistics({
      ...{ stream, block: spec, weights, groups: needed, needs, device, dense, ...how },
      onBatch: (done, total) => {
        stage({ context, model }, spec, "statistics", 0.5 * (done / total));
        throwIfStopped(context, true);
      },
    });
  }
}

/**
 * A block whose experts may starve: groups that the router sent fewer tokens than they have inputs get statistics of all
 * tokens where the run says so. Hence two passes, and where later blocks are to see what this one saw, the states move after them.
 */
export class RoutedStatistics implements StatisticsSource {
  readonly #source: CollectedStatistics;
  readonly #treatment: StarvedTreatment;
  readonly #move: ((block: BlockAtWork) => Promise<void>) | undefined;

  /** @param move takes the states past the block; absent: somebody else does */
  constructor(
    source: CollectedStatistics,
    treatment: StarvedTreatment,
    move: ((block: BlockAtWork) => Promise<void>) | undefined,
  ) {
    this.#source = source;
    this.#treatment = treatment;
    this.#move = move;
  }

  async of(block: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    const statistics = new StageStatistics(await this.#source.collect(block, groups, { moves: false }));
    try {
      const starved = groups.filter((group) => isStarved(group, statistics.tokensOf(group.name)));
      if (this.#treatment === "all-tokens" && starved.length > 0)
        statistics.replace(await this.#source.ofAllTokens(block, starved));
      await this.#move?.(block);
      return statistics;
    } catch (error) {
      statistics[Symbol.dispose]();
      throw error;
    }
  }
}

/** For models in which some blocks route tokens and others do not. */
export class ByBlock implements StatisticsSource {
  readonly #routed: StatisticsSource;
  readonly #others: StatisticsSource;

  constructor(routed: StatisticsSource, others: StatisticsSource) {
    this.#routed = routed;
    this.#others = others;
  }

  of(block: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    return (isRouted(block.spec) ? this.#routed : this.#others).of(block, groups);
  }
}

/** What an earlier run of the same dense model and calibration kept. */
export class KeptStatistics implements StatisticsSource {
  readonly #store: StoredStatistics;
  readonly #needs: readonly StatisticName[];
  readonly #device: Device;
  readonly #selected: ReadonlySet<string>;

  constructor(
    store: StoredStatistics,
    { needs, device, selected }: Pick<CollectedOptions, "needs" | "device" | "selected">,
  ) {
    this.#store = store;
    this.#needs = needs;
    this.#device = device;
    this.#selected = selected;
  }

  of({ spec }: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    const needed = groups.filter((group) => group.linears.some((linear) => this.#selected.has(linear.name)));
    const opened = needed.map(
      ({ name, inFeatures }) =>
        [name, this.#store.open(pathOf(spec.name, name), this.#needs, inFeatures, this.#device)] as const,
    );
    return Promise.resolve(new StageStatistics(new Map(opened)));
  }
}

/** Statistics that are kept for the next run as they are finished. Keeping them is no part of this run's time. */
export class KeepingStatistics implements StatisticsSource {
  readonly #source: CollectedStatistics;
  readonly #moves: boolean;
  readonly #store: StoredStatistics;
  readonly #options: Pick<CollectedOptions, "needs" | "device">;
  readonly #clock: Clock;

  constructor(
    source: CollectedStatistics,
    moves: boolean,
    store: StoredStatistics,
    options: Pick<CollectedOptions, "needs" | "device">,
    clock: Clock,
  ) {
    this.#source = source;
    this.#moves = moves;
    this.#store = store;
    this.#options = options;
    this.#clock = clock;
  }

  async of(block: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    const { needs, device } = this.#options;
    const started = performance.now();
    const collected = await this.#source.collect(block, groups, { moves: this.#moves });
    this.#store.addSeconds(needs, (performance.now() - started) / 1000);
    const keep = (name: string, finished: LayerStatistics): Promise<void> =>
      this.#clock.aside(() => this.#store.keep(pathOf(block.spec.name, name), needs, finished, device));
    const keeping = [...collected].map(
      ([name, group]) => [name, handingOn(group, (finished) => keep(name, finished))] as const,
    );
    return new StageStatistics(new Map(keeping));
  }
}

function pathOf(block: string, group: string): string {
  return `${block} ${group}`;
}

/** Hand over what a group's statistics are in the end. */
function handingOn(group: GroupStatistics, take: (finished: LayerStatistics) => Promise<void>): GroupStatistics {
  return {
    get tokens() {
      return group.tokens;
    },
    add: (tap, sequences) => group.add(tap, sequences),
    finish: async () => {
      const finished = await group.finish();
      await take(finished);
      return finished;
    },
    [Symbol.dispose]: () => group[Symbol.dispose](),
  };
}
