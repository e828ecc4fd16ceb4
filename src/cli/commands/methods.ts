/** `prune methods`: what `--method`, `--then` and `--allocation` take. */
import type { CommandSpec } from "../command.js";

export const methods: CommandSpec = {
  name: "methods",
  description: "methods, steps and allocation rules: what each does and what it looks at",
  examples: ["prune methods", "prune methods --json"],
  flags: [],
  async act(_said, session) {
    const api = await import("../../index.js");
    const { renderMethods } = await import("../../report/methods.js");
    return session.print(api.methods(), renderMethods);
  },
};
