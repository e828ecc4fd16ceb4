/**
 * What pruning did to each linear's outputs, measured on the tokens that really reach it, whatever the method looked at.
 * Everything here is aside: it is no part of the run's time and changes no bit of its result.
 */
import type { Device } from "../../device/device.js";
import { InternalError } from "../../errors.js";
import type { LinearSpec } from "../../model/architecture.js";
import type { Reconstruction } from "../../contract.js";
import type { LayerStatistics } from "../../solvers/solver.js";
import { reconstructionLoss } from "../../solvers/matrices.js";
import type { ReorderedStatistics } from "../group-at-work.js";
import { isRouted, type Clock } from "../run.js";
import type { StageStatistics, StatisticsSource } from "../statistics-source.js";
import type { BlockTransform } from "./transform.js";

export interface MeasureOptions {
  readonly device: Device;
  readonly clock: Clock;
  /** Gram matrices of the inputs, collected without moving the states. */
  readonly grams: StatisticsSource;
  /** Whether the method itself collects Gram matrices of the tokens that reach a linear, where nothing is routed. */
  readonly hasOwnGram: boolean;
}

export function measureLoss({ device, clock, grams, hasOwnGram }: MeasureOptions): BlockTransform {
  let own: StageStatistics | undefined;
  let truth: LayerStatistics | undefined;
  let reordered: ReorderedStatistics | undefined;
  let dense: Float32Array | undefined;
  return {
    name: "measure loss",
    async openStage(block, groups) {
      if (hasOwnGram && !isRouted({ groups })) return;
      own = await clock.aside(() => grams.of(block, groups)); // before the states may move on
    },
    async before(work) {
      const statistics = own;
      truth = statistics === undefined ? work.statistics : await clock.aside(() => statistics.finish(work.group.name));
      if (statistics === undefined || work.reorder === undefined) return;
      reordered = work.reorder(truth);
      truth = reordered.statistics;
    },
    beforeLinear(_work, _linear, weight) {
      dense = weight.slice();
    },
    async afterLinear(_work, linear, weight) {
      const [before, statistics] = [dense, truth];
      if (before === undefined || statistics === undefined)
        throw new InternalError("E_MEASURE", `${linear.name}: solved before it was looked at`);
      return { reconstruction: await clock.aside(() => measure(device, linear, before, weight, statistics)) };
    },
    after(work) {
      reordered?.[Symbol.dispose]();
      own?.release(work.group.name);
      [truth, reordered, dense] = [undefined, undefined, undefined];
    },
    closeStage() {
      own?.[Symbol.dispose]();
      own = undefined;
    },
  };
}

/** Two products of the layer's own size on the device; see `Reconstruction`. */
async function measure(
  device: Device,
  { name, inFeatures, outFeatures }: LinearSpec,
  before: Float32Array,
  after: Float32Array,
  { gram, sequenceCount }: LayerStatistics,
): Promise<Reconstruction> {
  if (gram === undefined) throw new InternalError("E_STATISTICS", `${name}: there is no Gram matrix to measure with`);
  if (sequenceCount === 0) return { error: 0, output: 0, relative: 0 };
  using dense = device.uploadMatrix(before, outFeatures, inFeatures, `${name}: dense weight`);
  using pruned = device.uploadMatrix(after, outFeatures, inFeatures, `${name}: pruned weight`);
  using nothing = device.createMatrix(outFeatures, inFeatures, `${name}: zeros`);
  const error = await reconstructionLoss(device, { dense, pruned, gram, sequenceCount });
  const output = await reconstructionLoss(device, { dense, pruned: nothing, gram, sequenceCount });
  return { error, output, relative: output === 0 ? 0 : error / output };
}
