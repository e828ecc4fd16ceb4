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
import type { Course } from "./course.js";
import { blockStage, isPruned, isRouted, type BlockAtWork, type Clock } from "./run.js";
import { NO_STATISTICS } from "./solve-linear.js";
import { isStarved } from "./starved-experts.js";
import type { StoredStatistics } from "./stored-statistics.js";

/** Statistics of some groups of a block; what they hold on the device is disposed of with them. */
export class StageStatistics implements Disposable {
  readonly #groups: Map<string, GroupStatistics>;
  readonly #tokens: ReadonlyMap<string, number>;
  readonly #onFinish: ((group: string, finished: LayerStatistics) => Promise<void>) | undefined;

  /**
   * @param groups by name; owned
   * @param onFinish is told what a group's statistics are in the end
   */
  constructor(
    groups: Map<string, GroupStatistics>,
    onFinish?: (group: string, finished: LayerStatistics) => Promise<void>,
  ) {
    this.#groups = groups;
    this.#tokens = new Map([...groups].map(([name, group]) => [name, group.tokens]));
    this.#onFinish = onFinish;
  }

  /** Calibration tokens that reached a group by themselves; undefined where nothing was collected. */
  tokensOf(group: string): number | undefined {
    return this.#tokens.get(group);
  }

  /** To be called once for a group; nothing is known of one that nothing was collected of. */
  async finish(group: string): Promise<LayerStatistics> {
    const finished = await this.#groups.get(group)?.finish();
    if (finished === undefined) return NO_STATISTICS;
    await this.#onFinish?.(group, finished);
    return finished;
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
  readonly course: Course;
  readonly device: Device;
  readonly stream: Stream;
  readonly denseStream?: Stream | undefined;
  readonly needs: readonly StatisticName[];
  /** Names of the linears that are pruned. */
  readonly selected: ReadonlySet<string>;
}

/** Where finished statistics go, and the clock that leaves the time of keeping them out of the run's. */
export interface Keeping {
  readonly store: StoredStatistics;
  readonly clock: Clock;
}

/** Collected in a pass over the sequences. */
export class CollectedStatistics implements StatisticsSource {
  readonly #options: CollectedOptions;
  readonly #moves: boolean;
  readonly #keeping: Keeping | undefined;

  /**
   * @param moves whether the pass takes the states past the block, so that the next one sees what this one saw
   * @param keeping keeps them for the next run
   */
  constructor(options: CollectedOptions, moves: boolean, keeping?: Keeping) {
    this.#options = options;
    this.#moves = moves;
    this.#keeping = keeping;
  }

  async of(block: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    const { needs, device } = this.#options;
    const started = performance.now();
    const collected = await this.collect(block, groups, { moves: this.#moves });
    if (this.#keeping === undefined) return new StageStatistics(collected);
    const { store, clock } = this.#keeping;
    store.addSeconds(needs, (performance.now() - started) / 1000);
    return new StageStatistics(collected, (group, finished) =>
      clock.aside(() => store.keep(pathOf(block.spec.name, group), needs, finished, device)),
    );
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
    const { model, context, course, device, stream, denseStream, needs, selected } = this.#options;
    const dense = denseStream && denseWeights && { stream: denseStream, weights: denseWeights };
    const needed = groups.filter((group) => isPruned(group, selected));
    return collectStatistics({
      ...{ stream, block: spec, weights, groups: needed, needs, device, dense, ...how },
      onBatch: (done, total) => {
        blockStage({ context, model, course }, spec, "statistics", done / total);
        throwIfStopped(context, true);
      },
    });
  }
}

/**
 * Blocks whose experts may starve: groups that the router sent fewer tokens than they have inputs get statistics of all
 * tokens where the run says so. Hence two passes, and where later blocks are to see what this one saw, the states move after
 * them. Other blocks of the model are collected as usual.
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
    if (!isRouted(block.spec)) return this.#source.of(block, groups);
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

/** What an earlier run of the same dense model and calibration kept. */
export class KeptStatistics implements StatisticsSource {
  readonly #store: StoredStatistics;
  readonly #options: Pick<CollectedOptions, "needs" | "device" | "selected">;

  constructor(store: StoredStatistics, options: Pick<CollectedOptions, "needs" | "device" | "selected">) {
    this.#store = store;
    this.#options = options;
  }

  of({ spec }: BlockAtWork, groups: readonly InputGroup[]): Promise<StageStatistics> {
    const { needs, device, selected } = this.#options;
    const opened = groups
      .filter((group) => isPruned(group, selected))
      .map(({ name, inFeatures }) => {
        return [name, this.#store.open(pathOf(spec.name, name), needs, inFeatures, device)] as const;
      });
    return Promise.resolve(new StageStatistics(new Map(opened)));
  }
}

function pathOf(block: string, group: string): string {
  return `${block} ${group}`;
}
