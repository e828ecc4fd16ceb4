/** What `prune methods` says, read from the methods and the allocation rules themselves. */
import { listed } from "../options/option.js";
import { isFollowing, isTrainer, looksAtGradients, METHODS } from "../methods/registry.js";
import { ALLOCATION_RULES } from "../allocation/registry.js";
import { formatTable } from "./format.js";

/** `--json` of `prune methods`. */
export interface MethodsReport {
  readonly schema: "prune.methods/v1";
  readonly methods: readonly {
    readonly name: string;
    readonly summary: string;
    /** Statistics of a linear's inputs, or "gradients"; empty where no calibration is needed. */
    readonly needs: readonly string[];
    /** Whether it follows another method (`--then`) instead of choosing what to remove. */
    readonly startsFromMask: boolean;
  }[];
  /** Names that `--allocation` takes. */
  readonly allocations: readonly string[];
}

export function describeMethods(): MethodsReport {
  const methods = [...METHODS.values()].map((method) => ({
    name: method.name,
    summary: method.summary,
    needs: [...(isTrainer(method) ? [] : method.needs), ...(looksAtGradients(method) ? ["gradients"] : [])],
    startsFromMask: isFollowing(method),
  }));
  return { schema: "prune.methods/v1", methods, allocations: ALLOCATION_RULES };
}

export function renderMethods({ methods, allocations }: MethodsReport): string {
  const rows = methods.map(({ name, summary, needs, startsFromMask }) => [
    name,
    startsFromMask ? "--then" : "--method",
    needs.join(", ") || "no calibration",
    summary,
  ]);
  const table = formatTable(["name", "goes with", "looks at", "what it does"], rows, []);
  return `${table}\n\n--method auto takes the best combination known for the pattern; docs/methods/README.md says which.
--allocation takes ${listed(allocations)}; docs/allocation.md says what each does.`;
}
