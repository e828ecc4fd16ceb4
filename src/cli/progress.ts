/**
 * Progress on stderr: on a terminal one live line, redrawn at most ten times a second and removed at the end;
 * elsewhere one log line per block. The rest of the time is extrapolated from the share of the run that is done,
 * which the engine weighs by work, not by block count.
 */
import type { EngineEvent } from "../contract.js";
import type { Logger } from "../logging.js";
import { formatBytes, formatDuration, formatLoss, formatPercent } from "../report/format.js";

export interface Progress {
  handle(event: EngineEvent): void;
  /** Remove the live line, write, and draw it again. */
  around(write: () => void): void;
  finish(): void;
}

export const NO_PROGRESS: Progress = { handle: () => undefined, around: (write) => write(), finish: () => undefined };

const REDRAW_MS = 100;
const ERASE_LINE = "\r\u001b[2K";

export interface Terminal {
  readonly columns?: number;
  write(text: string): unknown;
}

/** Milliseconds left by linear extrapolation of a share done since `startedAt`; undefined before there is one. */
export function estimateRemaining(fraction: number, elapsedMs: number): number | undefined {
  return fraction > 0 && fraction <= 1 ? (elapsedMs * (1 - fraction)) / fraction : undefined;
}

/** @param now milliseconds, for tests */
export function createLiveProgress(terminal: Terminal, now: () => number = Date.now): Progress {
  let text = "";
  let isDrawn = false;
  let drawnAt = -Infinity;
  const tracker = createTracker(now);
  const clear = (): void => {
    if (isDrawn) terminal.write(ERASE_LINE);
    isDrawn = false;
  };
  const draw = (): void => {
    if (text === "") return;
    terminal.write(`${ERASE_LINE}${text.slice(0, Math.max(1, (terminal.columns || 80) - 1))}`);
    isDrawn = true;
    drawnAt = now();
  };
  return {
    handle(event) {
      text = tracker.live(event) ?? text;
      if (now() - drawnAt >= REDRAW_MS) draw();
    },
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

/** One line per finished block, through the log. */
export function createLineProgress(logger: Logger, now: () => number = Date.now): Progress {
  const tracker = createTracker(now);
  return {
    handle(event) {
      const line = tracker.line(event);
      if (line !== undefined) logger.info(line.message, line.fields);
    },
    around: (write) => write(),
    finish: () => undefined,
  };
}

interface Tracker {
  /** The live line after this event, or undefined where it changes nothing. */
  live(event: EngineEvent): string | undefined;
  /** The log line of this event, where it deserves one. */
  line(
    event: EngineEvent,
  ): { readonly message: string; readonly fields: Readonly<Record<string, unknown>> } | undefined;
}

function createTracker(now: () => number): Tracker {
  let startedAt = now();
  let firstFraction = 0;
  let lastLoss: number | null = null;
  /** A resumed run starts with work already done: extrapolate from the share done since. */
  const remaining = (fraction: number): number | undefined =>
    estimateRemaining((fraction - firstFraction) / (1 - firstFraction || 1), now() - startedAt);
  const etaText = (fraction: number): string => {
    const milliseconds = remaining(fraction);
    return milliseconds === undefined || fraction >= 1 ? "" : `, ETA ${formatDuration(milliseconds / 1000)}`;
  };
  const start = (event: EngineEvent): void => {
    if (event.type !== "start") return;
    startedAt = now();
    firstFraction = event.blocks === 0 ? 0 : event.resumedBlocks / event.blocks;
  };
  return {
    live(event) {
      start(event);
      switch (event.type) {
        case "start":
          return `${event.blocks} blocks on ${event.device}`;
        case "stage": {
          const loss = lastLoss === null ? "" : `, last loss ${formatLoss(lastLoss)}`;
          return `block ${event.block + 1}/${event.blocks} · ${event.stage} · ${formatPercent(event.fraction, 0)}${loss}${etaText(event.fraction)}`;
        }
        case "block":
          lastLoss = event.loss;
          return `${blockText(event)}${etaText(event.fraction)}`;
        case "training":
          return trainingText(event);
        case "windows":
          return `window ${event.done}/${event.total}${etaText(event.done / event.total)}`;
        case "bytes":
          return `${formatBytes(event.done)} of ${formatBytes(event.total)}${etaText(event.done / event.total)}`;
        case "tokens":
          return `token ${event.done}/${event.total}${etaText(event.done / event.total)}`;
        case "cell":
          return `${event.label} done, ${event.done} of ${event.total}`;
        default:
          return event satisfies never;
      }
    },
    line(event) {
      start(event);
      if (event.type === "cell") {
        const { done, total, label } = event;
        return { message: `${label} done, ${done} of ${total}`, fields: { done, total } };
      }
      if (event.type === "start" && event.resumedBlocks > 0) {
        return { message: `resuming after ${event.resumedBlocks} of ${event.blocks} blocks`, fields: {} };
      }
      if (event.type === "training") {
        const { name, step, steps, loss, isPoint, etaSeconds } = event;
        const fields = { training: name, step, steps, loss, etaSeconds: Math.round(etaSeconds) };
        return isPoint ? { message: trainingText(event), fields } : undefined;
      }
      if (event.type !== "block") return undefined;
      const { block, blocks, zeros, elements, loss, seconds } = event;
      const milliseconds = remaining(event.fraction);
      const etaSeconds = milliseconds === undefined ? null : Math.round(milliseconds / 1000);
      return {
        message: `${blockText(event)}${etaText(event.fraction)}`,
        fields: { block: block + 1, blocks, zeros, elements, loss, seconds, etaSeconds },
      };
    },
  };
}

function trainingText({ name, step, steps, course, etaSeconds }: Extract<EngineEvent, { type: "training" }>): string {
  const eta = step === steps ? "" : `, ETA ${formatDuration(etaSeconds)}`;
  return `${name}, step ${step}/${steps}: ${course}${eta}`;
}

function blockText(event: Extract<EngineEvent, { type: "block" }>): string {
  const { block, blocks, zeros, elements, loss, seconds } = event;
  const lossText = loss === null ? "" : `, loss ${formatLoss(loss)}`;
  const sparsity = elements === 0 ? "no linears" : `${formatPercent(zeros / elements, 1)} zeros`;
  return `block ${block + 1}/${blocks}: ${sparsity}${lossText}, ${formatDuration(seconds)}`;
}
