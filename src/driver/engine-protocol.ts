/** The messages between the main thread and the engine's thread. Plain data: they are cloned. */
import type { SerializedError } from "../errors.js";
import type { LogFields, LogLevel } from "../logging.js";
import type {
  ComparisonConfig,
  ComparisonReport,
  EngineEvent,
  EvaluationConfig,
  EvaluationReport,
  InspectionConfig,
  InspectionReport,
  PlanReport,
  RunConfig,
  RunReport,
} from "../contract.js";
import type { DevicesReport } from "../report/devices-report.js";

/** What each command takes and gives back. */
export interface EngineCommands {
  readonly prune: { readonly config: RunConfig; readonly report: RunReport };
  readonly plan: { readonly config: RunConfig; readonly report: PlanReport };
  readonly compare: { readonly config: ComparisonConfig; readonly report: ComparisonReport };
  readonly evaluate: { readonly config: EvaluationConfig; readonly report: EvaluationReport };
  readonly inspect: { readonly config: InspectionConfig; readonly report: InspectionReport };
  readonly devices: { readonly config: Record<never, never>; readonly report: DevicesReport };
}

export type EngineCommand = keyof EngineCommands;

/** `workerData` of the engine's thread. */
export type EngineRequest = {
  [Command in EngineCommand]: {
    readonly command: Command;
    readonly config: EngineCommands[Command]["config"];
    /** One Int32: 0, or the number of the signal that asked to stop. */
    readonly stop: SharedArrayBuffer;
  };
}[EngineCommand];

export type EngineMessage =
  | { readonly type: "event"; readonly event: EngineEvent }
  | { readonly type: "log"; readonly level: LogLevel; readonly message: string; readonly fields: LogFields }
  | { readonly type: "result"; readonly report: unknown }
  | { readonly type: "error"; readonly error: SerializedError };

export type StopSignalName = "SIGINT" | "SIGTERM";

const SIGNALS: readonly (StopSignalName | undefined)[] = [undefined, "SIGINT", "SIGTERM"];

export function createStopBuffer(): SharedArrayBuffer {
  return new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
}

export function requestStop(stop: SharedArrayBuffer, signal: StopSignalName): void {
  Atomics.store(new Int32Array(stop), 0, SIGNALS.indexOf(signal));
}

export function requestedStop(stop: SharedArrayBuffer): StopSignalName | undefined {
  return SIGNALS[Atomics.load(new Int32Array(stop), 0)];
}
