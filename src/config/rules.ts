/**
 * How the options of a run must fit each other, the method and the model. Each rule returns the problem instead of
 * throwing it, so that all problems of a command line are reported at once. Whether the output may be written is
 * checked where it is opened (checkpoint/output-place.ts).
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { CheckpointError, ConfigError, type PruneError, UsageError } from "../errors.js";
import { findSolver } from "../solvers/registry.js";
import type { LayerSolver } from "../solvers/solver.js";
import { composeSteps } from "../solvers/steps.js";
import { UNIFORM, type Allocation } from "../sparsity/allocation/schema.js";
import { formatPattern, patternSparsity, type Pattern } from "../sparsity/pattern.js";

/** The sparsity a run aims at: the pattern's own, or the one asked for. */
export function resolveSparsity(pattern: Pattern, asked: number | undefined): number | PruneError {
  const own = patternSparsity(pattern);
  if (own === undefined) {
    if (asked !== undefined) return asked;
    return new UsageError(
      "E_SPARSITY_MISSING",
      "--sparsity: missing; an unstructured run needs the fraction of zeros to make.",
      {
        hint: "Add --sparsity 0.7 (or 70%), or a --pattern such as 2:4, which has its own.",
      },
    );
  }
  if (asked === undefined || Math.abs(asked - own) < 1e-9) return own;
  const text = formatPattern(pattern);
  return new ConfigError(
    "E_SPARSITY_PATTERN",
    `--sparsity: ${asked} contradicts --pattern ${text}, which makes ${own} of the weights zero.`,
    {
      hint: `Leave --sparsity out, or give ${own}.`,
      details: { sparsity: asked, pattern: text, patternSparsity: own },
    },
  );
}

const FLAG_OF_OPTION: Readonly<Record<string, string>> = {
  damping: "--damping",
  dampingLadder: "--damping",
  blockSize: "--block-size",
};

/** Validate method options by the method's own schema; an option that it does not know is a problem. */
export function resolveMethodOptions(
  solver: LayerSolver<unknown>,
  given: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> | PruneError {
  const unknownOption = (names: string): ConfigError =>
    new ConfigError("E_METHOD_OPTION", `${names}: the method ${solver.name} has no such option.`, {
      hint: "Leave it out, or choose another --method.",
    });
  const flagsOf = (keys: readonly (string | number)[]): string =>
    keys.map((key) => FLAG_OF_OPTION[key] ?? String(key)).join(", ");
  let parsed: Readonly<Record<string, unknown>>;
  try {
    parsed = solver.schema.parse(given) as Readonly<Record<string, unknown>>;
  } catch (error) {
    const [issue] = issuesOf(error);
    if (issue === undefined) throw error;
    if (issue.keys !== undefined) return unknownOption(flagsOf(issue.keys));
    return new ConfigError("E_METHOD_OPTION", `${flagsOf(issue.path)}: ${issue.message}.`, {
      details: { method: solver.name, given },
    });
  }
  const dropped = Object.keys(given).filter((key) => !(key in parsed));
  return dropped.length === 0 ? parsed : unknownOption(flagsOf(dropped));
}

interface Issue {
  readonly message: string;
  readonly path: readonly (string | number)[];
  /** Present for unknown keys. */
  readonly keys?: readonly string[];
}

function issuesOf(error: unknown): readonly Issue[] {
  return error instanceof Error && "issues" in error && Array.isArray(error.issues) ? (error.issues as Issue[]) : [];
}

/** The model must be a directory with a config.json. */
export function checkModelDirectory(model: string): PruneError | undefined {
  if (!existsSync(model)) {
    return new CheckpointError("E_MODEL_MISSING", `${model}: no such directory.`, {
      hint: "Give the directory of a checkpoint in Hugging Face layout (config.json and .safetensors files).",
      details: { model },
    });
  }
  if (!statSync(model).isDirectory() || !existsSync(join(model, "config.json"))) {
    return new CheckpointError("E_MODEL_LAYOUT", `${model}: is not a directory with a config.json.`, {
      hint: "Give the directory of a checkpoint in Hugging Face layout (config.json and .safetensors files).",
      details: { model },
    });
  }
  return undefined;
}

/** Methods that look at activations need tokens from somewhere, and so does measuring their loss. */
export function calibrationProblem(
  { name, needs }: LayerSolver<unknown>,
  model: string,
  isMeasured = false,
): PruneError {
  if (isMeasured && needs.length === 0) {
    return new UsageError(
      "E_CALIBRATION_MISSING",
      `--calibration: missing; the loss is measured on the inputs of every layer, and ${model} has no calibration.txt.`,
      {
        hint: 'Pass --calibration FILE: .txt, .jsonl or .jsonl.gz with "text", or .safetensors with token ids.',
        details: { method: name, model },
      },
    );
  }
  return new UsageError(
    "E_CALIBRATION_MISSING",
    `--calibration: missing; ${name} looks at the inputs of every layer, and ${model} has no calibration.txt.`,
    {
      hint: 'Pass --calibration FILE: .txt, .jsonl or .jsonl.gz with "text", or .safetensors with token ids. Or take --method magnitude, which needs none.',
      details: { method: name, model },
    },
  );
}

/** The order of a method and its further steps; undefined where it makes sense. */
export function checkSteps(names: readonly string[]): PruneError | undefined {
  try {
    composeSteps(names.map((name) => ({ solver: findSolver(name), options: undefined })));
    return undefined;
  } catch (error) {
    if (error instanceof UsageError) return error;
    throw error;
  }
}

/** N:M has its own sparsity everywhere, so there is nothing to spread. */
export function resolveAllocation(asked: Allocation | undefined, pattern: Pattern): Allocation | PruneError {
  if (asked === undefined || asked.rule === "uniform" || pattern.kind === "unstructured") return asked ?? UNIFORM;
  return new ConfigError(
    "E_ALLOCATION_PATTERN",
    `--allocation ${asked.rule}: ${formatPattern(pattern)} makes the same share of every layer zero.`,
    {
      hint: "Leave --allocation out, or prune unstructured.",
      details: { rule: asked.rule, pattern: formatPattern(pattern) },
    },
  );
}
