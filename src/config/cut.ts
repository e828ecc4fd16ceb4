/** What `prune cut` was asked for → a configuration; as resolve.ts. */
import { resolve } from "node:path";
import type { CutConfig, ScoringConfig } from "../contract.js";
import { PruneError, UsageError } from "../errors.js";
import {
  BLOCK_OPTIONS,
  CUT_OPTIONS,
  EXPERT_OPTIONS,
  WIDTH_OPTIONS,
  type AskedPart,
  type AskedScoring,
  type BlockRequest,
  type CutRequest,
  type ExpertRequest,
  type WidthRequest,
} from "../options/cut-options.js";
import { readOptions } from "../options/read.js";
import { OWN_TEXT } from "../options/values.js";
import { Problems } from "../problems.js";
import {
  findModel,
  missing,
  resolveCalibration,
  resolveSeqlen,
  type Note,
  type Resolved,
  type Surroundings,
} from "./resolve.js";
import { checkModelDirectory } from "./rules.js";

/** What all commands have that write a part of a model. */
export async function resolvePart(
  asked: AskedPart,
  surroundings: Pick<Surroundings, "workingDirectory" | "findModel">,
  problems: Problems,
): Promise<Omit<CutConfig, "plan">> {
  const { workingDirectory } = surroundings;
  const { model: name, out, family, dryRun, force, resume } = asked;
  if (name === undefined) problems.add(missing("model", "give the directory of a checkpoint, or a model of the Hub"));
  const directory = name === undefined ? undefined : await findModel(name, asked, surroundings, problems);
  if (directory !== undefined) problems.add(checkModelDirectory(directory));
  if (out === undefined && !dryRun)
    problems.add(missing("out", "name the directory to write, or look first with --dry-run"));
  return {
    model: directory ?? "",
    ...(family === undefined ? {} : { family }),
    out: out === undefined || dryRun ? undefined : resolve(workingDirectory, out),
    force,
    resume,
  };
}

/** @throws UsageError, CheckpointError for a directory that is no model; one error lists all problems found */
export async function resolveCutConfig(
  request: CutRequest,
  surroundings: Pick<Surroundings, "workingDirectory" | "findModel">,
): Promise<Resolved<CutConfig>> {
  const { asked, problems: unreadable } = readOptions(CUT_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  const part = await resolvePart(asked, surroundings, problems);
  if (asked.plan === undefined) problems.add(missing("plan", "give a plan.json"));
  problems.throwAny();
  return { notes: [], config: { ...part, plan: resolve(surroundings.workingDirectory, asked.plan ?? "") } };
}

/** What the commands have in common that look at the model. */
async function resolveScoring(
  asked: AskedScoring,
  task: ScoringConfig["task"],
  isCalibrated: boolean,
  surroundings: Surroundings,
  problems: Problems,
): Promise<Resolved<ScoringConfig>> {
  const { nsamples, seed, device, memory } = asked;
  const part = await resolvePart(asked, surroundings, problems);
  const source = isCalibrated
    ? problems.attempt(() => resolveCalibration(asked.calibration, part.model, surroundings.workingDirectory))
    : undefined;
  const notes: Note[] = [];
  if (source?.set === OWN_TEXT && asked.calibration === undefined)
    notes.push({ level: "info", message: "no --calibration: the model is looked at with text that it samples itself" });
  const length = await resolveSeqlen(asked.seqlen, part.model, source, surroundings, isCalibrated ? notes : []);
  const seqlen = problems.take(length, 0);
  problems.throwAny();
  const memoryBytes = memory ?? Math.floor(surroundings.freeMemoryBytes / 2);
  return { notes, config: { ...part, task, calibration: source, nsamples, seqlen, seed, device, memoryBytes } };
}

/** One of two ways to say how much. */
function requireAmount(flag: string, count: number | undefined, ratio: number | undefined): PruneError | undefined {
  if ((count === undefined) !== (ratio === undefined)) return undefined;
  return new UsageError(
    "E_AMOUNT",
    `${flag} and --ratio: ${count === undefined ? "one of them is needed" : "only one of them"}.`,
    {
      hint: `${flag} is a number, --ratio the share that goes.`,
    },
  );
}

/** @throws UsageError, CheckpointError; one error lists all problems found. As for the two that follow */
export function resolveBlocksConfig(
  request: BlockRequest,
  surroundings: Surroundings,
): Promise<Resolved<ScoringConfig>> {
  const { asked, problems: unreadable } = readOptions(BLOCK_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable, requireAmount("--drop", asked.drop, asked.ratio));
  const { criterion, drop, ratio } = asked;
  const task = { of: "blocks", criterion, drop, ratio } as const;
  return resolveScoring(asked, task, criterion !== "tail", surroundings, problems);
}

export function resolveExpertsConfig(
  request: ExpertRequest,
  surroundings: Surroundings,
): Promise<Resolved<ScoringConfig>> {
  const { asked, problems: unreadable } = readOptions(EXPERT_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable, requireAmount("--keep", asked.keep, asked.ratio));
  const { criterion, keep, ratio } = asked;
  return resolveScoring(asked, { of: "experts", criterion, keep, ratio }, true, surroundings, problems);
}

export function resolveWidthConfig(
  request: WidthRequest,
  surroundings: Surroundings,
): Promise<Resolved<ScoringConfig>> {
  const { asked, problems: unreadable } = readOptions(WIDTH_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  const { criterion, ratio, multiple, refit } = asked;
  if (ratio === undefined) problems.add(missing("ratio", "say which share of the channels goes, such as 0.1"));
  const task = { of: "width", criterion, ratio: ratio ?? 0, multiple, isRefitted: refit === "least-squares" } as const;
  return resolveScoring(asked, task, true, surroundings, problems);
}
