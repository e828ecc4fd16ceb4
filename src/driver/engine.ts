/** The main thread's side of the engine: starts its thread, passes on what it tells, returns its report. */
import { Worker } from "node:worker_threads";
import { deserializeError, InternalError, ResourceError } from "../errors.js";
import type { Logger } from "../logging.js";
import type { EngineEvent } from "../contract.js";
import type { EngineMessage, EngineRequest, WorkReference } from "./engine-protocol.js";

export interface EngineOptions {
  readonly logger: Logger;
  readonly onEvent: (event: EngineEvent) => void;
  /** From `createStopBuffer`; `requestStop` on it makes the engine stop between steps. */
  readonly stopBuffer: SharedArrayBuffer;
  /** Where to find the worker; tests replace it. */
  readonly workerUrl?: URL;
}

/** How long the engine's thread may take to wind down after its result before it is left to the process's end. */
const WIND_DOWN_MS = 500;

/**
 * Do one piece of work in a thread of its own.
 *
 * @throws the PruneError the engine threw, rebuilt with its class, code, hint and details
 */
export async function runInEngine<Config, Report>(
  { module, name }: WorkReference<Config, Report>,
  config: Config,
  options: EngineOptions,
): Promise<Report> {
  const request: EngineRequest = { module, name, config, stop: options.stopBuffer };
  const url = options.workerUrl ?? new URL("./engine-worker.js", import.meta.url);
  // stdout: true keeps what libraries print there (console.log, console.debug) from mixing with the result.
  const worker = new Worker(url, { workerData: request, stdout: true });
  worker.stdout.on("data", (chunk: Buffer) => process.stderr.write(chunk));
  const exited = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
  try {
    return (await outcomeOf(worker, options)) as Report;
  } finally {
    await Promise.race([exited, unreferencedDelay(WIND_DOWN_MS)]);
    // Not awaited: a thread inside native code ends only when that returns.
    void worker.terminate();
  }
}

function outcomeOf(worker: Worker, { logger, onEvent }: EngineOptions): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.on("message", (message: EngineMessage) => {
      switch (message.type) {
        case "event":
          return onEvent(message.event);
        case "log":
          return logger[message.level](message.message, message.fields);
        case "result":
          return resolve(message.report);
        case "error":
          return reject(deserializeError(message.error));
        default:
          return message satisfies never;
      }
    });
    worker.on("error", (cause) => reject(crashOf(cause)));
    worker.on("exit", (code) =>
      reject(
        new InternalError("E_ENGINE_EXIT", `the engine's thread ended with code ${code} and no result.`, {
          details: { code },
        }),
      ),
    );
  });
}

function crashOf(cause: unknown): Error {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (cause instanceof Error && "code" in cause && cause.code === "ERR_WORKER_OUT_OF_MEMORY") {
    return new ResourceError("E_OUT_OF_MEMORY", `the engine ran out of JavaScript memory: ${message}`, {
      hint: "Use fewer or shorter calibration sequences (--nsamples, --seqlen), or a smaller --memory.",
      cause,
    });
  }
  return new InternalError("E_ENGINE_CRASH", `the engine's thread crashed: ${message}`, { cause });
}

function unreferencedDelay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds).unref());
}
