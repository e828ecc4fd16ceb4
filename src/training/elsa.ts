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
import type { Device } from "../device/device.js";
import type { Pattern } from "../sparsity/pattern.js";
import { descend, type Course, type Descent, type ProjectionReport } from "./descent.js";
import { BF16, DYNAMIC8, DYNAMIC8_UNSIGNED, FP32, FP8_E4M3, FP8_E5M2 } from "./formats/formats.js";
import { TRAINED } from "./finetune.js";
import { FULL_PRECISION, type FieldFormats } from "./parameter-store.js";
import type { Parameters } from "./parameters.js";
import type { ProjectedLinear } from "./projection.js";
import {
  addMultiple,
  forEachSplit,
  lambdaAt,
  project,
  PROJECTIONS,
  SCHEDULES,
  settle,
  startSplitting,
  type Split,
  type SplittingSums,
} from "./splitting.js";
import type { Trainer } from "./trainer.js";

/** How the state lies between steps. Elsa-L is the paper's: z in FP8, u in BF16, moments in 8 bits per block of 256. */
const LIGHT: FieldFormats = {
  ...{ values: FP32, gradient: FP32, dual: BF16 },
  ...{ first: DYNAMIC8, second: DYNAMIC8_UNSIGNED, split: FP8_E4M3 },
};
export const STATES = {
  fp32: FULL_PRECISION,
  "elsa-l": LIGHT,
  "elsa-l-e5m2": { ...LIGHT, split: FP8_E5M2 },
} as const satisfies Readonly<Record<string, FieldFormats>>;
type StateName = keyof typeof STATES;

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
  /**
   * Share of x - z that a projection adds to u. The paper's is all of it, which supposes that x has come near its place between two
   * projections; with 0 the penalty is λ/2 ‖x - z‖² and nothing is remembered.
   */
  dualRate: z.number().min(0).max(1).default(1),
  /** Largest norm of the loss's gradient; 0 for no clipping. */
  clip: z.number().min(0).finite().default(1),
  /** Fraction of the steps over which the sparsity of z rises to the target, by a cubic; 0 begins with all of it. The paper has none. */
  gradual: z.number().min(0).max(0.9).default(0),
  /** Pull x towards z - u by λ after the step of Adam, not through its moments. The paper's first code had it. */
  decoupled: z.boolean().default(false),
  /** Fraction of the steps, at the end, that train under the projected mask: the paper has none. */
  frozen: z.number().min(0).max(0.9).default(0),
  /** Share of the divergence from the dense model in the loss; the rest is the cross-entropy of the text. The paper has none. */
  distillation: z.number().min(0).max(1).default(0),
  /** Weight of how far each block's output is from the dense model's, see square-head.ts, added to the loss. The paper has none. */
  squareHead: z.number().min(0).finite().default(0),
  /** What of the model is trained; the paper trains all of it. */
  train: z.enum(TRAINED).default("all"),
  /** How z, u and Adam's moments are kept between steps. */
  state: z.enum(Object.keys(STATES) as [StateName, ...StateName[]]).default("fp32"),
});
export type ElsaOptions = z.infer<typeof elsaSchema>;

export const elsa = {
  name: "elsa",
  summary: "minimise the model's own loss under the sparsity constraint by ADMM; trains everything",
  unit: "model",
  choosesMask: true,
  schema: elsaSchema,
  misfit: ({ gradual }, pattern) =>
    gradual > 0 && pattern.kind === "n-of-m" ? "gradual has no meaning where every group keeps as many" : undefined,
} satisfies Trainer<ElsaOptions>;

export interface ElsaProblem extends Descent {
  readonly device: Device;
  readonly pattern: Pattern;
  /** The pruned linears of a parameter that has a sparse twin. */
  linearsOf(group: string, parameter: string): readonly ProjectedLinear[];
}

