/** What `prune inspect` was asked for → a configuration; as resolve.ts. */
import type { InspectionConfig } from "../contract.js";
import { INSPECTION_OPTIONS, type InspectionRequest } from "../options/evaluation-options.js";
import { readOptions } from "../options/read.js";
import { Problems } from "../problems.js";
import { findModel, missing, type Resolved, type Surroundings } from "./resolve.js";
import { checkModelDirectory } from "./rules.js";

/** @throws UsageError, CheckpointError for a directory that is no model, NetworkError */
export async function resolveInspectionConfig(
  request: InspectionRequest,
  surroundings: Pick<Surroundings, "findModel">,
): Promise<Resolved<InspectionConfig>> {
  const problems = new Problems();
  const { asked, problems: unreadable } = readOptions(INSPECTION_OPTIONS, request);
  problems.add(...unreadable);
  const { model, family } = asked;
  if (model === undefined) problems.add(missing("model", "give the directory of a checkpoint, or a model of the Hub"));
  const directory = model === undefined ? undefined : await findModel(model, asked, surroundings, problems);
  if (directory !== undefined) problems.add(checkModelDirectory(directory));
  problems.throwAny();
  return { config: { directory: directory ?? "", ...(family === undefined ? {} : { family }) }, notes: [] };
}
