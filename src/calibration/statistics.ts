/**
 * Statistics of linears' inputs, collected by running a block over all calibration sequences.
 *
 * Column norms are part of the block's own graph, and so are Gram matrices where the forward's arrays live on the solvers'
 * device: then activations never leave the executor. Else the inputs themselves are tapped and the Gram matrix is
 * accumulated on the device.
 * Sums within a run cover a few thousand tokens at most and are then added up, which keeps float32 chains short.
 */
import type { NdArray } from "../array.js";
import { NumericalError } from "../errors.js";
import type { Device, Matrix } from "../device/device.js";
import type { InputGroup, BlockSpec } from "../model/architecture.js";
import { gramPanels, type TapKind } from "../forward/block-graph.js";
import type { BlockWeights, Tap } from "../forward/block-runner.js";
import { valuesOf } from "../forward/values.js";
import { addArray } from "../array.js";
import { lookUp } from "../look-up.js";
import type { Stream } from "../forward/stream.js";
import type { LayerStatistics, StatisticName } from "../solvers/solver.js";

export interface CollectOptions {
  readonly stream: Stream;
  readonly block: BlockSpec;
  readonly weights: BlockWeights;
  readonly groups: readonly InputGroup[];
  readonly needs: readonly StatisticName[];
  readonly device: Device;
  /** Whether the same pass moves the hidden states past the block. */
  readonly moves?: boolean;
  /** Let every expert see every token. */
  readonly isRoutingBypassed?: boolean;
  /** What "inherited-errors" compares with; absent: they are not known. */
  readonly dense?: DenseBlock | undefined;
  /** Called after every batch; throws to stop. */
  readonly onBatch?: (done: number, total: number) => void;
}

/** The block as it was, and what the dense model feeds into it: the same sequences. */
export interface DenseBlock {
  readonly weights: BlockWeights;
  readonly stream: Stream;
}

/** Statistics of one group while they grow. */
export interface GroupStatistics extends Disposable {
  /** Seen so far: all of the calibration set, or those routed to an expert. */
  readonly tokens: number;
  /** @param dense the dense model's tap for the same tokens */
  add(tap: Tap, sequences: number, dense?: Tap): void;
  finish(): Promise<LayerStatistics>;
}

/**
 * Which statistics a run must tap, or undefined where the method needs none.
 * @param isAtHome whether solvers read arrays where the forward makes them: then Gram matrices are part of the block's graph;
 *   else the inputs cross over once and are summed up there
 */
function tapKindOf(needs: readonly StatisticName[], isAtHome: boolean): TapKind | undefined {
  if (needs.includes("inherited-errors")) return "inputs";
  if (needs.includes("gram")) return isAtHome ? "gram" : "inputs";
  return needs.length > 0 ? "column-norms" : undefined;
}

/** One pass over all sequences; one entry per group, each to be disposed by the caller. */
export async function collectStatistics(options: CollectOptions): Promise<Map<string, GroupStatistics>> {
  const { stream, block, weights, groups, device, dense, moves = false } = options;
  const kind = tapKindOf(options.needs, device.home === stream.runner.home);
  const statistics = new Map<string, GroupStatistics>();
  if (kind !== undefined)
    for (const group of groups) statistics.set(group.name, createStatistics(options, kind, group));
  const names = groups.map((group) => group.name);
  const moments = options.needs.includes("input-moments") ? { hasMoments: true } : {};
  const bypass = options.isRoutingBypassed === true ? { isRoutingBypassed: true } : {};
  const taps = kind !== undefined && groups.length > 0 ? { kind, groups: names, ...moments, ...bypass } : undefined;
  const compared = groups.filter((group) => isCompared(options, group)).map((group) => group.name);
  const denseRequest = { hidden: false, taps: { kind: "inputs", groups: compared } } as const;
  await stream.pass(block, weights, {
    moves,
    taps,
    async hear({ first, count, taps: heard }) {
      const truth =
        dense === undefined || compared.length === 0
          ? undefined
          : await dense.stream.run(block, dense.weights, { first, count }, denseRequest);
      using _truth = truth;
      for (const [group, tap] of heard) lookUp(statistics, group).add(tap, count, truth?.taps.get(group));
    },
    ...(options.onBatch === undefined ? {} : { onBatch: options.onBatch }),
  });
  return statistics;
}

