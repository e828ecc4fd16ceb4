/** The allocation rules by name, and what follows from them: the schema, the list, checks. Adding a rule is one line here. */
import { z } from "zod";
import { InternalError } from "../errors.js";
import { alphapruning } from "./alphapruning.js";
import { atp } from "./atp.js";
import type { Bounds } from "./distribute.js";
import { dlp } from "./dlp.js";
import { erdosRenyi } from "./erdos-renyi.js";
import { evolutionary } from "./evolutionary.js";
import { global } from "./global.js";
import { lamp } from "./lamp.js";
import { owl } from "./owl.js";
import type { AllocationCost, AllocationRule, AllocationSize, AllocationSource, Sparsities } from "./rule.js";
import { uniform } from "./uniform.js";

const ALL = [uniform, owl, dlp, alphapruning, atp, erdosRenyi, lamp, global, evolutionary] as const;

type Schemas<Rules extends readonly { readonly schema: unknown }[]> = {
  -readonly [Index in keyof Rules]: Rules[Index]["schema"];
};

/** One alternative per rule; `rule` decides which other keys there are. */
export const allocationSchema = z.discriminatedUnion("rule", ALL.map(({ schema }) => schema) as Schemas<typeof ALL>);

/** A rule with its options. */
export type Allocation = z.infer<typeof allocationSchema>;

/** By every name they go by. */
const RULES: ReadonlyMap<string, AllocationRule<Allocation>> = new Map(
  ALL.flatMap((rule: AllocationRule<Allocation>) => [...rule.schema.shape.rule.values].map((name) => [name, rule])),
);

/** Names, in the order of the documentation. */
export const ALLOCATION_RULES: readonly string[] = [...RULES.keys()];

export const UNIFORM: Allocation = { rule: "uniform" };

/** One line per rule, for help and documentation, and every name it goes by. */
export function describeAllocations(): {
  readonly name: string;
  readonly names: readonly string[];
  readonly summary: string;
}[] {
  return ALL.map(({ name, summary, schema }) => ({ name, names: [...schema.shape.rule.values], summary }));
}

function ruleOf(allocation: Allocation): AllocationRule<Allocation> {
  const rule = RULES.get(allocation.rule);
  if (rule === undefined) throw new InternalError("E_ALLOCATION", `there is no rule ${allocation.rule}`);
  return rule;
}

/** Whether a rule looks at the dense model's activations, so that a run needs calibration data for it. */
export function needsActivations(allocation: Allocation): boolean {
  return ruleOf(allocation).needs(allocation) === "activations";
}

/** How often a rule reads the dense model's weights. */
export function weightPasses(allocation: Allocation): number {
  return ruleOf(allocation).passes(allocation);
}

/** Whether another method of the run would give another allocation. */
export function dependsOnMethod(allocation: Allocation): boolean {
  return ruleOf(allocation).dependsOnMethod?.(allocation) ?? false;
}

/** What a rule does besides its passes. */
export function allocationCost(allocation: Allocation, size: AllocationSize): AllocationCost {
  return ruleOf(allocation).cost?.(allocation, size) ?? {};
}

/** What no linear may exceed or fall short of; undefined for a rule that spreads nothing. */
export function boundsOf(allocation: Allocation): Bounds | undefined {
  return "largest" in allocation ? allocation : undefined;
}

/** Sparsity of every linear of a source, by name; the parameter-weighted mean is the target. */
export function allocate(source: AllocationSource, allocation: Allocation, target: number): Promise<Sparsities> {
  return ruleOf(allocation).allocate(source, allocation, target);
}

/**
 * The problems of an allocation, as sentences without their full stop; none where it can be done. A rule may wish for
 * more than `largest` or less than `smallest`: that is clamped and spread over the other units, and is no problem.
 *
 * @param target the requested sparsity; undefined where it is not known
 * @param blocks blocks that have something to prune; undefined where the model is not known
 */
export function allocationProblems(
  allocation: Allocation,
  target: number | undefined,
  blocks: number | undefined,
): string[] {
  const bounds = boundsOf(allocation);
  const inBounds = bounds === undefined ? [] : boundsProblems(allocation.rule, bounds, target);
  const own = target === undefined ? [] : (ruleOf(allocation).problems?.(allocation, target, blocks) ?? []);
  return [...inBounds, ...own];
}

function boundsProblems(rule: string, { smallest, largest }: Bounds, target: number | undefined): string[] {
  const problems: string[] = [];
  if (smallest > largest) problems.push(`--allocation ${rule}: smallest ${smallest} is more than largest ${largest}`);
  if (target === undefined) return problems;
  if (target > largest) {
    problems.push(
      `--allocation ${rule}: a sparsity of ${target} cannot be reached with at most ${largest} in any layer`,
    );
  }
  if (target < smallest) {
    problems.push(`--allocation ${rule}: a sparsity of ${target} is less than the ${smallest} that every layer gets`);
  }
  return problems;
}
