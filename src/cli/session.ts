/** What every command needs around its call: logger, progress, signals, and the result on stdout. */
import { resolve } from "node:path";
import type { Listening, Logger } from "../index.js";
import { appendFile, writeFile } from "../files/stream-files.js";
import { errorDocument, reportLost } from "./failure.js";
import { createLogger } from "./logger.js";
import { createLineProgress, createLiveProgress, NO_PROGRESS, severalProgress, type Progress } from "./progress.js";
import { stopOnSignals } from "./signals.js";
import { CLOSED, stderr, stdout } from "./streams.js";

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
  /** Keep in the log file what ends the command. */
  failed(error: unknown): void;
  /**
   * The one thing on stdout: the report as a JSON document, or as text for people.
   * @param rest what there is besides, for a reader who is gone: nothing but text that is easily made again (the default), a
   *   result on the disk under this name, or where the report can be kept
   * @throws ResourceError E_REPORT where it could not be written and that matters
   */
  print<Report>(report: Report, render: (report: Report) => string, rest?: Rest): Promise<void>;
}

export type Rest =
  /** A directory or file that holds the result whole. */
  | { readonly result: string }
  /** The report is all there is of long work. Kept in this file of the working directory where that can be done. */
  | { readonly keepIn: string };

/** In GitHub Actions, what a job's page shows of it. */
async function addToSummary(text: string, logger: Logger): Promise<void> {
  const file = process.env["GITHUB_STEP_SUMMARY"];
  if (file === undefined || file === "") return;
  try {
    await appendFile(file, `### prune\n\n\`\`\`text\n${text}\n\`\`\`\n\n`);
  } catch (error) {
    logger.warn(`GITHUB_STEP_SUMMARY: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Where the report is now: for the sentence that says it could not be written. */
async function keep(report: unknown, file: string): Promise<string> {
  try {
    await writeFile(file, `${JSON.stringify(report)}\n`, { flag: "wx" });
    return `; it is in ${resolve(file)}`;
  } catch {
    return "";
  }
}

export async function openSession(flags: CommonFlags): Promise<Session> {
  const isTerminal = process.stderr.isTTY === true;
  let progress: Progress = NO_PROGRESS;
  const writeError = (text: string): void => progress.around(() => stderr.write(text));
  const { logger, file } = await createLogger({
    level: flags.quiet === true ? "warn" : flags.verbose === true ? "debug" : "info",
    format: flags.logFormat === "json" ? "json" : "pretty",
    ...(flags.logFile === undefined ? {} : { file: flags.logFile }),
    write: writeError,
  });
  const isLive = isTerminal && process.env["TERM"] !== "dumb";
  const kept = file === undefined ? NO_PROGRESS : createLineProgress(file);
  if (flags.quiet === true) progress = kept;
  else progress = isLive ? severalProgress(createLiveProgress(stderr), kept) : createLineProgress(logger);

  return {
    listening: { logger, onEvent: (event) => progress.handle(event) },
    async stoppable(work) {
      const { signal, removeHandlers } = stopOnSignals(writeError);
      const clock = setInterval(() => progress.tick(), 1000);
      try {
        return await work(signal);
      } finally {
        clearInterval(clock);
        progress.finish();
        removeHandlers();
      }
    },
    failed(error) {
      const { message, ...fields } = errorDocument(error);
      file?.error(message, fields);
    },
    async print(report, render, rest) {
      file?.info("report", { report });
      const text = flags.json === true ? JSON.stringify(report) : render(report);
      stdout.write(`${text}\n`);
      if (rest !== undefined) await addToSummary(render(report), logger);
      const failure = await stdout.flush();
      if (failure === undefined) return;
      if (rest !== undefined && "keepIn" in rest) throw reportLost(failure, await keep(report, rest.keepIn));
      if (failure === CLOSED) {
        // Nobody wants to read it, and a result on the disk is there.
        if (rest !== undefined) logger.warn(`the report was not read: stdout is closed; ${rest.result} is complete`);
        return;
      }
      throw reportLost(failure, rest === undefined ? "" : `; ${rest.result} is complete`);
    },
  };
}
