/** What `prune cut` was asked for → a configuration; as resolve.ts. */
import { resolve } from "node:path";
import type { CutConfig } from "../contract.js";
import { CUT_OPTIONS, type AskedPart, type CutRequest } from "../options/cut-options.js";
import { readOptions } from "../options/read.js";
import { Problems } from "../problems.js";
import { missing, type Resolved, type Surroundings } from "./resolve.js";
import { checkModelDirectory } from "./rules.js";

/** What all commands have that write a part of a model. */
export function resolvePart(
  asked: AskedPart,
  { workingDirectory }: Pick<Surroundings, "workingDirectory">,
  problems: Problems,
): Omit<CutConfig, "plan"> {
  const { model: directory, out, family, dryRun, force, resume } = asked;
  if (directory === undefined) problems.add(missing("model", "give the directory of a checkpoint"));
  else problems.add(checkModelDirectory(resolve(workingDirectory, directory)));
  if (out === undefined && !dryRun)
    problems.add(missing("out", "name the directory to write, or look first with --dry-run"));
  return {
    model: resolve(workingDirectory, directory ?? ""),
    ...(family === undefined ? {} : { family }),
    out: out === undefined || dryRun ? undefined : resolve(workingDirectory, out),
    force,
    resume,
  };
}

/** @throws UsageError, CheckpointError for a directory that is no model; one error lists all problems found */
export function resolveCutConfig(
  request: CutRequest,
  surroundings: Pick<Surroundings, "workingDirectory">,
): Resolved<CutConfig> {
  const { asked, problems: unreadable } = readOptions(CUT_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  const part = resolvePart(asked, surroundings, problems);
  if (asked.plan === undefined) problems.add(missing("plan", "give a plan.json"));
  problems.throwAny();
  return { notes: [], config: { ...part, plan: resolve(surroundings.workingDirectory, asked.plan ?? "") } };
}
