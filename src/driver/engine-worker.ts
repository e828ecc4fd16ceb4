/**
 * The engine's thread: runs one command and posts its events, log lines and result. ONNX Runtime's `run()` blocks the
 * thread it is called on, so the main thread keeps only the terminal and the signals. Started by engine.ts.
 *
 * Commands are imported when asked for: each loads its own native addons, and `inspect` needs none.
 */
import { parentPort, workerData } from "node:worker_threads";
import { serializeError } from "../errors.js";
import type { Logger, LogLevel } from "../logging.js";
import type { EngineContext } from "../context.js";
import { type EngineMessage, type EngineRequest, requestedStop } from "./engine-protocol.js";

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
  switch (request.command) {
    case "prune":
      return (await import("./prune-model.js")).pruneModel(request.config, createContext(request));
    case "plan":
      return (await import("./plan.js")).planRun(request.config, createContext(request));
    case "compare":
      return (await import("./compare.js")).compareMethods(request.config, createContext(request));
    case "evaluate":
      return (await import("../evaluation/perplexity.js")).evaluatePerplexity(request.config, createContext(request));
    case "inspect":
      return (await import("../report/inspect-model.js")).inspectModel(request.config);
    case "devices":
      return (await import("./devices.js")).describeDevices();
    default:
      return request satisfies never;
  }
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
