/**
 * The shape that zeros must have. A pattern says nothing about which weights are worth keeping (score),
 * how many a layer loses (allocation) or how the kept ones move (reconstruction).
 */
import { UsageError } from "../errors.js";

export type Pattern =
  | { readonly kind: "unstructured" }
  /** `keep` of every `group` consecutive inputs stay; the text form is "keep:group", so 2:4 keeps 2 of 4. */
  | { readonly kind: "n-of-m"; readonly keep: number; readonly group: number };

export const UNSTRUCTURED: Pattern = { kind: "unstructured" };

/** The widest N:M group the solvers take: half a panel of the OBS sweep. */
export const LARGEST_GROUP = 64;

/** Parse "unstructured" or "keep:group". */
export function parsePattern(text: string): Pattern {
  if (text === "unstructured") return UNSTRUCTURED;
  const match = /^(\d+):(\d+)$/.exec(text);
  const hint = `Use "unstructured" or KEEP:GROUP, for example 2:4 (keeps 2 of every 4 weights along the input dimension).`;
  if (match === null) {
    throw new UsageError("E_PATTERN", `--pattern: "${text}" is neither "unstructured" nor N:M.`, {
      hint,
      details: { value: text },
    });
  }
  const keep = Number(match[1]);
  const group = Number(match[2]);
  if (keep < 1 || keep >= group || group > LARGEST_GROUP) {
    throw new UsageError(
      "E_PATTERN",
      `--pattern: "${text}" must keep at least 1 and fewer than all of a group of at most ${LARGEST_GROUP}.`,
      { hint, details: { value: text, largestGroup: LARGEST_GROUP } },
    );
  }
  return { kind: "n-of-m", keep, group };
}

/** The text form: "unstructured" or "keep:group". */
export function formatPattern(pattern: Pattern): string {
  return pattern.kind === "unstructured" ? "unstructured" : `${pattern.keep}:${pattern.group}`;
}

/** The fraction of zeros a pattern itself dictates, or undefined where the user chooses it. */
export function patternSparsity(pattern: Pattern): number | undefined {
  return pattern.kind === "unstructured" ? undefined : (pattern.group - pattern.keep) / pattern.group;
}
