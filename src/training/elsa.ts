/**
 * Elsa: a loss of the whole model is minimised under a sparsity constraint by ADMM. Every pruned tensor x has a sparse twin z
 * and a scaled dual u; Adam takes steps on loss + λ/2 ‖x - z + u‖², and every `interval` steps z becomes the projection of
 * x + u and u takes up what is left. At the end x itself is projected.
 *
 * Source: Lee et al. 2025, arXiv:2510.01650, and its released code for the order of things: the loss's gradient is clipped
 * before the penalty joins it, the penalty goes through Adam's moments, the first projection is that of the starting values,
 * later ones come after steps 1, interval + 1, 2·interval + 1, …
 */
import { z } from "zod";
import type { Device, DualStepSums, KeepMask, Matrix } from "../device/device.js";
import type { Pattern } from "../sparsity/pattern.js";
import { expectFiniteLoss, takeStep } from "./optimiser.js";
import type { Parameter, Parameters } from "./parameters.js";
import { projectionMask, type ProjectedLinear } from "./projection.js";
import { linearRate } from "./schedule.js";

export const PROJECTIONS = ["identity", "fisher"] as const;
export const SCHEDULES = ["constant", "linear", "cosine", "exponential"] as const;

export const elsaSchema = z.strictObject({
  /** Steps of Adam. */
  steps: z.number().int().min(1).max(10_000_000).default(2048),
  /** Sequences per step. */
  batchSize: z.number().int().min(1).default(8),
  /** Peak learning rate; it falls to 0 in a straight line. */
  lr: z.number().positive().max(1).default(2e-4),
  /** Fraction of the steps in which the rate rises. */
  warmup: z.number().min(0).max(0.9).default(0),
  /** Penalty λ: the last one of a schedule. */
  lambda: z.number().min(0).finite().default(0.01),
  /** Where a schedule begins. */
  initialLambda: z.number().min(0).finite().default(0),
  schedule: z.enum(SCHEDULES).default("constant"),
  /** Steps between projections. */
  interval: z.number().int().min(1).default(32),
  /** Scores of the projection: |x + u|, or √v·|x + u| with Adam's second moment v. */
  projection: z.enum(PROJECTIONS).default("identity"),
  /** Largest norm of the loss's gradient; 0 for no clipping. */
  clip: z.number().min(0).finite().default(1),
  /** Fraction of the steps, at the end, that train under the projected mask: the paper has none. */
  frozen: z.number().min(0).max(0.9).default(0),
});
export type ElsaOptions = z.infer<typeof elsaSchema>;

/** A tensor with pruned linears. */
export interface SparseTensor {
  readonly parameter: Parameter;
  readonly linears: readonly ProjectedLinear[];
}

export interface ElsaProblem {
  readonly device: Device;
  /** Everything that is trained. */
  readonly parameters: readonly Parameters[];
  /** What of it becomes sparse. */
  readonly sparse: readonly SparseTensor[];
  readonly pattern: Pattern;
  /** Put the gradients of a step into the parameters' sinks; resolves to the loss. Steps are counted from 1. */
  gradient(step: number): Promise<number>;
  /** Called after every step. */
  onStep?(progress: ElsaProgress): void | Promise<void>;
}

export interface ElsaProgress {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly gradientNorm: number;
  /** Where this step projected. */
  readonly projected?: ProjectionReport;
}

/** Relative to the norms of x and z; flips are entries that entered or left the support, a fraction of all. */
export interface ProjectionReport {
  readonly primal: number;
  readonly dual: number;
  readonly flips: number;
  readonly lambda: number;
  /** ‖λ (x - z)‖ over the norm of the clipped gradient: far from 1 the penalty is lost, or all there is. */
  readonly penaltyRatio: number;
}

/** @throws NumericalError E_NON_FINITE where the loss is not finite, before the values change */
export async function minimiseSparsely(problem: ElsaProblem, options: ElsaOptions): Promise<void> {
  const { device, parameters, sparse, pattern } = problem;
  const { steps, interval, clip } = options;
  const frozenFrom = Math.floor((1 - options.frozen) * steps);
  const variables: SplitVariables[] = [];
  try {
    for (const tensor of sparse) variables.push(await SplitVariables.create(device, tensor, pattern));
    const splits = new Map(variables.map((each) => [each.parameter, each]));
    let lambda = lambdaAt(options, 0);
    for (let step = 1; step <= steps; step++) {
      if (step === frozenFrom + 1 && options.frozen > 0) for (const each of variables) await each.settle(options, true);
      const isFrozen = options.frozen > 0 && step > frozenFrom;
      const loss = await problem.gradient(step);
      expectFiniteLoss(loss, step, steps, "Try a smaller learning rate, or resume from what was kept.");
      const strength = lambda;
      const { gradientNorm, gradientScale } = await takeStep(parameters, {
        ...{ rate: linearRate(options.lr, step, steps, options.warmup), step, clip },
        pullOf: (parameter) => (isFrozen ? undefined : splits.get(parameter)?.pull(strength)),
      });
      const isProjected = !isFrozen && (step - 1) % interval === 0;
      const projected = isProjected
        ? await projectAll(variables, options, { lambda, gradientNorm: gradientNorm * gradientScale })
        : undefined;
      if (isProjected) {
        const next = lambdaAt(options, step - 1);
        if (next !== lambda) for (const each of variables) each.rescale(lambda, next);
        lambda = next;
      }
      await problem.onStep?.({ step, steps, loss, gradientNorm, ...(projected && { projected }) });
    }
    if (options.frozen === 0) for (const each of variables) await each.settle(options, false);
  } finally {
    for (const each of variables) each[Symbol.dispose]();
  }
  for (const each of parameters) await each.refresh();
}

