/**
 * How the options of a run must fit each other, the method and the model. Each rule returns the problem instead of
 * throwing it, so that all problems of a command line are reported at once. Whether the output may be written is
 * checked where it is opened (checkpoint/output-place.ts).
 */
import { existsSync, readdirSync, statSync } from "../files/request-files.js";
import { join } from "node:path";
import { CheckpointError, ConfigError, PruneError, UsageError } from "../errors.js";
import { layoutHint } from "../layout-hint.js";
import { flagOf } from "../options/option.js";
import { METHOD_FLAGS, type RunConfig } from "../options/run-options.js";
import type { FurtherStep, Permutation, Propagation, Reproduced } from "../options/values.js";
import { problemOf } from "../problems.js";
import { expectFit } from "../solvers/problem.js";
import { findMethod, isFollowing, isTrainer, type Method } from "../methods/registry.js";
import { solvesAgain } from "../solvers/registry.js";
import type { LayerSolver } from "../solvers/solver.js";
import { composeSteps } from "../solvers/steps.js";
import { TRAINERS } from "../training/registry.js";
import { allocationProblems, dependsOnMethod, UNIFORM, type Allocation } from "../allocation/registry.js";
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

/** Options of methods that have a flag of their own. */
const FLAG_OF_OPTION: ReadonlyMap<string | number, string> = new Map([
  ["damping", flagOf("damping")],
  ["dampingLadder", flagOf("damping")],
  ...METHOD_FLAGS.map((key) => [key, flagOf(key)] as const),
]);

/**
 * Validate method options by the method's own schema; an option that it does not know is a problem, and so is one that
 * has no meaning for the pattern.
 */
export function resolveMethodOptions(
  method: Method,
  given: Readonly<Record<string, unknown>>,
  pattern: Pattern,
): Readonly<Record<string, unknown>> | PruneError {
  const unknownOption = (names: string): ConfigError =>
    new ConfigError("E_METHOD_OPTION", `${names}: the method ${method.name} has no such option.`, {
      hint: "Leave it out, or choose another --method.",
    });
  const flagsOf = (keys: readonly (string | number)[]): string =>
    keys.map((key) => FLAG_OF_OPTION.get(key) ?? String(key)).join(", ");
  let parsed: Readonly<Record<string, unknown>>;
  try {
    parsed = method.schema.parse(given) as Readonly<Record<string, unknown>>;
  } catch (error) {
    const issues = issuesOf(error);
    if (issues.length === 0) throw error;
    const [first] = issues;
    if (issues.length === 1 && first?.keys !== undefined) return unknownOption(flagsOf(first.keys));
    const problems = issues.map(({ path, message, keys }) =>
      keys === undefined
        ? `${flagsOf(path)}: ${message}`
        : `${flagsOf(keys)}: the method ${method.name} has no such option`,
    );
    return new ConfigError("E_METHOD_OPTION", `${problems.join("; ")}.`, {
      hint: `docs/methods/${method.name}.md lists the options of ${method.name}.`,
      details: { method: method.name, given, problems },
    });
  }
  const dropped = Object.keys(given).filter((key) => !Object.hasOwn(parsed, key));
  if (dropped.length > 0) return unknownOption(flagsOf(dropped));
  return problemOf(() => expectFit(method, parsed, pattern)) ?? parsed;
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
  const isDirectory = statSync(model).isDirectory();
  if (!isDirectory || !existsSync(join(model, "config.json"))) {
    return new CheckpointError("E_MODEL_LAYOUT", `${model}: is not a directory with a config.json.`, {
      hint:
        (isDirectory ? layoutHint(readdirSync(model)) : undefined) ??
        "Give the directory of a checkpoint in Hugging Face layout (config.json and .safetensors files).",
      details: { model },
    });
  }
  return undefined;
}

/** The order of a method and its further steps; undefined where it makes sense. */
export function checkSteps(names: readonly string[]): PruneError | undefined {
  const methods = names.map((name) => findMethod(name));
  const [first] = methods;
  if (first !== undefined && isTrainer(first) && isFollowing(first))
    return new UsageError("E_STEPS", `--method ${first.name}: it starts from a mask, so it cannot come first.`, {
      hint: `Begin with one method that chooses a mask, for example: --method wanda --then ${first.name}.`,
      details: { steps: names },
    });
  const solvers = methods.filter((method) => !isTrainer(method)) as LayerSolver<unknown>[];
  const place = (method: Method): number => (isTrainer(method) ? UNITS.indexOf(method.unit) : -1);
  const late = methods.find((method, index) => methods.slice(0, index).some((before) => place(before) > place(method)));
  const problem =
    solvers.length === 0
      ? undefined
      : problemOf(() => composeSteps(solvers.map((solver) => ({ solver, options: undefined }))));
  if (problem !== undefined || late === undefined) return problem;
  return new UsageError(
    "E_STEPS",
    `steps ${names.join(", ")}: ${late.name} comes after a step that trains what it works on.`,
    {
      hint: "First what solves single layers, then what trains blocks, then what trains the whole model.",
      details: { steps: names },
    },
  );
}

