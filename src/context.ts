/** What every engine command is handed besides its configuration. */
import { InterruptedError } from "./errors.js";
import type { Logger } from "./logging.js";
import type { EngineEvent, StopSignal } from "./contract.js";

export interface EngineContext {
  readonly logger: Logger;
  readonly stop: StopSignal;
  emit(event: EngineEvent): void;
}

/** Throw if a stop was requested; called between steps. */
export function throwIfStopped(context: EngineContext, resumable: boolean): void {
  const signal = context.stop.requested();
  if (signal === undefined) return;
  const hint = resumable ? "Run the same command with --resume to go on." : undefined;
  throw new InterruptedError("E_INTERRUPTED", `stopped by ${signal}${resumable ? "; finished blocks are kept" : ""}.`, {
    ...(hint === undefined ? {} : { hint }),
    details: { signal, resumable },
  });
}