/** Whether the dense model's inputs at this place are known. An expert's tokens are those that this model routed to it. */
function isCompared({ dense, needs }: CollectOptions, group: InputGroup): boolean {
  return dense !== undefined && needs.includes("inherited-errors") && group.isRouted !== true;
}

function createStatistics(options: CollectOptions, kind: TapKind, group: InputGroup): GroupStatistics {
  const { block, device, needs } = options;
  const label = `${block.name} ${group.name}`;
  const statistics = isCompared(options, group)
    ? new DeviceGram(
        label,
        group.inFeatures,
        device,
        device.createMatrix(group.inFeatures, group.inFeatures, `${label} errors`),
      )
    : createGroupStatistics(kind, label, group.inFeatures, device, options.stream.runner.gramPanelWidth);
  return needs.includes("input-moments") ? new WithMoments(statistics, group.inFeatures) : statistics;
}

/** First moments beside another statistic. */
class WithMoments implements GroupStatistics {
  readonly #inner: GroupStatistics;
  readonly #sums: Float64Array;
  readonly #squaredDeviations: Float64Array;

  constructor(inner: GroupStatistics, width: number) {
    this.#inner = inner;
    this.#sums = new Float64Array(width);
    this.#squaredDeviations = new Float64Array(width);
  }

  get tokens(): number {
    return this.#inner.tokens;
  }

