/**
 * Ctrl-C and SIGTERM while the engine works: the first asks it to stop between steps, the second ends the process at
 * once.
 */
import { requestStop, type StopSignalName } from "../driver/engine-protocol.js";

/** Install the handlers; the returned function removes them. */
export function stopOnSignals(stopBuffer: SharedArrayBuffer, say: (text: string) => void): () => void {
  let isStopping = false;
  const handle = (signal: StopSignalName): void => {
    if (isStopping) return dieBy(signal);
    isStopping = true;
    requestStop(stopBuffer, signal);
    say("stopping after this step; press Ctrl-C again to quit now\n");
  };
  process.on("SIGINT", handle);
  process.on("SIGTERM", handle);
  return () => {
    process.off("SIGINT", handle);
    process.off("SIGTERM", handle);
  };
}

/**
 * End by the signal's default action, which shells report as 130 or 143. `process.exit` would wait for the engine's
 * thread to return from native code, which can take minutes (tried: it waits for the whole call).
 */
function dieBy(signal: StopSignalName): void {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}