/** What steps that train cannot do: look at the dense model's inputs alone, leave linears out, or have their linears solved by others. */
export function checkTraining(steps: readonly FurtherStep[], propagation: Propagation): PruneError | undefined {
  const training = steps.filter(({ method }) => TRAINERS.has(method));
  const again = steps.find(solvesAgain);
  const first = again ?? training.find(({ method }) => TRAINERS.get(method)?.unit === "block");
  const other = steps.find(({ method }) => method !== again?.method && !TRAINERS.has(method));
  if (again !== undefined && other !== undefined)
    return new UsageError(
      "E_STEPS",
      `steps ${steps.map(({ method }) => method).join(", ")}: ${again.method} solves linears again after it has trained their block, and ${other.method} would not.`,
      { hint: `Let it only choose the mask: ${again.method} with rounds=0.`, details: { steps: [again, other] } },
    );
  const matched = training.find(({ match }) => match !== undefined);
  if (matched !== undefined)
    return new UsageError(
      "E_STEPS",
      `then: ${matched.method} trains whole ${TRAINERS.get(matched.method)?.unit === "block" ? "blocks" : "models"}; it cannot match single linears.`,
      {
        hint: "Leave match out of that step.",
      },
    );
  if (first === undefined || propagation !== "dense") return undefined;
  return new ConfigError(
    "E_TRAINING_PROPAGATION",
    `${first.method}: with --propagation dense blocks never see the pruned model's inputs, which it trains on.`,
    { hint: "Leave --propagation out.", details: { step: first.method, propagation } },
  );
}

/** What a run whose first method trains cannot do: nothing is solved layer by layer. */
export function checkUnsolved(
  method: string,
  { allocation, reproduce, permutation }: Pick<RunConfig, "allocation" | "reproduce" | "permutation">,
): PruneError | undefined {
  const trainer = TRAINERS.get(method);
  if (trainer === undefined) return undefined;
  const refusal = (what: string, why: string): PruneError =>
    new ConfigError("E_METHOD_TRAINS", `${what}: ${method} trains the ${trainer.unit} as a whole; ${why}.`, {
      hint: `Leave it out, or begin with a method that solves layers: --method ${method} --init wanda.`,
    });
  if (reproduce === "model") return refusal("--reproduce model", "no layer is solved for itself");
  if (permutation !== "none") return refusal(`--permutation ${permutation}`, "no layer is solved for itself");
  if (dependsOnMethod(allocation))
    return refusal(`--allocation ${allocation.rule}`, "it cannot be tried on single layers");
  return undefined;
}

/** What trains a block follows all that solves its layers, and what trains the model follows all blocks. */
const UNITS = ["block", "model"] as const;

/**
 * N:M has its own sparsity everywhere, so there is nothing to spread; else the request must lie within the rule's
 * bounds. What depends on the number of blocks is checked when the model is known (driver/prunables.ts).
 * @param sparsity undefined where it is a problem of its own
 */
export function resolveAllocation(
  asked: Allocation | undefined,
  pattern: Pattern,
  sparsity: number | undefined,
): Allocation | PruneError {
  if (asked === undefined || asked.rule === "uniform") return UNIFORM;
  if (pattern.kind !== "unstructured") {
    return new ConfigError(
      "E_ALLOCATION_PATTERN",
      `--allocation ${asked.rule}: ${formatPattern(pattern)} makes the same share of every layer zero.`,
      {
        hint: "Leave --allocation out, or prune unstructured.",
        details: { rule: asked.rule, pattern: formatPattern(pattern) },
      },
    );
  }
  const problems = allocationProblems(asked, sparsity, undefined);
  if (problems.length === 0) return asked;
  return new ConfigError("E_ALLOCATION", `${problems.join("; ")}.`, {
    hint: "Change the sparsity, or the allocation's smallest or largest.",
    details: { allocation: asked, sparsity, problems },
  });
}

/** Where every block sees the dense model's inputs, there are no errors to make up for. */
export function resolveReproduced(asked: Reproduced, propagation: Propagation | undefined): Reproduced | PruneError {
  if (asked === "layer" || propagation !== "dense") return asked;
  return new ConfigError(
    "E_REPRODUCE_PROPAGATION",
    `--reproduce ${asked}: with --propagation dense every layer sees the dense model's inputs already.`,
    { hint: "Leave --propagation out: it is then group.", details: { reproduce: asked, propagation } },
  );
}

/** What is asked for, else what reproducing the model works best with, else what the papers' code does. */
export function resolvePropagation(asked: Propagation | undefined, reproduce: Reproduced): Propagation {
  return asked ?? (reproduce === "model" ? "group" : "block");
}

/** Where every zero may be anywhere in its row, places do not matter. */
export function resolvePermutation(asked: Permutation, pattern: Pattern): Permutation | PruneError {
  if (asked === "none" || pattern.kind === "n-of-m") return asked;
  return new ConfigError(
    "E_PERMUTATION_PATTERN",
    `--permutation ${asked}: an unstructured run gains nothing from channels that change places.`,
    {
      hint: "Leave --permutation out, or give an N:M --pattern such as 2:4.",
      details: { permutation: asked, pattern: formatPattern(pattern) },
    },
  );
}
