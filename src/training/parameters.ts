/**
 * Tensors while they are trained: values, gradients and the two moments of Adam on the device, and values and gradients
 * where graphs on the host read and write them, which is the device's own memory where that is the host. A tensor of any
 * rank is a matrix on the device: all axes but the last are rows.
 */
import { addArray, borrowed, elementsOf, isHostArray, type HostArray, type NdArray } from "../array.js";
import { maskWordsPerRow, type AdamOptions, type Device, type KeepMask, type Matrix } from "../device/device.js";
import { gradientName } from "../graph/gradient.js";
import { valuesOf } from "../forward/values.js";
import { lookUp } from "../look-up.js";
import type { BlockSpec } from "../model/architecture.js";
import { wordsOf } from "./projection.js";

export interface ParameterSpec {
  /** Of the graph's input. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Starting values, row-major; copied. */
  readonly values: Float32Array;
  /** Whether its zeros stay zeros, because it holds pruned weights. */
  readonly isMasked: boolean;
  /** Whether it is to become sparse by splitting: it then has a sparse twin, a dual and a mask. */
  readonly isSplit?: boolean;
}

/** Everything that is kept of a parameter between steps, and its gradient. */
export const PARAMETER_FIELDS = ["values", "first", "second", "split", "dual", "mask", "gradient"] as const;
export type ParameterField = (typeof PARAMETER_FIELDS)[number];

/** How Adam goes on, see `AdamOptions` of the device. */
export interface AdamStep {
  /** Strength of what draws a parameter that has a sparse twin towards it; absent: nothing does. */
  readonly pull?: number | undefined;
  /** Whether zeros of a mask that was found by splitting stay from now on. */
  readonly holds?: boolean;
  readonly rate: number;
  readonly decay: readonly [first: number, second: number];
  readonly epsilon: number;
  /** Counted from 1. */
  readonly step: number;
  /** Factor on the gradients. */
  readonly gradientScale: number;
}

const NONE: ReadonlySet<string> = new Set();

/** All tensors of a block, by role: those of `masked` keep their zeros, those of `split` become sparse by splitting. */
export function blockSpecs(
  block: BlockSpec,
  weights: ReadonlyMap<string, Float32Array>,
  { masked = NONE, split = NONE }: { readonly masked?: ReadonlySet<string>; readonly split?: ReadonlySet<string> },
): ParameterSpec[] {
  return [...block.tensors].map(([role, { shape }]) => {
    const values = lookUp(weights, role);
    return { name: role, shape, values, isMasked: masked.has(role), isSplit: split.has(role) };
  });
}

/**
 * All tensors of a block, by role.
 * @param masked roles of those whose zeros stay
 */
export function blockParameters(
  device: Device,
  block: BlockSpec,
  weights: ReadonlyMap<string, Float32Array>,
  masked: ReadonlySet<string>,
): Parameters {
  return new Parameters(device, blockSpecs(block, weights, { masked }));
}

export class Parameters implements Disposable {
  readonly #device: Device;
  readonly #all: Parameter[] = [];