  add(tap: Tap, sequences: number, dense?: Tap): void {
    this.#inner.add(tap, sequences, dense);
    if (tap.moments === undefined) return;
    valuesOf(tap.moments.sums).forEach((value, channel) => (this.#sums[channel] += value));
    valuesOf(tap.moments.squaredDeviations).forEach((value, channel) => (this.#squaredDeviations[channel] += value));
  }

  async finish(): Promise<LayerStatistics> {
    const finished = await this.#inner.finish();
    const tokens = Math.max(1, finished.tokenCount);
    const sums = Float32Array.from(this.#sums);
    const variances = Float32Array.from(this.#squaredDeviations, (value) => value / tokens);
    return { ...finished, moments: { sums, variances } };
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }
}

function createGroupStatistics(
  kind: TapKind,
  label: string,
  width: number,
  device: Device,
  panelWidth: number,
): GroupStatistics {
  switch (kind) {
    case "column-norms":
      return new ColumnNorms(label, width);
    case "gram":
      return new HostGram(label, width, device, panelWidth);
    case "inputs":
      return new DeviceGram(label, width, device);
    default:
      return kind satisfies never;
  }
}

function requireFinite(label: string, squareSums: ArrayLike<number>): void {
  for (let channel = 0; channel < squareSums.length; channel++) {
    const value = squareSums[channel];
    if (Number.isFinite(value)) continue;
    throw new NumericalError(
      "E_NON_FINITE_ACTIVATIONS",
      `${label}: input channel ${channel} has a sum of squares of ${value}; expected a finite number.`,
      {
        hint: "The checkpoint or the calibration data make the forward overflow; check the dense model with `prune eval` first.",
        details: { label, channel },
      },
    );
  }
}

class ColumnNorms implements GroupStatistics {
  readonly #label: string;
  readonly #sums: Float64Array;
  #tokens = 0;
  #sequences = 0;

  constructor(label: string, width: number) {
    this.#label = label;
    this.#sums = new Float64Array(width);
  }

  get tokens(): number {
    return this.#tokens;
  }

  add({ parts: [sums], rows }: Tap, sequences: number): void {
    if (sums !== undefined)
      valuesOf(sums).forEach((value, channel) => (this.#sums[channel] = this.#sums[channel] + value));
    this.#tokens += rows;
    this.#sequences += sequences;
  }

  async finish(): Promise<LayerStatistics> {
    requireFinite(this.#label, this.#sums);
    const squareSums = Float32Array.from(this.#sums);
    return { squareSums, tokenCount: this.#tokens, sequenceCount: this.#sequences };
  }

  [Symbol.dispose](): void {
    // nothing held
  }
}

/** Gram matrix accumulated on the host from panels that the block's graph returns. */
class HostGram implements GroupStatistics {
  readonly #label: string;
  readonly #width: number;
  readonly #device: Device;
  readonly #panelWidth: number;
  #panels: Float32Array[] = [];
  #gram: Matrix | undefined;
  #tokens = 0;
  #sequences = 0;

  /** @param panelWidth about how wide the panels are that come in */
  constructor(label: string, width: number, device: Device, panelWidth: number) {
    this.#label = label;
    this.#width = width;
    this.#device = device;
    this.#panelWidth = panelWidth;
  }

  get tokens(): number {
    return this.#tokens;
  }

  add({ parts, rows }: Tap, sequences: number): void {
    if (this.#panels.length === 0) this.#panels = parts.map((part) => valuesOf(part).slice());
    else parts.forEach((part, index) => addArray(valuesOf(part), this.#panels[index] as Float32Array));
    this.#tokens += rows;
    this.#sequences += sequences;
  }

  async finish(): Promise<LayerStatistics> {
    const n = this.#width;
    const values = new Float32Array(n * n);
    gramPanels(n, this.#panelWidth).forEach(({ first, end }, index) => {
      const panel = this.#panels[index] as Float32Array;
      for (let row = first; row < end; row++)
        values.set(panel.subarray((row - first) * end, (row - first) * end + row + 1), row * n);
      this.#panels[index] = new Float32Array(0); // each panel is let go as soon as it is copied
    });
    const squareSums = Float32Array.from({ length: n }, (_, channel) => values[channel * n + channel]);
    requireFinite(this.#label, squareSums);
    this.#gram = this.#device.uploadMatrix(values, n, n, `${this.#label} gram`);
    await this.#device.synchronize();
    return { squareSums, gram: this.#gram, tokenCount: this.#tokens, sequenceCount: this.#sequences };
  }

  [Symbol.dispose](): void {
    this.#gram?.[Symbol.dispose]();
    this.#panels = [];
  }
}

/** Gram matrix, and errors against the dense model's inputs where there is room for them, accumulated on the device. */
class DeviceGram implements GroupStatistics {
  readonly #label: string;
  readonly #device: Device;
  readonly #gram: Matrix;
  readonly #errors: Matrix | undefined;
  readonly #width: number;
  #tokens = 0;
  #sequences = 0;

  constructor(label: string, width: number, device: Device, errors?: Matrix) {
    this.#label = label;
    this.#width = width;
    this.#device = device;
    this.#errors = errors;
    this.#gram = device.createMatrix(width, width, `${label} gram`);
  }

  get tokens(): number {
    return this.#tokens;
  }

  add({ parts: [inputs], rows }: Tap, sequences: number, dense?: Tap): void {
    if (inputs === undefined) return;
    if (rows > 0) {
      using x = this.#device.uploadMatrix(valuesOf(inputs), rows, this.#width, `${this.#label} inputs`);
      this.#device.accumulateGram({ matrix: x }, this.#gram);
      this.#addErrors(x, dense?.parts[0]);
    }
    this.#tokens += rows;
    this.#sequences += sequences;
  }

  async finish(): Promise<LayerStatistics> {
    const squareSums = await this.#device.downloadDiagonal(this.#gram);
    requireFinite(this.#label, squareSums);
    const statistics = { squareSums, gram: this.#gram, tokenCount: this.#tokens, sequenceCount: this.#sequences };
    return this.#errors === undefined ? statistics : { ...statistics, errors: this.#errors };
  }

  [Symbol.dispose](): void {
    this.#gram[Symbol.dispose]();
    this.#errors?.[Symbol.dispose]();
  }

  /** The difference is taken before the product: it is small beside both inputs. */
  #addErrors(x: Matrix, dense: NdArray | undefined): void {
    if (this.#errors === undefined || dense === undefined) return;
    using difference = this.#device.uploadMatrix(valuesOf(dense), x.rows, x.columns, `${this.#label} dense inputs`);
    this.#device.subtract({ matrix: difference }, { matrix: x }, { matrix: difference });
    const [a, b, out] = [{ matrix: difference }, { matrix: x }, { matrix: this.#errors }];
    this.#device.matmul({ a, b, out, transposeA: true, beta: 1 });
  }
}
