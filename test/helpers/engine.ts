/** Calling engine commands directly, without the command line. */
import { SILENT_LOGGER, type Logger } from "../../src/logging.js";
import { NEVER_STOP, type EngineEvent, type StopSignal } from "../../src/contract.js";
import type { EngineContext } from "../../src/context.js";

/** A context that never stops the engine and keeps its events. */
export function createTestContext(
  options: { readonly logger?: Logger; readonly stop?: StopSignal } = {},
): EngineContext & { readonly events: EngineEvent[] } {
  const events: EngineEvent[] = [];
  return {
    logger: options.logger ?? SILENT_LOGGER,
    stop: options.stop ?? NEVER_STOP,
    events,
    emit: (event) => void events.push(event),
  };
}
