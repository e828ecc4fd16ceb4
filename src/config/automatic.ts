/**
 * What `--method auto` stands for: the best combination found so far, as a request beneath whatever the user says. The
 * evidence, and how it was chosen, is in docs/methods/README.md.
 */
import { PruneError } from "../errors.js";
import type { RunRequest } from "../options/run-options.js";
import { AUTOMATIC, type AskedStep } from "../options/values.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../sparsity/pattern.js";

type AutomaticRequest = RunRequest & { readonly method: string };

const SOLVING: AutomaticRequest = { method: "alps", reproduce: "model", then: ["reconstruct"] };

const REQUESTS: Readonly<Record<Pattern["kind"], AutomaticRequest>> = {
  unstructured: { ...SOLVING, allocation: "evolutionary" },
  "n-of-m": { ...SOLVING, permutation: "channels" },
};

/** What is asked for, for a kind of pattern. */
export function automaticRequest(kind: Pattern["kind"]): AutomaticRequest {
  return REQUESTS[kind];
}

/** What spends so many seconds best on a model that is pruned. */
export function trainingFor(seconds: number): AskedStep[] {
  return [{ name: "finetune", options: { minutes: seconds / 60 } }];
}

/**
 * The recipe with what `auto` stands for beneath it, where the method is `auto`; options given for `auto` are those of the
 * method it stands for.
 * @param request of the caller or the command line, which comes before the recipe
 */
export function layAutomatic(recipe: RunRequest, request: RunRequest): AutomaticRequest | undefined {
  if ((request.method ?? recipe.method) !== AUTOMATIC) return undefined;
  const { method, methodOptions, ...others } = recipe;
  const automatic = automaticRequest(kindOf(request.pattern ?? recipe.pattern));
  const options = method === AUTOMATIC && methodOptions !== undefined ? { methodOptions } : {};
  return { ...automatic, ...others, ...options, method: automatic.method };
}

/** A pattern that cannot be read is a problem that is reported elsewhere. */
function kindOf(text: string | undefined): Pattern["kind"] {
  if (text === undefined) return UNSTRUCTURED.kind;
  try {
    return parsePattern(text).kind;
  } catch (error) {
    if (error instanceof PruneError) return UNSTRUCTURED.kind;
    throw error;
  }
}