/** The penalty from the projection at this step on, counted from 0. */
export function lambdaAt({ schedule, lambda, initialLambda, steps }: ElsaOptions, step: number): number {
  const share = step / steps;
  switch (schedule) {
    case "constant":
      return lambda;
    case "linear":
      return initialLambda + (lambda - initialLambda) * share;
    case "cosine":
      return initialLambda + (lambda - initialLambda) * 0.5 * (1 - Math.cos(Math.PI * share));
    case "exponential": {
      const first = Math.max(initialLambda, 1e-12);
      return first * (lambda / first) ** share;
    }
    default:
      return schedule satisfies never;
  }
}

async function projectAll(
  variables: readonly SplitVariables[],
  options: ElsaOptions,
  { lambda, gradientNorm }: { readonly lambda: number; readonly gradientNorm: number },
): Promise<ProjectionReport> {
  const sums = { primal: 0, change: 0, values: 0, split: 0, flips: 0, entries: 0 };
  for (const each of variables) {
    const one = await each.project(options);
    for (const key of Object.keys(sums) as (keyof typeof sums)[]) sums[key] += one[key];
  }
  const relative = (part: number, whole: number): number => (whole === 0 ? 0 : Math.sqrt(part / whole));
  return {
    primal: relative(sums.primal, sums.values),
    dual: relative(sums.change, sums.split),
    flips: sums.entries === 0 ? 0 : sums.flips / sums.entries,
    lambda,
    penaltyRatio: gradientNorm === 0 ? 0 : (lambda * Math.sqrt(sums.primal)) / gradientNorm,
  };
}

interface ProjectionSums extends DualStepSums {
  readonly flips: number;
  readonly entries: number;
}

/** z and u of one tensor. */
class SplitVariables implements Disposable {
  readonly parameter: Parameter;
  readonly #device: Device;
  readonly #linears: readonly ProjectedLinear[];
  readonly #pattern: Pattern;
  readonly #split: Matrix;
  readonly #dual: Matrix;
  readonly #scores: Matrix;
  #mask: KeepMask;

  private constructor(
    device: Device,
    { parameter, linears }: SparseTensor,
    pattern: Pattern,
    made: { readonly split: Matrix; readonly dual: Matrix; readonly scores: Matrix; readonly mask: KeepMask },
  ) {
    this.parameter = parameter;
    this.#device = device;
    this.#linears = linears;
    this.#pattern = pattern;
    [this.#split, this.#dual, this.#scores, this.#mask] = [made.split, made.dual, made.scores, made.mask];
  }

  /** z = the projection of x by magnitude, u = 0. */
  static async create(device: Device, tensor: SparseTensor, pattern: Pattern): Promise<SplitVariables> {
    const { name, values, shape } = tensor.parameter;
    const { rows, columns } = values.matrix;
    const scores = device.createMatrix(rows, columns, `${name}: scores`);
    const split = device.createMatrix(rows, columns, `${name}: z`);
    const dual = device.createMatrix(rows, columns, `${name}: u`);
    const mask = await projectionMask(device, values.matrix, shape, tensor.linears, pattern);
    device.copy(values.matrix, split);
    device.applyMask(split, mask);
    return new SplitVariables(device, tensor, pattern, { split, dual, scores, mask });
  }

  pull(strength: number): { readonly split: Matrix; readonly dual: Matrix; readonly strength: number } {
    return { split: this.#split, dual: this.#dual, strength };
  }

  /** z ← the projection of x + u, u ← u + x - z. */
  async project({ projection }: ElsaOptions): Promise<ProjectionSums> {
    const device = this.#device;
    const { values, second, shape } = this.parameter;
    const [split, dual] = [this.#split, this.#dual];
    const scored = { values: values.matrix, dual, out: this.#scores };
    device.projectionScores(projection === "fisher" ? { ...scored, second } : scored);
    const mask = await projectionMask(device, this.#scores, shape, this.#linears, this.#pattern);
    const flips = await device.countDifferences(this.#mask, mask);
    this.#mask[Symbol.dispose]();
    this.#mask = mask;
    const sums = await device.dualStep({ values: values.matrix, split, dual, mask });
    return { ...sums, flips, entries: values.matrix.rows * values.matrix.columns };
  }

  /** Keep λ·u as it is when λ changes. */
  rescale(before: number, after: number): void {
    this.#device.scale(this.#dual, after === 0 ? 0 : before / after);
  }

  /** Project x itself; with `isFrozen` its zeros stay from now on. */
  async settle({ projection }: ElsaOptions, isFrozen: boolean): Promise<void> {
    const { values, second, shape } = this.parameter;
    const scored = { values: values.matrix, out: this.#scores };
    this.#device.projectionScores(projection === "fisher" ? { ...scored, second } : scored);
    using mask = await projectionMask(this.#device, this.#scores, shape, this.#linears, this.#pattern);
    this.#device.applyMask(values.matrix, mask);
    await this.#device.synchronize();
    await values.download();
    if (isFrozen) this.parameter.freezeZeros();
  }

  [Symbol.dispose](): void {
    for (const each of [this.#split, this.#dual, this.#scores, this.#mask]) each[Symbol.dispose]();
  }
}
