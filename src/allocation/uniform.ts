/** The same sparsity for every linear. */
import { z } from "zod";
import type { AllocationRule } from "./rule.js";

const schema = z.strictObject({ rule: z.literal("uniform") });
export type UniformOptions = z.infer<typeof schema>;

export const uniform = {
  name: "uniform",
  summary: "the same sparsity for every linear",
  schema,
  needs: () => "nothing",
  passes: () => 0,
  allocate({ blocks }, _options, target) {
    const linears = blocks.flatMap((block) => block.linears);
    return Promise.resolve(new Map(linears.map(({ name }) => [name, target])));
  },
} satisfies AllocationRule<UniformOptions>;
