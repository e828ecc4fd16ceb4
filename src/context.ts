/** What every engine command is handed besides its configuration. */
import { InterruptedError } from "./errors.js";
import type { Logger } from "./logging.js";
import type { EngineEvent, StopSignal } from "./contract.js";

export interface EngineContext {
  readonly logger: Logger;
  readonly stop: StopSignal;
  emit(event: EngineEvent): void;
}

/** A part of some work: where in the whole it lies, and which cell of a comparison it is. */
export interface PartOfWork extends Pick<EngineEvent, "cell"> {
  readonly from: number;
  readonly to: number;
}

/** The context for a part of the work: what is done of the part becomes what is done of the whole. */
export function contextOfPart(context: EngineContext, { from, to, cell }: PartOfWork): EngineContext {
  return {
    ...context,
    emit: (event) =>
      context.emit({
        ...event,
        fraction: from + (to - from) * event.fraction,
        ...(cell === undefined ? {} : { cell }),
      }),
  };
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
