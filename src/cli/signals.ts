/**
 * Ctrl-C and SIGTERM while the engine works: the first asks it to stop between steps, the second ends the process at
 * once.
 */

/** Install the handlers. The AbortSignal's reason is the name of what was sent. */
export function stopOnSignals(say: (text: string) => void): {
  readonly signal: AbortSignal;
  readonly removeHandlers: () => void;
} {
  const controller = new AbortController();
  const handle = (name: "SIGINT" | "SIGTERM"): void => {
    if (controller.signal.aborted) return dieBy(name);
    controller.abort(name);
    say("stopping after this step; press Ctrl-C again to quit now\n");
  };
  process.on("SIGINT", handle);
  process.on("SIGTERM", handle);
  return {
    signal: controller.signal,
    removeHandlers: () => {
      process.off("SIGINT", handle);
      process.off("SIGTERM", handle);
    },
  };
}

/**
 * End by the signal's default action, which shells report as 130 or 143. `process.exit` would wait for the engine's
 * thread to return from native code, which can take minutes (tried: it waits for the whole call).
 */
function dieBy(signal: "SIGINT" | "SIGTERM"): void {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}
