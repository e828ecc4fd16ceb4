/** `prune devices`: what there is to run on, and what `--device auto` would take. */
import { renderDevices } from "../../report/render.js";
import type { CommonFlags } from "../program.js";
import { openSession } from "../session.js";

export async function devicesCommand(flags: CommonFlags): Promise<void> {
  const session = await openSession(flags);
  await session.print(await session.run("devices", {}, { stoppable: false }), renderDevices);
}