/** @throws NumericalError E_NON_FINITE where the loss is not finite, before the values change */
export async function minimiseSparsely(problem: ElsaProblem, options: ElsaOptions): Promise<void> {
  const { store, taken } = problem;
  const { steps, interval } = options;
  const frozenFrom = options.frozen === 0 ? steps : Math.max(1, Math.floor((1 - options.frozen) * steps));
  const isProjected = (step: number): boolean => step <= frozenFrom && (step - 1) % interval === 0;
  if (taken === 0)
    for (const group of store.names)
      await store.use(group, { reads: ["values"], writes: ["split", "mask"] }, (parameters) =>
        forEachOfGroup(problem, group, parameters, startSplitting, shareAt(options, 0)),
      );
  // The penalty of a step is that of the last projection before it.
  let lambda = lambdaAt(options, taken === 0 ? 0 : taken - 1 - ((Math.min(taken, frozenFrom) - 1) % interval));
  await descend(problem, options, (step): Course => {
    if (step > frozenFrom) return { holds: true };
    const sums = isProjected(step) ? newSums() : undefined;
    const isLast = step === frozenFrom;
    const next = sums && lambdaAt(options, step - 1);
    const before = lambda;
    const visitSplit = async (split: Split): Promise<void> => {
      if (options.decoupled) drawBack(split, before);
      if (sums !== undefined) addSums(sums, await project(split, options.projection, options.dualRate));
      if (next !== undefined && next !== before) rescale(split, before, next);
    };
    const visit = async (group: string, parameters: Parameters): Promise<void> => {
      await forEachOfGroup(problem, group, parameters, visitSplit, shareAt(options, step - 1));
      if (isLast) await forEachOfGroup(problem, group, parameters, (split) => settle(split, options.projection));
      if (isLast || options.decoupled) await parameters.refresh();
    };
    return {
      pull: options.decoupled ? undefined : lambda,
      visit: sums !== undefined || isLast || options.decoupled ? visit : undefined,
      finish(gradientNorm) {
        lambda = next ?? lambda;
        return sums && reportOf(sums, before, gradientNorm);
      },
    };
  });
}

/** Share of the target's sparsity that a projection after so many steps has. */
export function shareAt({ gradual, steps }: Pick<ElsaOptions, "gradual" | "steps">, taken: number): number {
  if (gradual === 0) return 1;
  return 1 - (1 - Math.min(1, taken / (gradual * steps))) ** 3;
}

/** Work on every parameter of a group that has a twin, with so much of the target's sparsity. */
function forEachOfGroup(
  { device, pattern, linearsOf }: Pick<ElsaProblem, "device" | "pattern" | "linearsOf">,
  group: string,
  parameters: Parameters,
  work: (split: Split) => Promise<void>,
  sparsityShare = 1,
): Promise<void> {
  const ofGroup = (parameter: string): ProjectedLinear[] =>
    linearsOf(group, parameter).map((each) => ({ ...each, sparsity: sparsityShare * each.sparsity }));
  return forEachSplit({ device, pattern, linearsOf: ofGroup }, parameters, work);
}

/** x ← x - λ (x - z + u) */
function drawBack(each: Split, lambda: number): void {
  const { device, parameter, split, dual } = each;
  const x = parameter.values.matrix;
  device.scale(x, 1 - lambda);
  addMultiple(each, split, x, lambda);
  addMultiple(each, dual, x, -lambda);
}

/** Keep λ·u as it is when λ changes. */
function rescale({ device, dual }: Split, before: number, after: number): void {
  device.scale(dual, after === 0 ? 0 : before / after);
}

function newSums(): SplittingSums {
  return { primal: 0, change: 0, values: 0, split: 0, flips: 0, entries: 0 };
}

function addSums(sums: SplittingSums, one: SplittingSums): void {
  for (const key of Object.keys(sums) as (keyof SplittingSums)[]) sums[key] += one[key];
}

function reportOf(sums: SplittingSums, lambda: number, gradientNorm: number): ProjectionReport {
  const relative = (part: number, whole: number): number => (whole === 0 ? 0 : Math.sqrt(part / whole));
  return {
    primal: relative(sums.primal, sums.values),
    dual: relative(sums.change, sums.split),
    flips: sums.entries === 0 ? 0 : sums.flips / sums.entries,
    lambda,
    penaltyRatio: gradientNorm === 0 ? 0 : (lambda * Math.sqrt(sums.primal)) / gradientNorm,
  };
}
