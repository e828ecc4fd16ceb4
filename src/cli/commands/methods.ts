/** `prune methods`: what `--method`, `--then` and `--allocation` take; with a name, its options, paper and cost. */
import type { CommandSpec } from "../command.js";

export const methods: CommandSpec = {
  name: "methods",
  description: "methods, steps and allocation rules: what each does and what it looks at",
  examples: ["prune methods", "prune methods sparsegpt", "prune methods owl --json"],
  operand: { name: "name", help: "a method, step or rule: its options and defaults, its paper and what it costs" },
  flags: [],
  async act({ name }, session) {
    const api = await import("../../index.js");
    if (name !== undefined) {
      const { renderMethod } = await import("../../report/method-details.js");
      return session.print(api.method(String(name)), renderMethod);
    }
    const { renderMethods } = await import("../../report/methods.js");
    return session.print(api.methods(), renderMethods);
  },
};
