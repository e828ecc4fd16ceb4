/** Calling engine commands directly, without the command line. */
import assert from "node:assert/strict";
import { SILENT_LOGGER, type Logger } from "../../src/logging.js";
import { NEVER_STOP, type EngineEvent, type StopSignal } from "../../src/contract.js";
import type { EngineContext } from "../../src/context.js";

/** A context that never stops the engine and keeps its events. */
export function createTestContext(
  options: { readonly logger?: Logger; readonly stop?: StopSignal } = {},
): EngineContext & { readonly events: EngineEvent[] } {
  const events: EngineEvent[] = [];
  /** Of all that a command does the done share never falls; a command that has ended may be followed by another. */
  const expectProgress = (event: EngineEvent): void => {
    const before = events.at(-1)?.fraction ?? 0;
    const isNext = before > 0.99 && event.fraction < 0.5;
    assert.ok((event.fraction >= before || isNext) && event.fraction <= 1, `${before}, then ${JSON.stringify(event)}`);
  };
  return {
    logger: options.logger ?? SILENT_LOGGER,
    stop: options.stop ?? NEVER_STOP,
    events,
    emit(event) {
      expectProgress(event);
      events.push(event);
    },
  };
}
