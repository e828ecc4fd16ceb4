/**
 * The command line's logger: pino in this process, on a synchronous destination, because worker transports deliver
 * late while inference blocks a core. Lines for people, or JSON lines where `--log-format` asks for them; `--log-file` adds JSON
 * lines there.
 */
import { pino } from "pino";
import { UsageError } from "../errors.js";
import type { Logger, LogLevel } from "../logging.js";
import { shouldColor } from "./streams.js";

export interface LoggerOptions {
  readonly level: LogLevel;
  readonly format: "pretty" | "json";
  readonly file?: string;
  /** Writes one finished text to stderr; the live progress line steps aside for it. */
  readonly write: (text: string) => void;
}

export interface CommandLogger {
  readonly logger: Logger;
  /** To the log file alone, where there is one. */
  readonly file: Logger | undefined;
}

/** @throws UsageError when the log file cannot be opened */
export async function createLogger({ level, format, file, write }: LoggerOptions): Promise<CommandLogger> {
  const sink = { write };
  const terminal = format === "json" ? sink : await prettyStream(write);
  // The file gets debug lines too: it is read when something went wrong.
  const said: LeveledStream = { level, stream: terminal };
  if (file === undefined) return { logger: loggerTo([said]), file: undefined };
  const kept: LeveledStream = { level: "debug", stream: openLogFile(file, (text) => terminal.write(text)) };
  return { logger: loggerTo([said, kept]), file: loggerTo([kept]) };
}

interface LeveledStream {
  readonly level: LogLevel;
  readonly stream: { write(text: string): void };
}

function loggerTo(streams: readonly LeveledStream[]): Logger {
  const levels: readonly LogLevel[] = ["debug", "info", "warn", "error"];
  const backend = pino(
    {
      level: levels.find((each) => streams.some(({ level }) => level === each)) ?? "info",
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.multistream([...streams]),
  );
  const at =
    (name: LogLevel): Logger["info"] =>
    (message, fields = {}) =>
      backend[name]({ ...fields }, message);
  return { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") };
}

async function prettyStream(write: (text: string) => void): Promise<{ write(text: string): void }> {
  const { prettyFactory } = await import("pino-pretty");
  const prettify = prettyFactory({
    colorize: shouldColor(process.stderr),
    translateTime: "SYS:HH:MM:ss",
    hideObject: true, // messages say in words what fields hold
  });
  return { write: (line) => write(prettify(JSON.parse(line))) };
}

/** @param say hears once that the file takes no more; the work goes on without it */
function openLogFile(file: string, say: (line: string) => void): { write(text: string): void } {
  try {
    const destination = pino.destination({ dest: file, sync: true, append: true });
    let isFailed = false;
    destination.on("error", ({ message }: Error) => {
      if (isFailed) return;
      isFailed = true;
      const time = new Date().toISOString();
      say(`${JSON.stringify({ level: "warn", time, msg: `--log-file: ${file} ends here: ${message}` })}\n`);
    });
    return { write: (line) => void (isFailed || destination.write(line)) };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UsageError("E_LOG_FILE", `--log-file: ${file} cannot be opened: ${reason}.`, {
      details: { file },
      cause,
    });
  }
}
