/** Running bin/prune.js as users do, and finding what tests need around the repository. */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The compiled file is dist/test/helpers/cli.js. */
export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
export const DEMO_MODEL = join(ROOT, "models/demo");
/** Reference numbers and texts that may not be committed. */
export const SHARED = resolve(ROOT, "../shared");

/** `skip` of a test that needs `path`: the reason when it is absent. */
export function skipWithout(path: string): string | false {
  return existsSync(path) ? false : `needs ${path}, which is not there`;
}

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** From the last byte on stdout or stderr to the process's end. */
  readonly lingeredMs: number;
}

export interface SpawnOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Node's own options, before the script. */
  readonly nodeOptions?: readonly string[];
  /** Called with the process once it runs and with every piece of stderr. */
  readonly onStart?: (child: ChildProcess) => void;
  readonly onStderr?: (text: string, child: ChildProcess) => void;
}

/** Run `prune` with these arguments and wait for its end. */
export function runPrune(args: readonly string[], options: SpawnOptions = {}): Promise<Finished> {
  const child = spawn(process.execPath, [...(options.nodeOptions ?? []), join(ROOT, "bin/prune.js"), ...args], {
    cwd: options.cwd ?? ROOT,
    env: options.env ?? process.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  let lastOutput = performance.now();
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    lastOutput = performance.now();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    lastOutput = performance.now();
    options.onStderr?.(text, child);
  });
  options.onStart?.(child);
  return new Promise((resolvePromise, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) =>
      resolvePromise({ code, signal, stdout, stderr, lingeredMs: performance.now() - lastOutput }),
    );
  });
}
