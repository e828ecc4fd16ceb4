/** A stand-in for src/driver/engine-worker.ts: `config.act` says how it behaves. */
import { parentPort, workerData } from "node:worker_threads";
import { requestedStop, type EngineMessage, type EngineRequest } from "../../src/driver/engine-protocol.js";
import { CheckpointError, InterruptedError, serializeError } from "../../src/errors.js";

const { config, stop } = workerData as EngineRequest;
const { act } = config as { readonly act: string };
const post = (message: EngineMessage): void => parentPort?.postMessage(message);

switch (act) {
  case "work":
    post({ type: "log", level: "warn", message: "careful", fields: { tensor: "q_proj" } });
    post({ type: "event", event: { type: "windows", done: 1, total: 2, fraction: 0.5 } });
    console.log("a library prints on stdout");
    post({ type: "result", report: { done: true } });
    break;
  case "refuse":
    post({
      type: "error",
      error: serializeError(
        new CheckpointError("E_X", "a.safetensors: broken.", { hint: "Mend it.", details: { byte: 8 } }),
      ),
    });
    break;
  case "crash":
    throw new TypeError("undefined is not a matrix");
  case "vanish":
    process.exit(3);
    break;
  case "linger":
    // A native addon that keeps its thread alive after the result.
    setInterval(() => undefined, 1000);
    post({ type: "result", report: { done: true } });
    break;
  case "until-stopped": {
    const timer = setInterval(() => {
      const signal = requestedStop(stop);
      if (signal === undefined) return;
      clearInterval(timer);
      post({
        type: "error",
        error: serializeError(
          new InterruptedError("E_INTERRUPTED", "stopped.", { details: { signal, resumable: true } }),
        ),
      });
    }, 5);
    post({ type: "event", event: { type: "start", blocks: 1, device: "fake", resumedBlocks: 0, fraction: 0 } });
    break;
  }
  default:
    throw new Error(`unknown act ${act}`);
}
