/** What every command needs around its engine call: logger, progress, signals, and the result on stdout. */
import {
  createStopBuffer,
  type EngineCommand,
  type EngineCommands,
  type Logger,
  type Note,
  runInEngine,
} from "../index.js";
import { createLogger } from "./logger.js";
import { createLineProgress, createLiveProgress, NO_PROGRESS, type Progress } from "./progress.js";
import type { CommonFlags } from "./program.js";
import { stopOnSignals } from "./signals.js";
import { writeFully } from "./streams.js";

export interface Session {
  readonly logger: Logger;
  say(notes: readonly Note[]): void;
  /** Run an engine command; `stoppable` ones end between steps at the first signal. */
  run<Command extends EngineCommand>(
    command: Command,
    config: EngineCommands[Command]["config"],
    options: { readonly stoppable: boolean },
  ): Promise<EngineCommands[Command]["report"]>;
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
    logger,
    say: (notes) => notes.forEach(({ level, message }) => logger[level](message)),
    async run(command, config, { stoppable }) {
      const stopBuffer = createStopBuffer();
      const removeHandlers = stoppable ? stopOnSignals(stopBuffer, writeError) : () => undefined;
      try {
        return await runInEngine(command, config, { logger, stopBuffer, onEvent: (event) => progress.handle(event) });
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

/** The command's own flags, without those that every command has. */
export function ownFlags(flags: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { json: _json, quiet: _quiet, verbose: _verbose, logFile: _logFile, logFormat: _logFormat, ...own } = flags;
  return own;
}