  constructor(device: Device, specs: readonly ParameterSpec[]) {
    this.#device = device;
    try {
      for (const spec of specs) this.#all.push(new Parameter(device, spec));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Current values as inputs of a graph; borrowed until the next step. */
  feeds(): Map<string, HostArray> {
    return new Map(this.#all.map(({ name, shape, values }) => [name, borrowed(name, values.host, shape)]));
  }

  /** Where a graph may write gradients to, by the names that `gradientOf` gives them. */
  sinks(): Map<string, HostArray> {
    return new Map(
      this.#all.map(({ name, shape, gradient }) => {
        const output = gradientName(name);
        return [output, borrowed(output, gradient.host, shape)];
      }),
    );
  }

  /** Add gradients to those that are in the sinks. */
  accumulate(results: ReadonlyMap<string, NdArray>): void {
    for (const { name, gradient } of this.#all) addArray(valuesOf(lookUp(results, gradientName(name))), gradient.host);
  }

  [Symbol.iterator](): Iterator<Parameter> {
    return this.#all[Symbol.iterator]();
  }

  /** Take the gradients in the sinks, which are whole now, to the device. */
  uploadGradients(): void {
    for (const { gradient } of this.#all) gradient.upload();
  }

  /** Σ g² of the gradients that were uploaded. */
  async gradientSquares(): Promise<number> {
    let sum = 0;
    for (const { gradient } of this.#all) sum += await this.#device.sumOfSquares(gradient.matrix);
    return sum;
  }

  /** One step of Adam on all of them, by the gradients that were uploaded. */
  async step(options: AdamStep): Promise<void> {
    for (const parameter of this.#all) parameter.step(options);
    await this.refresh();
  }

  /** Take what the device made of the values to where graphs read them. */
  async refresh(): Promise<void> {
    await this.#device.synchronize();
    for (const { values } of this.#all) await values.download();
  }

  /** Set all values; the moments stay. */
  async assign(values: ReadonlyMap<string, Float32Array>): Promise<void> {
    for (const parameter of this.#all) {
      parameter.values.host.set(lookUp(values, parameter.name));
      parameter.values.upload();
    }
    await this.#device.synchronize();
  }

  /** Copies of all values, by name. */
  snapshot(): Map<string, Float32Array> {
    return new Map(this.#all.map(({ name, values }) => [name, values.host.slice()]));
  }

  /** Current values into arrays of their sizes, by name. */
  copyTo(targets: ReadonlyMap<string, Float32Array>): void {
    for (const { name, values } of this.#all) lookUp(targets, name).set(values.host);
  }

  [Symbol.dispose](): void {
    for (const parameter of this.#all) parameter[Symbol.dispose]();
    this.#all.length = 0;
  }
}

/** A matrix on the device and its numbers on the host; one and the same memory where the device's is the host's. */
export class Mirrored implements Disposable {
  readonly matrix: Matrix;
  readonly host: Float32Array;
  readonly #device: Device;
  readonly #isShared: boolean;

  constructor(device: Device, label: string, shape: readonly number[], values?: Float32Array) {
    const columns = shape.at(-1) ?? 1;
    const rows = elementsOf(shape) / columns;
    this.#device = device;
    this.matrix =
      values === undefined
        ? device.createMatrix(rows, columns, label)
        : device.uploadMatrix(values, rows, columns, label);
    this.#isShared = isHostArray(this.matrix);
    this.host = isHostArray(this.matrix)
      ? valuesOf(this.matrix)
      : (values?.slice() ?? new Float32Array(rows * columns));
  }

  async download(): Promise<void> {
    if (!this.#isShared) this.host.set(await this.#device.download({ matrix: this.matrix }));
  }

  /** What the host wrote, on the device. */
  upload(): void {
    if (this.#isShared) return;
    const { rows, columns, label } = this.matrix;
    using written = this.#device.uploadMatrix(this.host, rows, columns, label);
    this.#device.copy(written, this.matrix);
  }

  [Symbol.dispose](): void {
    this.matrix[Symbol.dispose]();
  }
}

/** One tensor; its matrices are the device's. */
export class Parameter implements Disposable {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Mirrored;
  readonly gradient: Mirrored;
  /** Adam's moments, of g and of g². */
  readonly first: Matrix;
  readonly second: Matrix;
  /** Of a parameter that becomes sparse by splitting. */
  readonly twin: SparseTwin | undefined;
  readonly #device: Device;
  readonly #isMasked: boolean;
  #mask: KeepMask | undefined;

  constructor(device: Device, { name, shape, values, isMasked, isSplit = false }: ParameterSpec) {
    this.name = name;
    this.shape = shape;
    this.#device = device;
    this.values = new Mirrored(device, name, shape, values);
    this.gradient = new Mirrored(device, `${name}: gradient`, shape);
    const { rows, columns } = this.values.matrix;
    this.first = device.createMatrix(rows, columns, `${name}: first moment`);
    this.second = device.createMatrix(rows, columns, `${name}: second moment`);
    if (isSplit)
      this.twin = {
        split: device.createMatrix(rows, columns, `${name}: z`),
        dual: device.createMatrix(rows, columns, `${name}: u`),
      };
    this.#isMasked = isMasked;
    if (isMasked) this.#mask = device.uploadMask(wordsOf(values, rows, columns), rows, columns, `${name}: mask`);
    else if (isSplit) this.#mask = device.createMask(rows, columns, `${name}: mask`);
  }

  /** Of what survives; undefined where nothing of it is pruned. */
  get mask(): KeepMask | undefined {
    return this.#mask;
  }

  /** @param mask its own from now on */
  replaceMask(mask: KeepMask): void {
    this.#mask?.[Symbol.dispose]();
    this.#mask = mask;
  }

  step({ pull, holds = false, ...options }: AdamStep): void {
    const { first, second, twin } = this;
    const drawn: Pick<AdamOptions, "pull"> =
      pull === undefined || twin === undefined ? {} : { pull: { ...twin, strength: pull } };
    this.#device.adamStep({
      ...options,
      ...drawn,
      ...{ values: this.values.matrix, gradient: this.gradient.matrix, first, second },
      ...(this.#mask !== undefined && (this.#isMasked || holds) ? { mask: this.#mask } : {}),
    });
  }

  has(field: ParameterField): boolean {
    if (field === "mask") return this.#mask !== undefined;
    return (field !== "split" && field !== "dual") || this.twin !== undefined;
  }

  /** Fill a field: `fill` is given f32 values, or the words of a mask, whose contents it replaces. */
  async receive(field: ParameterField, fill: (numbers: Float32Array | Uint32Array) => Promise<void>): Promise<void> {
    const { rows, columns } = this.values.matrix;
    if (field === "mask") {
      const words = new Uint32Array(rows * maskWordsPerRow(columns));
      await fill(words);
      this.replaceMask(this.#device.uploadMask(words, rows, columns, `${this.name}: mask`));
      return;
    }
    if (field === "values" || field === "gradient") {
      await fill(this[field].host);
      this[field].upload();
      return;
    }
    const matrix = this.#matrixOf(field);
    if (isHostArray(matrix)) return fill(valuesOf(matrix));
    const numbers = new Float32Array(rows * columns);
    await fill(numbers);
    using written = this.#device.uploadMatrix(numbers, rows, columns, matrix.label);
    this.#device.copy(written, matrix);
  }

  /** What a field holds: f32 values, or the words of a mask; to be read only, until the next step. */
  async give(field: ParameterField): Promise<Float32Array | Uint32Array> {
    if (field === "mask") {
      if (this.#mask === undefined) throw new RangeError(`${this.name} has no mask`);
      return this.#device.downloadMask(this.#mask);
    }
    if (field === "values" || field === "gradient") return this[field].host;
    const matrix = this.#matrixOf(field);
    if (!isHostArray(matrix)) return this.#device.download({ matrix });
    await this.#device.synchronize();
    return valuesOf(matrix);
  }

  #matrixOf(field: Exclude<ParameterField, "mask" | "values" | "gradient">): Matrix {
    if (field === "first" || field === "second") return this[field];
    if (this.twin === undefined) throw new RangeError(`${this.name} has no ${field}`);
    return this.twin[field];
  }

  [Symbol.dispose](): void {
    for (const each of [this.values, this.gradient, this.first, this.second]) each[Symbol.dispose]();
    for (const each of [this.twin?.split, this.twin?.dual, this.#mask]) each?.[Symbol.dispose]();
  }
}

/** The variables of splitting beside a tensor x. */
export interface SparseTwin {
  /** z: the projection of x + u. */
  readonly split: Matrix;
  /** u, scaled: what z could not take up so far. */
  readonly dual: Matrix;
}
