/** Weights that are no numbers, found before any work: no method can rank them, and one of them spoils all that follows. */
import { BufferPool } from "../checkpoint/buffer-pool.js";
import { findNonFinite, type NonFinite } from "../checkpoint/non-finite.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { RunConfig } from "../contract.js";
import { CheckpointError } from "../errors.js";
import { wantedTensors, type Model } from "../model/open-model.js";
import { Problems } from "../problems.js";

/** Tensors named in one message. */
const MOST_NAMED = 12;

/**
 * Read every tensor that the forward needs and look for NaN and infinities.
 * @returns names of tensors that hold some, which stay as they are; none unless `allowNonFinite`
 * @throws CheckpointError E_NON_FINITE_WEIGHTS naming each tensor and the first place in it
 */
export async function checkWeights(
  model: Model,
  { allowNonFinite }: Pick<RunConfig, "allowNonFinite">,
  context: EngineContext,
  onTensor: (done: number, total: number) => void = () => undefined,
): Promise<ReadonlySet<string>> {
  const pool = new BufferPool();
  const found: NonFinite[] = [];
  const tensors = [...wantedTensors(model.architecture).keys()];
  for (const [index, tensor] of tensors.entries()) {
    throwIfStopped(context, false);
    onTensor(index, tensors.length);
    const problem = await findNonFinite(model.checkpoint, tensor, pool);
    if (problem !== undefined) found.push(problem);
  }
  if (allowNonFinite) {
    for (const problem of found)
      context.logger.warn(`${describe(problem)}; --allow-non-finite: it is left as it is`, { ...problem });
    return new Set(found.map(({ tensor }) => tensor));
  }
  const problems = new Problems();
  const named = found.slice(0, MOST_NAMED);
  const more = found.length - named.length;
  problems.add(...named.map((problem, index) => asError(problem, more === 0 && index === named.length - 1)));
  if (more > 0) problems.add(others(more));
  problems.throwAny();
  return new Set();
}

/** "model.norm.weight in model.safetensors: NaN at element 3 (1 of 16 values is not finite)" */
function describe({ tensor, file, count, elements, place, value }: NonFinite): string {
  const [row, column] = place;
  const where =
    place.length === 2
      ? `row ${row}, column ${column}`
      : place.length === 1
        ? `element ${row}`
        : `[${place.join(", ")}]`;
  const said = `${count} of ${elements} values ${count === 1 ? "is" : "are"} not finite`;
  return `${tensor} in ${file}: ${value} at ${where} (${said})`;
}

const HINT =
  "Get the checkpoint again, or compare its hash: such weights are usually damage. --allow-non-finite leaves these tensors as they are.";

/** @param isLast of several only the last one says what to do */
function asError(problem: NonFinite, isLast: boolean): CheckpointError {
  const { tensor, file, count, elements, place, value } = problem;
  return new CheckpointError("E_NON_FINITE_WEIGHTS", `${describe(problem)}.`, {
    ...(isLast ? { hint: HINT } : {}),
    details: { tensor, file, count, elements, place, value: String(value) },
  });
}

function others(count: number): CheckpointError {
  return new CheckpointError("E_NON_FINITE_WEIGHTS", `${count} more tensors hold values that are not finite.`, {
    hint: HINT,
    details: { count },
  });
}
