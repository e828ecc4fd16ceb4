/** The course of a training: what is said of it while it runs, warned of, and reported at its end. */
import type { ModelTrainingReport, TrainingCourse, TrainingPoint } from "../contract.js";
import type { Logger } from "../logging.js";
import type { ProjectionReport, StepProgress } from "../training/descent.js";

/** Points of the curve of a training, more or less. */
const POINTS = 64;

/** Where the penalty is that much weaker or stronger than the loss's gradient, splitting does not work. */
const PENALTY_RANGE = [0.05, 200] as const;
/** Where more of the weights enter or leave the mask at each projection, duals outgrow what steps between projections can move. */
const MOST_FLIPS = 0.1;
/** Where x and z are further apart at the last projection, the last projection of all takes away what x relied on. */
const LARGEST_RESIDUAL = 0.1;
/** Shares of the steps between which the penalty is looked at: before, x and z have not parted yet. */
const LOOKED_AT = [0.1, 0.3] as const;

export class TrainingCourseLog {
  readonly #steps: number;
  readonly #losses: number[];
  readonly #gradientNorms: number[];
  readonly #curve: TrainingPoint[];
  /** Of projections that are looked at. */
  readonly #looked: ProjectionReport[] = [];
  #last: Pick<ProjectionReport, "primal"> | undefined;
  #hasWarned: boolean;

  constructor(steps: number, earlier: TrainingCourse = { losses: [], gradientNorms: [], curve: [] }) {
    this.#steps = steps;
    this.#losses = [...earlier.losses];
    this.#gradientNorms = [...earlier.gradientNorms];
    this.#curve = [...earlier.curve];
    const primal = earlier.curve.findLast((point) => point.primal !== undefined)?.primal;
    this.#last = primal === undefined ? undefined : { primal };
    this.#hasWarned = earlier.losses.length > LOOKED_AT[1] * steps;
  }

  get course(): TrainingCourse {
    return { losses: this.#losses, gradientNorms: this.#gradientNorms, curve: this.#curve };
  }

  /** Mean losses of the first and the last tenth of the steps. */
  get ends(): Pick<ModelTrainingReport, "first" | "last"> {
    const tenth = Math.max(1, Math.floor(this.#losses.length / 10));
    return { first: mean(this.#losses.slice(0, tenth)), last: mean(this.#losses.slice(-tenth)) };
  }

  /** Whether the curve wants a point at this step: at its ends, and one of so many between, projections for themselves. */
  isPointDue({ step, steps, projected }: Pick<StepProgress, "step" | "steps" | "projected">): boolean {
    const isAlike = ({ primal }: TrainingPoint): boolean => projected === undefined || primal !== undefined;
    const last = this.#curve.findLast(isAlike)?.step ?? 0;
    return step === 1 || step === steps || step - last >= steps / POINTS;
  }

  /**
   * @param projectedLoss where it was measured after this step
   * @returns whether the curve got a point
   */
  add({ step, steps, loss, gradientNorm, projected }: StepProgress, projectedLoss?: number): boolean {
    this.#losses.push(loss);
    this.#last = projected ?? this.#last;
    this.#gradientNorms.push(gradientNorm);
    if (projected !== undefined && step >= LOOKED_AT[0] * steps) this.#looked.push(projected);
    if (!this.isPointDue({ step, steps, ...(projected && { projected }) })) return false;
    const since = this.#curve.at(-1)?.step ?? 0;
    this.#curve.push({
      step,
      loss: mean(this.#losses.slice(since)),
      gradientNorm: mean(this.#gradientNorms.slice(since)),
      ...projected,
      ...(projectedLoss === undefined ? {} : { projectedLoss }),
    });
    return true;
  }

  /** For whoever waits. */
  get said(): string {
    const point = this.#curve.findLast(({ primal }) => primal !== undefined);
    const split =
      point?.projectedLoss === undefined
        ? ""
        : `, of its projection ${point.projectedLoss.toPrecision(4)}, residual ${(point.primal ?? 0).toFixed(3)}, flips ${(100 * (point.flips ?? 0)).toFixed(2)} %`;
    return `loss ${mean(this.#losses.slice(-16)).toPrecision(4)}${split}`;
  }

  /** At the end of a training, where splitting was not done. */
  warnAtEnd(logger: Logger): void {
    const residual = this.#last?.primal ?? 0;
    if (residual <= LARGEST_RESIDUAL) return;
    logger.warn(
      `elsa: weights and their sparse twins were still ${(100 * residual).toFixed(0)} % apart at the last projection (10 % or less is good); try more --steps, a longer --interval or a larger --lambda`,
      { residual },
    );
  }

  /** Once, where λ or the interval are far off what splitting needs. */
  warn(logger: Logger): void {
    if (this.#hasWarned || this.#losses.length < LOOKED_AT[1] * this.#steps || this.#looked.length === 0) return;
    this.#hasWarned = true;
    const [ratio, flips] = [middle(this.#looked, "penaltyRatio"), middle(this.#looked, "flips")];
    if (flips > MOST_FLIPS)
      logger.warn(
        `elsa: the mask does not settle: ${(100 * flips).toFixed(0)} % of the weights enter or leave it at a projection, since steps between projections move too little; try a longer --interval or a larger --lr`,
        { flips },
      );
    const [weakest, strongest] = PENALTY_RANGE;
    if (ratio >= weakest && ratio <= strongest) return;
    const [is, advice] = ratio < weakest ? ["weak", "larger"] : ["strong", "smaller"];
    logger.warn(
      `elsa: λ is too ${is}: its pull is ${ratio.toPrecision(2)} times the loss's gradient (${weakest} to ${strongest} works); try a ${advice} --lambda`,
      { ratio },
    );
  }
}

function middle(reports: readonly ProjectionReport[], key: "penaltyRatio" | "flips"): number {
  return reports.map((report) => report[key]).sort((a, b) => a - b)[reports.length >> 1] as number;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
