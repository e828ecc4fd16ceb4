/** `prune families`: what is supported, what each family exercises, and what of it is pruned. */
import type { CommandSpec } from "../command.js";

export const families: CommandSpec = {
  name: "families",
  description: "families of models: what each exercises, and what of it is pruned",
  examples: ["prune families", "prune families --json"],
  flags: [],
  async act(_said, session) {
    const api = await import("../../index.js");
    const { renderFamilies } = await import("../../report/families.js");
    return session.print(api.families(), renderFamilies);
  },
};
