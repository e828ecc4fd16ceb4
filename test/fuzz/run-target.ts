/**
 * Reading mutated inputs one after another in a thread, watched from outside for what a reader cannot notice itself: that it
 * does not end, or takes all memory.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { Mutator } from "./mutate.js";
import { inputOf, readInput, TARGETS, type Target } from "./targets.js";

/** No reader may take longer, in the processor's time: the machine may have others at work. */
export const LONGEST_SECONDS = 5;
/** Nor wait longer for something that does not come. */
const LONGEST_WAIT_SECONDS = 60;
/** Nor this much memory above what the process had before. */
export const MOST_BYTES = 200e6;

export interface FuzzOptions {
  readonly target: string;
  /** Of the first input; the others follow. */
  readonly seed: number;
  readonly runs: number;
  /** Findings after which it is given up. */
  readonly mostFindings: number;
}

export interface Finding {
  readonly seed: number;
  readonly problem: string;
  readonly input: Uint8Array;
}

export interface FuzzReport {
  readonly runs: number;
  /** Inputs that were taken, the others were refused. */
  readonly taken: number;
  readonly seconds: number;
  readonly slowestSeconds: number;
  /** Peak of resident memory above that before. */
  readonly bytes: number;
  readonly findings: readonly Finding[];
}

export function targetOf(name: string): Target {
  const target = TARGETS.find((each) => each.name === name);
  if (target === undefined) throw new RangeError(`no such target: ${name}`);
  return target;
}

/** Input number `seed` of a target: the same every time. */
export function inputOfSeed(target: Target, seed: number): Uint8Array {
  return inputOf(target, new Mutator(seed, target.words));
}

/** A folder for a target's reader, removed on disposal. */
export async function openFolder(target: Target): Promise<Disposable & { readonly path: string }> {
  const path = mkdtempSync(join(tmpdir(), "prune-fuzz-"));
  await target.prepare?.(path);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** What happened so far, shared with the watching thread. */
const DONE = 0;
const TAKEN = 1;
const SLOWEST_MS = 2;
const STARTED = 3;

/** Of this process. */
function processorSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

interface WorkerOptions extends FuzzOptions {
  readonly progress: SharedArrayBuffer;
}

async function work({ target: name, seed: first, runs, mostFindings, progress }: WorkerOptions): Promise<void> {
  const target = targetOf(name);
  using folder = await openFolder(target);
  const counts = new Int32Array(progress);
  Atomics.store(counts, STARTED, 1);
  for (let run = 0, found = 0; run < runs && found < mostFindings; run++) {
    const seed = first + run;
    const input = inputOfSeed(target, seed);
    const started = processorSeconds();
    try {
      if ((await readInput(target, input, folder.path)) === "taken") Atomics.add(counts, TAKEN, 1);
    } catch (error) {
      found++;
      const problem = error instanceof Error ? (error.stack ?? error.message) : String(error);
      parentPort?.postMessage({ seed, problem, input });
    }
    const milliseconds = Math.ceil(1000 * (processorSeconds() - started));
    if (milliseconds > counts[SLOWEST_MS]) counts[SLOWEST_MS] = milliseconds;
    Atomics.store(counts, DONE, run + 1);
  }
}

/** Read inputs `seed` … `seed + runs - 1` of a target. */
export async function fuzzTarget(options: FuzzOptions): Promise<FuzzReport> {
  const target = targetOf(options.target);
  const before = 1024 * process.resourceUsage().maxRSS;
  const started = performance.now();
  const findings: Finding[] = [];
  let [done, taken, slowest] = [0, 0, 0];
  while (done < options.runs && findings.length < options.mostFindings) {
    const progress = new SharedArrayBuffer(16);
    const counts = new Int32Array(progress);
    const seed = options.seed + done;
    const left = { ...options, seed, runs: options.runs - done, mostFindings: options.mostFindings - findings.length };
    const note = (problem: string): void => {
      const bad = seed + (counts[DONE] ?? 0);
      findings.push({ seed: bad, problem, input: inputOfSeed(target, bad) });
      Atomics.add(counts, DONE, 1);
    };
    await new Promise<void>((resolve) => {
      const worker = new Worker(new URL(import.meta.url), {
        workerData: { ...left, progress } satisfies WorkerOptions,
        resourceLimits: { maxOldGenerationSizeMb: MOST_BYTES / 1e6, maxYoungGenerationSizeMb: 16 },
      });
      let [seen, since, used] = [-1, performance.now(), processorSeconds()];
      const watch = setInterval(() => {
        const now = Atomics.load(counts, DONE);
        if (now !== seen || Atomics.load(counts, STARTED) === 0)
          [seen, since, used] = [now, performance.now(), processorSeconds()];
        const waited = (performance.now() - since) / 1000;
        if (processorSeconds() - used < LONGEST_SECONDS + 1 && waited < LONGEST_WAIT_SECONDS) return;
        note(`does not end in ${LONGEST_SECONDS} seconds of work, or in ${LONGEST_WAIT_SECONDS} of waiting`);
        clearInterval(watch);
        void worker.terminate();
      }, 250);
      worker.on("message", (finding: Finding) => findings.push(finding));
      worker.once("error", (error) => note(`ends the thread: ${error.message}`)); // out of memory
      worker.once("exit", () => {
        clearInterval(watch);
        resolve();
      });
    });
    done += counts[DONE] as number;
    taken += counts[TAKEN] as number;
    slowest = Math.max(slowest, counts[SLOWEST_MS] as number);
  }
  return {
    ...{ runs: done, taken, findings, slowestSeconds: slowest / 1000 },
    seconds: (performance.now() - started) / 1000,
    bytes: 1024 * process.resourceUsage().maxRSS - before,
  };
}

if (!isMainThread) await work(workerData as WorkerOptions);
