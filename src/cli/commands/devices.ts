/** `prune devices`: what there is to run on, and what `--device auto` would take. */
import type { CommandSpec } from "../command.js";

export const devices: CommandSpec = {
  name: "devices",
  description: "adapters, limits, and the device that auto would take",
  examples: ["prune devices", "prune devices --json"],
  flags: [],
  async act(_said, session) {
    const api = await import("../../index.js");
    const { renderDevices } = await import("../../report/render.js");
    return session.print(await api.devices(session.listening), renderDevices);
  },
};
