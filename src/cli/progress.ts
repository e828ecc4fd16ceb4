/**
 * Progress on stderr: on a terminal one live line with a bar, drawn again at most ten times a second and at least once,
 * and removed at the end; elsewhere, and in a log file, a line per block and whenever nothing was said for a while. The
 * engine says what share of everything is done, weighed by time; the rest of the time is extrapolated from it.
 */
import type { EngineEvent } from "../contract.js";
import type { Logger } from "../logging.js";
import { formatBytes, formatDuration, formatLoss, formatPercent } from "../report/format.js";

export interface Progress {
  handle(event: EngineEvent): void;
  /** Once a second: time passes though nothing is told. */
  tick(): void;
  /** Remove the live line, write, and draw it again. */
  around(write: () => void): void;
  finish(): void;
}

const nothing = (): undefined => undefined;

export const NO_PROGRESS: Progress = { handle: nothing, tick: nothing, around: (write) => write(), finish: nothing };

const REDRAW_MS = 100;
const ERASE_LINE = "\r\u001b[2K";
const BAR_CELLS = 20;
/** Shares below it say too little of how long the rest takes. */
const LEAST_FRACTION = 0.02;
/** Where lines are kept: the longest time without one, and the shortest between two that only say that time passes. */
const SILENCE_MS = 30_000;

export interface Terminal {
  readonly columns?: number;
  write(text: string): unknown;
}

/** Milliseconds left by linear extrapolation; undefined while too little is done. */
export function estimateRemaining(fraction: number, elapsedMs: number): number | undefined {
  return fraction >= LEAST_FRACTION && fraction <= 1 ? (elapsedMs * (1 - fraction)) / fraction : undefined;
}

/** How far the work is, and how long it has taken and will take. */
class Estimate {
  readonly #now: () => number;
  #startedAt: number;
  #fraction = 0;
  #endsAt: number | undefined;

  constructor(now: () => number) {
    this.#now = now;
    this.#startedAt = now();
  }

