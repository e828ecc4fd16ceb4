/** What `prune generate-calibration` was asked for → a configuration; as resolve.ts. */
import { resolve } from "node:path";
import type { GenerationConfig } from "../contract.js";
import { UsageError } from "../errors.js";
import { GENERATION_OPTIONS, type GenerationRequest } from "../options/generation-options.js";
import { readOptions } from "../options/read.js";
import { Problems } from "../problems.js";
import { findModel, missing, resolveSeqlen, type Note, type Resolved, type Surroundings } from "./resolve.js";
import { checkModelDirectory } from "./rules.js";

const KINDS = [".safetensors", ".jsonl", ".txt"] as const;

/** @throws UsageError, CheckpointError for a directory that is no model; one error lists all problems found */
export async function resolveGenerationConfig(
  request: GenerationRequest,
  surroundings: Pick<Surroundings, "workingDirectory" | "tokenRowLength" | "freeMemoryBytes" | "findModel">,
): Promise<Resolved<GenerationConfig>> {
  const { workingDirectory, freeMemoryBytes } = surroundings;
  const { asked, problems: unreadable, unread } = readOptions(GENERATION_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  const { model: name, revision, token, offline, out: file, memory, family, prompts, ...plain } = asked;
  if (name === undefined) problems.add(missing("model", "give the directory of a checkpoint, or a model of the Hub"));
  if (file === undefined && !unread.has("out"))
    problems.add(missing("out", "name the file to write, for example --out generated.safetensors"));
  if (file !== undefined && !KINDS.some((kind) => file.toLowerCase().endsWith(kind))) {
    problems.add(
      new UsageError("E_OUT_EXTENSION", `--out: "${file}" is no kind of file that can be written.`, {
        hint: `Use ${KINDS.join(", ")}.`,
        details: { value: file, kinds: KINDS },
      }),
    );
  }
  const notes: Note[] = [];
  const found =
    name === undefined ? undefined : await findModel(name, { revision, token, offline }, surroundings, problems);
  const model = found ?? "";
  if (found !== undefined) problems.add(checkModelDirectory(model));
  const length = await resolveSeqlen(asked.seqlen, model, undefined, surroundings, notes);
  const seqlen = problems.take(length, 0);
  problems.throwAny();
  return {
    notes,
    config: {
      ...plain,
      model,
      ...(family === undefined ? {} : { family }),
      out: resolve(workingDirectory, file ?? ""),
      prompts: prompts === undefined ? undefined : resolve(workingDirectory, prompts),
      seqlen,
      memoryBytes: memory ?? Math.floor(freeMemoryBytes / 2),
    },
  };
}
