/**
 * The engine's thread: does one piece of work and posts its events, log lines and result. ONNX Runtime's `run()` blocks the
 * thread it is called on, so the main thread keeps only the terminal and the signals. Started by engine.ts.
 *
 * Work is imported when asked for: each piece loads its own native addons, and inspecting needs none.
 */
import { parentPort, workerData } from "node:worker_threads";
import { InternalError, serializeError } from "../errors.js";
import type { Logger, LogLevel } from "../logging.js";
import type { EngineContext } from "../context.js";
import { type EngineMessage, type EngineRequest, requestedStop, type Work } from "./engine-protocol.js";

function post(message: EngineMessage): void {
  parentPort?.postMessage(message);
}

function createContext(request: EngineRequest): EngineContext {
  const at =
    (level: LogLevel): Logger["info"] =>
    (message, fields = {}) =>
      post({ type: "log", level, message, fields });
  return {
    logger: { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") },
    stop: { requested: () => requestedStop(request.stop) },
    emit: (event) => post({ type: "event", event }),
  };
}

async function execute(request: EngineRequest): Promise<unknown> {
  const module = (await import(request.module)) as Readonly<Record<string, Work<unknown, unknown> | undefined>>;
  const work = module[request.name];
  if (work === undefined) throw new InternalError("E_ENGINE_WORK", `${request.module} exports no ${request.name}.`);
  return work(request.config, createContext(request));
}

function postError(error: unknown): void {
  const serialized = serializeError(error);
  try {
    post({ type: "error", error: serialized });
  } catch {
    // Details that cannot be cloned (functions, native handles) must not hide the error itself.
    post({ type: "error", error: { ...serialized, details: {} } });
  }
}

try {
  post({ type: "result", report: await execute(workerData as EngineRequest) });
} catch (error) {
  postError(error);
}
// Native addons may keep handles open; the result is out, so nothing is left to wait for.
parentPort?.close();
