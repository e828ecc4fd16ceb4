/** The layer-wise methods by name. Adding a method is one line here. Those with `startsFromMask` can only follow another. */
import type { FurtherStep } from "../contract.js";
import { UsageError } from "../errors.js";
import { nearestName } from "../nearest-name.js";
import { admmUpdate } from "./admm-update.js";
import { admm } from "./admm.js";
import { alps } from "./alps.js";
import { cgUpdate } from "./cg-update.js";
import { dsnot } from "./dsnot.js";
import { gblm } from "./gblm.js";
import { magnitude } from "./magnitude.js";
import { obsUpdate } from "./obs-update.js";
import { random } from "./random.js";
import { ria } from "./ria.js";
import { snip } from "./snip.js";
import type { LayerSolver } from "./solver.js";
import { sparsegpt } from "./sparsegpt.js";
import { thanos } from "./thanos.js";
import { wandaPlusPlus } from "./wanda-plus-plus.js";
import { wanda } from "./wanda.js";

const ALL: readonly LayerSolver<unknown>[] = [
  random,
  magnitude,
  wanda,
  wandaPlusPlus,
  ria,
  snip,
  gblm,
  sparsegpt,
  thanos,
  admm,
  alps,
  dsnot,
  obsUpdate,
  admmUpdate,
  cgUpdate,
];

export const SOLVERS: ReadonlyMap<string, LayerSolver<unknown>> = new Map(ALL.map((solver) => [solver.name, solver]));

/**
 * @param others what else may be said in place of a method, for the message
 * @throws UsageError E_METHOD naming the nearest method and all of them
 */
export function findSolver(name: string, others: readonly string[] = []): LayerSolver<unknown> {
  const solver = SOLVERS.get(name);
  if (solver !== undefined) return solver;
  const names = [...SOLVERS.keys(), ...others];
  const nearest = nearestName(name.toLowerCase(), names);
  throw new UsageError("E_METHOD", `--method: "${name}" is not a method; known methods are ${names.join(", ")}.`, {
    hint: nearest === undefined ? "`prune methods` says what each does." : `Did you mean "${nearest}"?`,
    details: { value: name, known: names },
  });
}

/** Whether a step solves the linears of a block again after it has trained the block. */
export function solvesAgain({ method, methodOptions }: FurtherStep): boolean {
  const solver = SOLVERS.get(method);
  return solver?.solvesAgain?.(solver.schema.parse(methodOptions)) ?? false;
}
