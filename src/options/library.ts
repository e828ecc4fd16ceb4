/** What reading options looks up: zod, the methods, the allocation rules. Apart from the table, because `--help` needs none. */
import { z } from "zod";
import { UsageError } from "../errors.js";
import { nearestName } from "../nearest-name.js";
import { findMethod } from "../methods/registry.js";
import { ALLOCATION_RULES, allocationSchema, type Allocation } from "../allocation/registry.js";
import type { Library } from "./option.js";
import { parseNamed, type GivenAllocation } from "./types.js";

export { ALLOCATION_RULES } from "../allocation/registry.js";

export const LIBRARY: Library = {
  z,
  findMethod: (name, others) => findMethod(name, others).name,
  allocationSchema,
  parseAllocation: (given) => parseAllocation(given as GivenAllocation),
};

/** A rule's name, rule:key=value,…, or the rule and its options; the rule's own schema checks names and values. */
export function parseAllocation(given: GivenAllocation): Allocation {
  const asked = typeof given === "string" ? ruleOfText(given) : given;
  const { rule } = asked;
  if (!(ALLOCATION_RULES as readonly string[]).includes(rule)) {
    const nearest = nearestName(String(rule), ALLOCATION_RULES);
    throw new UsageError(
      "E_ALLOCATION_RULE",
      `--allocation: "${rule}" is not a rule; known rules are ${ALLOCATION_RULES.join(", ")}.`,
      {
        hint: nearest === undefined ? "docs/allocation.md says what each does." : `Did you mean "${nearest}"?`,
        details: { value: rule, known: ALLOCATION_RULES },
      },
    );
  }
  const parsed = allocationSchema.safeParse(asked);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")} ${message}`.trim());
  const said = typeof given === "string" ? given : rule;
  throw new UsageError("E_ALLOCATION_OPTION", `--allocation ${said}: ${problems.join("; ")}.`, {
    hint: "docs/allocation.md lists the options of each rule.",
    details: { value: given, problems },
  });
}

function ruleOfText(text: string): { readonly rule: string } {
  const { name, options } = parseNamed(text);
  return { ...options, rule: name };
}