  take({ type, fraction }: EngineEvent): void {
    if (type === "download") this.#startedAt = this.#now(); // no part of the work
    if (fraction <= this.#fraction) return;
    this.#fraction = fraction;
    const remaining = estimateRemaining(fraction, this.elapsedMs);
    this.#endsAt = remaining === undefined ? undefined : this.#now() + remaining;
  }

  get fraction(): number {
    return this.#fraction;
  }

  get elapsedMs(): number {
    return this.#now() - this.#startedAt;
  }

  /** Of the last estimate, less what has passed since. */
  get remainingSeconds(): number | undefined {
    return this.#endsAt === undefined ? undefined : Math.max(0, this.#endsAt - this.#now()) / 1000;
  }

  /** ", ETA 3 min", where there is something to say. */
  get etaText(): string {
    const seconds = this.remainingSeconds;
    return seconds === undefined || this.#fraction >= 1 ? "" : `, ETA ${formatDuration(seconds)}`;
  }
}

/** @param now milliseconds, for tests */
export function createLiveProgress(terminal: Terminal, now: () => number = Date.now): Progress {
  let text = "";
  let isDrawn = false;
  let drawnAt = -Infinity;
  const estimate = new Estimate(now);
  const words = createWords();
  const clear = (): void => {
    if (isDrawn) terminal.write(ERASE_LINE);
    isDrawn = false;
  };
  const draw = (): void => {
    if (text === "") return;
    const { fraction, elapsedMs, etaText } = estimate;
    const line = `${bar(fraction)} ${formatPercent(fraction, 0)} · ${formatDuration(elapsedMs / 1000)}${etaText} · ${text}`;
    terminal.write(`${ERASE_LINE}${line.slice(0, Math.max(1, (terminal.columns || 80) - 1))}`);
    isDrawn = true;
    drawnAt = now();
  };
  return {
    handle(event) {
      estimate.take(event);
      text = words(event);
      if (now() - drawnAt >= REDRAW_MS) draw();
    },
    tick: draw,
    around(write) {
      const wasDrawn = isDrawn;
      clear();
      write();
      if (wasDrawn) draw();
    },
    finish() {
      clear();
      text = "";
    },
  };
}

function bar(fraction: number): string {
  const full = Math.floor(fraction * BAR_CELLS);
  return "█".repeat(full) + "░".repeat(BAR_CELLS - full);
}

/** A line per finished block and what else deserves one, through the log. */
export function createLineProgress(logger: Logger, now: () => number = Date.now): Progress {
  const estimate = new Estimate(now);
  const words = createWords();
  let saidAt = now();
  const say = (message: string, fields: Readonly<Record<string, unknown>>): void => {
    saidAt = now();
    const seconds = estimate.remainingSeconds;
    const etaSeconds = seconds === undefined ? null : Math.round(seconds);
    const share = `${formatPercent(estimate.fraction, 0)}${estimate.etaText}`;
    logger.info(`${message} · ${share}`, { ...fields, fraction: estimate.fraction, etaSeconds });
  };
  return {
    handle(event) {
      estimate.take(event);
      const text = words(event);
      if (isWorthALine(event) || now() - saidAt >= SILENCE_MS) say(text, fieldsOf(event));
    },
    tick: nothing,
    around: (write) => write(),
    finish: nothing,
  };
}

/** Everything that is handled goes to all of them; the first one writes. */
export function severalProgress(first: Progress, ...others: readonly Progress[]): Progress {
  const all = [first, ...others];
  return {
    handle: (event) => all.forEach((each) => each.handle(event)),
    tick: () => all.forEach((each) => each.tick()),
    around: (write) => first.around(write),
    finish: () => all.forEach((each) => each.finish()),
  };
}

function isWorthALine(event: EngineEvent): boolean {
  if (event.type === "training") return event.isPoint;
  if (event.type === "start") return event.resumedBlocks > 0;
  return event.type === "block" || event.type === "cell";
}

/** What a machine reads of an event that has a line. */
function fieldsOf(event: EngineEvent): Readonly<Record<string, unknown>> {
  if (event.type === "block") {
    const { block, blocks, zeros, elements, loss, seconds } = event;
    return { block: block + 1, blocks, zeros, elements, loss, seconds };
  }
  if (event.type === "training") {
    const { name, step, steps, loss } = event;
    return { training: name, step, steps, loss };
  }
  return event.type === "cell" ? { done: event.done, total: event.total } : {};
}

/** What an event says in words, by itself and by what came before it. */
function createWords(): (event: EngineEvent) => string {
  let lastLoss: number | null = null;
  const said = (event: EngineEvent): string => {
    switch (event.type) {
      case "start":
        return event.resumedBlocks > 0
          ? `resuming after ${event.resumedBlocks} of ${event.blocks} blocks`
          : `${event.blocks} blocks on ${event.device}`;
      case "stage": {
        if (event.block === null) return event.stage;
        const loss = lastLoss === null ? "" : `, last loss ${formatLoss(lastLoss)}`;
        return `block ${event.block + 1}/${event.blocks} · ${event.stage}${loss}`;
      }
      case "block":
        lastLoss = event.loss;
        return blockText(event);
      case "training":
        return `${event.name}, step ${event.step}/${event.steps}: ${event.course}`;
      case "download":
        return `downloading ${event.file} · ${formatBytes(event.doneBytes)} of ${formatBytes(event.totalBytes)}`;
      case "windows":
        return `window ${event.done}/${event.total}`;
      case "bytes":
        return `${formatBytes(event.done)} of ${formatBytes(event.total)}`;
      case "tokens":
        return `token ${event.done}/${event.total}`;
      case "cell":
        return `${event.label} done, ${event.done} of ${event.total}`;
      default:
        return event satisfies never;
    }
  };
  return (event) => {
    const { cell } = event;
    return cell === undefined ? said(event) : `cell ${cell.number}/${cell.total} ${cell.label} · ${said(event)}`;
  };
}

function blockText(event: Extract<EngineEvent, { type: "block" }>): string {
  const { block, blocks, zeros, elements, loss, seconds } = event;
  const lossText = loss === null ? "" : `, loss ${formatLoss(loss)}`;
  const sparsity = elements === 0 ? "no linears" : `${formatPercent(zeros / elements, 1)} zeros`;
  return `block ${block + 1}/${blocks}: ${sparsity}${lossText}, ${formatDuration(seconds)}`;
}
