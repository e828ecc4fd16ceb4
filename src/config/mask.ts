/** What concerns masks: where a run may save its own, and what `prune apply-mask` was asked for. */
import { dirname, join, resolve, sep } from "node:path";
import type { MaskConfig, ZeroChecksConfig } from "../contract.js";
import { UsageError, type PruneError } from "../errors.js";
import { existsSync } from "../files/request-files.js";
import {
  MASK_OPTIONS,
  VERIFICATION_OPTIONS,
  type MaskRequest,
  type VerificationRequest,
} from "../options/mask-options.js";
import { readOptions } from "../options/read.js";
import { Problems } from "../problems.js";
import { missing, type Resolved } from "./resolve.js";
import { checkModelDirectory } from "./rules.js";

/** @throws UsageError, CheckpointError for a directory that is no model; one error lists all problems found */
export function resolveMaskConfig(request: MaskRequest, workingDirectory: string): Resolved<MaskConfig> {
  const { asked, problems: unreadable } = readOptions(MASK_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  const { model = "", mask = "", out = "", force, resume } = asked;
  if (model === "") problems.add(missing("model", "give the directory of a checkpoint"));
  else problems.add(checkModelDirectory(resolve(workingDirectory, model)));
  if (mask === "") problems.add(missing("mask", "name a file that a run saved with --save-mask"));
  if (out === "") problems.add(missing("out", "name the directory to write"));
  problems.throwAny();
  const [directory, file, place] = [model, mask, out].map((path) => resolve(workingDirectory, path));
  return { notes: [], config: { model: directory, mask: file, out: place, force, resume } };
}

/** @throws UsageError, CheckpointError as `resolveMaskConfig` */
export function resolveZeroChecks(request: VerificationRequest, workingDirectory: string): Resolved<ZeroChecksConfig> {
  const { asked, problems: unreadable } = readOptions(VERIFICATION_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  const { model = "", family, mask, pattern, against } = asked;
  const directory = resolve(workingDirectory, model);
  if (model === "") problems.add(missing("model", "give the directory of a checkpoint"));
  else problems.add(checkModelDirectory(directory));
  const other = against === undefined ? undefined : resolve(workingDirectory, against);
  if (other !== undefined) problems.add(checkModelDirectory(other));
  if (mask === undefined && pattern === undefined && against === undefined && unreadable.length === 0)
    problems.add(missing("mask", "or --pattern, or --against: say what zeros are to be there"));
  if (pattern?.kind === "unstructured")
    problems.add(
      new UsageError("E_PATTERN", "--pattern: unstructured zeros may be anywhere; name an N:M pattern, 2:4."),
    );
  problems.throwAny();
  return {
    notes: [],
    config: {
      directory,
      ...(family === undefined ? {} : { family }),
      ...(mask === undefined ? {} : { mask: resolve(workingDirectory, mask) }),
      ...(pattern?.kind === "n-of-m" ? { pattern: { keep: pattern.keep, group: pattern.group } } : {}),
      ...(other === undefined ? {} : { against: other }),
    },
  };
}

/**
 * Whether a run may save its mask there. Not in the output: loaders that look for .safetensors files would take it for weights.
 * @param file absolute path
 */
export function maskPlaceProblem(
  file: string,
  { out, force, resume }: { readonly out: string; readonly force: boolean; readonly resume: boolean },
): PruneError | undefined {
  const problem = (what: string, hint: string): PruneError =>
    new UsageError("E_SAVE_MASK", `--save-mask: ${file} ${what}.`, { hint, details: { file } });
  if (!file.toLowerCase().endsWith(".safetensors"))
    return problem("is not named .safetensors", "Masks are written as safetensors: name the file so.");
  if (join(file, sep).startsWith(join(out, sep)))
    return problem("lies in the output", "Loaders would take it for weights there: put it beside the output.");
  if (!existsSync(dirname(file))) return problem("is in a directory that does not exist", "Make the directory first.");
  if (existsSync(file) && !force && !resume)
    return problem("exists; it is never overwritten unasked", "Choose another file, or replace it with --force.");
  return undefined;
}
