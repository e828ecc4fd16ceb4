/** `prune completion`: a shell's script, which asks this program what may come next. */
import { UsageError } from "../../errors.js";
import { nearestName } from "../../nearest-name.js";
import type { CommandSpec } from "../command.js";

export const completion: CommandSpec = {
  name: "completion",
  description: "completion of commands, flags and their values for bash, zsh or fish",
  examples: ['eval "$(prune completion bash)"', "prune completion fish | source"],
  operand: { name: "shell", help: "bash, zsh or fish" },
  flags: [],
  async act({ shell }, session) {
    const { scriptFor, SHELLS } = await import("../completion.js");
    const known = SHELLS.find((name) => name === shell);
    if (known !== undefined)
      return session.print({ shell: known, script: scriptFor(known) }, ({ script }) => script.trimEnd());
    const nearest = nearestName(String(shell ?? ""), SHELLS);
    throw new UsageError(
      "E_SHELL",
      `completion: ${shell === undefined ? "no shell is named" : `"${String(shell)}" is no shell it knows`}.`,
      {
        hint: nearest === undefined ? `Shells: ${SHELLS.join(", ")}.` : `Did you mean "${nearest}"?`,
      },
    );
  },
};
