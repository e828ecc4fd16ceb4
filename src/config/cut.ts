/** What `prune cut` was asked for → a configuration; as resolve.ts. */
import { join, resolve } from "node:path";
import { existsSync } from "../files/request-files.js";
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
import { Problems } from "../problems.js";
import { missing, parseTokenSource, resolveSeqlen, type Note, type Resolved, type Surroundings } from "./resolve.js";
import { calibrationProblem, checkModelDirectory } from "./rules.js";

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

/** What the commands have in common that look at the model. */
async function resolveScoring(
  asked: AskedScoring,
  task: ScoringConfig["task"],
  isCalibrated: boolean,
  surroundings: Surroundings,
  problems: Problems,
): Promise<Resolved<ScoringConfig>> {
  const { nsamples, seed, device, memory } = asked;
  const part = resolvePart(asked, surroundings, problems);
  const source = isCalibrated
    ? problems.take(sourceOf(asked.calibration, part.model, surroundings.workingDirectory), undefined)
    : undefined;
  if (isCalibrated && asked.calibration === undefined && source === undefined && asked.model !== undefined)
    problems.add(calibrationProblem(`--criterion ${task.criterion}`, part.model));
  const notes: Note[] = [];
  const length = await resolveSeqlen(asked.seqlen, part.model, source, surroundings, isCalibrated ? notes : []);
  const seqlen = problems.take(length, 0);
  problems.throwAny();
  const memoryBytes = memory ?? Math.floor(surroundings.freeMemoryBytes / 2);
  return { notes, config: { ...part, task, calibration: source, nsamples, seqlen, seed, device, memoryBytes } };
}

/** What is named, else the text that comes with the model. */
function sourceOf(
  asked: string | undefined,
  model: string,
  workingDirectory: string,
): ReturnType<typeof parseTokenSource> | undefined {
  if (asked !== undefined) return parseTokenSource("--calibration", asked, workingDirectory);
  const own = join(model, "calibration.txt");
  return existsSync(own) ? { file: own } : undefined;
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
