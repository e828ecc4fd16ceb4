/** What every command needs around its call: logger, progress, signals, and the result on stdout. */
import type { Listening, Logger } from "../index.js";
import { createLogger } from "./logger.js";
import { createLineProgress, createLiveProgress, NO_PROGRESS, type Progress } from "./progress.js";
import { stopOnSignals } from "./signals.js";
import { writeFully } from "./streams.js";

/** Options that every command has. */
export interface CommonFlags {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly logFile?: string;
  readonly logFormat?: string;
}

export interface Session {
  readonly listening: { readonly logger: Logger; readonly onEvent: NonNullable<Listening["onEvent"]> };
  /** Work that the first Ctrl-C or SIGTERM asks to end between steps. */
  stoppable<Report>(work: (signal: AbortSignal) => Promise<Report>): Promise<Report>;
  /** The one thing on stdout: the report as a JSON document, or as text for people. */
  print<Report>(report: Report, render: (report: Report) => string): Promise<void>;
}

export async function openSession(flags: CommonFlags): Promise<Session> {
  const isTerminal = process.stderr.isTTY === true;
  let progress: Progress = NO_PROGRESS;
  const writeError = (text: string): void => progress.around(() => process.stderr.write(text));
  const logger = await createLogger({
    level: flags.quiet === true ? "warn" : flags.verbose === true ? "debug" : "info",
    format:
      flags.logFormat === "pretty" || flags.logFormat === "json" ? flags.logFormat : isTerminal ? "pretty" : "json",
    ...(flags.logFile === undefined ? {} : { file: flags.logFile }),
    write: writeError,
  });
  const isLive = isTerminal && process.env["TERM"] !== "dumb";
  if (flags.quiet !== true) progress = isLive ? createLiveProgress(process.stderr) : createLineProgress(logger);

  return {
    listening: { logger, onEvent: (event) => progress.handle(event) },
    async stoppable(work) {
      const { signal, removeHandlers } = stopOnSignals(writeError);
      try {
        return await work(signal);
      } finally {
        progress.finish();
        removeHandlers();
      }
    },
    async print(report, render) {
      const text = flags.json === true ? JSON.stringify(report) : render(report);
      await writeFully(process.stdout, `${text}\n`);
    },
  };
}
