/** The messages between the main thread and the engine's thread. Plain data: they are cloned. */
import type { EngineContext } from "../context.js";
import type { EngineEvent, StopReason } from "../contract.js";
import type { SerializedError } from "../errors.js";
import type { LogFields, LogLevel } from "../logging.js";

/** What the engine's thread can be asked to do: plain configuration in, plain report out. */
export type Work<Config, Report> = (config: Config, context: EngineContext) => Promise<Report>;

/** Where to find a piece of work. The thread imports it then, since each loads its own native addons. */
export interface WorkReference<Config, Report> {
  readonly module: string;
  readonly name: string;
  /** Only there to carry the types. */
  readonly work?: Work<Config, Report>;
}

/**
 * A function that a module exports, as work. `Module` is the `typeof import()` of the very file that `url` names.
 */
export function workOf<Module>(
  url: URL,
): <Name extends keyof Module & string>(
  name: Name,
) => Module[Name] extends (config: infer Config, context: EngineContext) => Promise<infer Report>
  ? WorkReference<Config, Report>
  : never {
  return (name) => ({ module: url.href, name }) as never;
}

/** `workerData` of the engine's thread. */
export interface EngineRequest {
  readonly module: string;
  readonly name: string;
  readonly config: unknown;
  /** One Int32: 0, or the number of the reason to stop. */
  readonly stop: SharedArrayBuffer;
}

export type EngineMessage =
  | { readonly type: "event"; readonly event: EngineEvent }
  | { readonly type: "log"; readonly level: LogLevel; readonly message: string; readonly fields: LogFields }
  | { readonly type: "result"; readonly report: unknown }
  | { readonly type: "error"; readonly error: SerializedError };

const REASONS: readonly (StopReason | undefined)[] = [undefined, "SIGINT", "SIGTERM", "abort"];

export function createStopBuffer(): SharedArrayBuffer {
  return new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
}

export function requestStop(stop: SharedArrayBuffer, reason: StopReason): void {
  Atomics.store(new Int32Array(stop), 0, REASONS.indexOf(reason));
}

export function requestedStop(stop: SharedArrayBuffer): StopReason | undefined {
  return REASONS[Atomics.load(new Int32Array(stop), 0)];
}
