/**
 * The linears of one group while they are solved: their weights in the block, what is known of their inputs, and which
 * solver they get. Transforms change what they must between its steps; the only meeting of weight and method is solve-linear.ts.
 */
import { throwIfStopped } from "../context.js";
import type { LayerReport } from "../contract.js";
import { lookUp } from "../look-up.js";
import type { InputGroup, LinearSpec } from "../model/architecture.js";
import { putMatrix, takeMatrix } from "../model/logical-matrix.js";
import type { LayerProblem, LayerStatistics, WeightGradients } from "../solvers/solver.js";
import { stage, type BlockAtWork, type RunParts } from "./run.js";
import { NO_STATISTICS, solveLinear, type BoundSolver, type LinearProblem } from "./solve-linear.js";

/** What a group's linears all report. */
type GroupNote = Pick<LayerReport, "tokens" | "starved" | "permutation">;

export interface SolvedLinear {
  readonly linear: LinearSpec;
  readonly report: Pick<LayerReport, "loss" | "reconstruction" | "seconds"> & GroupNote;
  /** Solve it as it is now in the block's weights, in place, by what the solver was told before; nothing for what stays dense. */
  readonly solveAgain: () => Promise<void>;
}

/** Statistics in a new order of the channels; what they hold on the device is disposed of with them. */
export interface ReorderedStatistics extends Disposable {
  readonly statistics: LayerStatistics;
}

/** What may happen around the solving of one linear. */
export interface LinearHooks {
  /** Change a linear's problem on the device, at last the weight that is to be approximated. */
  retarget?(problem: LayerProblem): Promise<void>;
  /** @param weight as it is before it is solved, [outFeatures, inFeatures], borrowed */
  beforeLinear?(work: GroupAtWork, linear: LinearSpec, weight: Float32Array): void;
  /** What is to be reported of a linear besides. */
  afterLinear?(work: GroupAtWork, linear: LinearSpec, weight: Float32Array): Promise<Partial<SolvedLinear["report"]>>;
}

/** What solving a group takes of a run. */
type SolvingRun = Pick<RunParts, "context" | "course" | "model" | "config" | "device" | "solver" | "selected"> & {
  /** Fraction of zeros of every selected linear, by name. */
  readonly sparsities: ReadonlyMap<string, number>;
};

export class GroupAtWork {
  readonly #run: SolvingRun;
  readonly block: BlockAtWork;
  readonly group: InputGroup;
  /** Those that are pruned. */
  readonly linears: readonly LinearSpec[];
  /** What the method is told; transforms that change the inputs change it too. */
  statistics: LayerStatistics = NO_STATISTICS;
  /** Puts other statistics of the same inputs in the order that the channels have now; absent: they are as they were. */
  reorder: ((statistics: LayerStatistics) => ReorderedStatistics) | undefined;
  #solver: BoundSolver | undefined;
  #isOwnMethod = true;
  #note: GroupNote = {};
  readonly #changed = new Set<string>();

  constructor(run: SolvingRun, block: BlockAtWork, group: InputGroup) {
    this.#run = run;
    this.block = block;
    this.group = group;
    this.linears = group.linears.filter((linear) => run.selected.has(linear.name));
    this.#solver = run.solver;
  }

  /** Whether the linears are pruned at all. */
  get isSolved(): boolean {
    return this.#solver !== undefined;
  }

  /** Whether the run's own method prunes them, so that its statistics are looked at. */
  get isOwnMethod(): boolean {
    return this.#isOwnMethod;
  }

  /** Roles of the block's tensors whose values are no longer what they were. */
  get changed(): ReadonlySet<string> {
    return this.#changed;
  }

  solveBy(solver: BoundSolver): void {
    this.#solver = solver;
    this.#isOwnMethod = false;
  }

  leaveDense(): void {
    this.#solver = undefined;
    this.#isOwnMethod = false;
  }

  /** Say something of each of the group's linears in the report. */
  note(note: GroupNote): void {
    this.#note = { ...this.#note, ...note };
  }

  change(role: string): void {
    this.#changed.add(role);
  }

  /** Solve the linears one after another and put the results into the block's weights. */
  async solveAll(hooks: readonly LinearHooks[]): Promise<SolvedLinear[]> {
    const solved: SolvedLinear[] = [];
    for (const linear of this.linears) {
      throwIfStopped(this.#run.context, true);
      stage(this.#run, this.block.spec, linear.name, 0, linear.name.slice(this.block.spec.name.length + 1));
      solved.push(await this.#solve(linear, hooks));
    }
    return solved;
  }

  /** What is known of a linear's gradients, in the order that channels have now; each may be the block's own array. */
  gradientsOf(linear: LinearSpec): WeightGradients | undefined {
    const { gradients, spec } = this.block;
    if (gradients === undefined) return undefined;
    const { shape } = lookUp(spec.tensors, linear.role);
    return Object.fromEntries(
      [...gradients].map(([statistic, sums]) => [statistic, takeMatrix(lookUp(sums, linear.role), shape, linear)]),
    );
  }

  async #solve(linear: LinearSpec, hooks: readonly LinearHooks[]): Promise<SolvedLinear> {
    const { device, config, sparsities } = this.#run;
    const stored = lookUp(this.block.weights, linear.role);
    const { shape } = lookUp(this.block.spec.tensors, linear.role);
    const take = (): Float32Array => takeMatrix(stored, shape, linear);
    for (const hook of hooks) hook.beforeLinear?.(this, linear, take());
    const started = performance.now();
    let [loss, seconds]: [number | null, number] = [null, 0];
    const solver = this.#solver;
    const told = { linear, statistics: this.statistics, pattern: config.pattern, gradients: this.gradientsOf(linear) };
    const solve = async (retarget?: LinearProblem["retarget"]): Promise<void> => {
      if (solver === undefined) return;
      const sparsity = lookUp(sparsities, linear.name);
      const solution = await solveLinear(device, solver, { ...told, weight: take(), sparsity, retarget });
      putMatrix(solution.weight, stored, shape, linear);
      this.change(linear.role);
      loss = solution.loss;
      seconds = (performance.now() - started) / 1000;
    };
    await solve(async (problem) => {
      for (const hook of hooks) await hook.retarget?.(problem);
    });
    let report = {};
    for (const hook of hooks)
      if (hook.afterLinear !== undefined) report = { ...report, ...(await hook.afterLinear(this, linear, take())) };
    const { permutation, ...share } = this.#note;
    const solveAgain = (): Promise<void> => solve();
    return { linear, report: { loss, ...report, seconds, ...(permutation && { permutation }), ...share }, solveAgain };
  }
}
