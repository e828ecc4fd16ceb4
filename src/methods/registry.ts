/** Everything that `--method` and `--then` take by name: solvers of single layers, and steps that train. */
import { findSolver, SOLVERS } from "../solvers/registry.js";
import type { LayerSolver } from "../solvers/solver.js";
import { TRAINERS } from "../training/registry.js";
import type { Trainer } from "../training/trainer.js";

export type Method = LayerSolver<unknown> | Trainer<unknown>;

export const METHODS: ReadonlyMap<string, Method> = new Map<string, Method>([...SOLVERS, ...TRAINERS]);

/**
 * @param others what else may be said in place of a method, for the message
 * @throws UsageError E_METHOD naming the nearest method and all of them
 */
export function findMethod(name: string, others: readonly string[] = []): Method {
  return TRAINERS.get(name) ?? findSolver(name, [...TRAINERS.keys(), ...others]);
}

export function isTrainer(method: Method): method is Trainer<unknown> {
  return "unit" in method;
}

/** Whether it can only follow another step. */
export function isFollowing(method: Method): boolean {
  return isTrainer(method) ? method.choosesMask !== true : method.startsFromMask === true;
}

/** Whether it looks at tokens: a calibration is needed. */
export function needsTokens(method: Method): boolean {
  return looksAtGradients(method) || (!isTrainer(method) && method.needs.length > 0);
}

/** Whether it goes back through the model, or a part of it. */
export function looksAtGradients(method: Method): boolean {
  return isTrainer(method) || method.gradients !== undefined;
}
