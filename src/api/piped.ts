/** Standard input and pipes as sources of text: read to their end into a temporary file, which everything else reads as it reads files. */
import { join } from "node:path";
import type { TokenSource } from "../contract.js";
import { CalibrationError, InterruptedError, UsageError } from "../errors.js";
import * as temporary from "../files/temporary-files.js";
import { readPieces, statSync, existsSync } from "../files/text-files.js";

/** How standard input is named. */
const STANDARD_INPUT = "-";

/** The parts of a configuration that name text. */
interface Sources {
  readonly calibration?: TokenSource | undefined;
  readonly text?: TokenSource | undefined;
  readonly run?: { readonly calibration?: TokenSource | undefined };
}

/** Copies of what can be read once; gone when disposed. */
export interface Piped<Config> extends AsyncDisposable {
  /** The configuration, with the copies in the places of what was copied. */
  readonly config: Config;
}

/**
 * @throws UsageError where two sources are standard input, CalibrationError E_TEXT_EMPTY, ResourceError where there is no room,
 *   InterruptedError after `signal`
 */
export async function readPiped<Config>(config: Config, signal: AbortSignal | undefined): Promise<Piped<Config>> {
  const { calibration, text, run } = config as Sources;
  const named = [calibration, text, run?.calibration].filter((source) => source !== undefined);
  if (named.filter(({ file }) => file === STANDARD_INPUT).length > 1)
    throw new UsageError("E_TOKEN_SOURCE", "standard input can be read once, and two options name it.");
  const directories: string[] = [];
  const dispose = async (): Promise<void> => {
    for (const directory of directories.splice(0)) await temporary.rm(directory, { recursive: true, force: true });
  };
  const copied = async (source: TokenSource | undefined): Promise<TokenSource | undefined> => {
    if (source === undefined || source.set === "self" || !isPiped(source.file)) return source;
    const title = source.file === STANDARD_INPUT ? "standard input" : source.file;
    const directory = await temporary.makeTemporaryDirectory("input", title);
    directories.push(directory);
    const copy = join(directory, "input");
    try {
      const pieces = source.file === STANDARD_INPUT ? standardInput(signal) : readPieces(source.file);
      if ((await writeAll(pieces, copy)) === 0) throw new CalibrationError("E_TEXT_EMPTY", `${title}: is empty.`);
    } catch (error) {
      throw temporary.inTemporaryDirectory(error, directory, title);
    }
    return { ...source, file: copy, name: source.file };
  };
  try {
    const changed = {
      ...(calibration === undefined ? {} : { calibration: await copied(calibration) }),
      ...(text === undefined ? {} : { text: await copied(text) }),
      ...(run === undefined ? {} : { run: { ...run, calibration: await copied(run.calibration) } }),
    };
    return { config: { ...config, ...changed }, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Whether it gives its bytes once: standard input, a pipe, a terminal. */
function isPiped(file: string): boolean {
  if (file === STANDARD_INPUT) return true;
  if (!existsSync(file)) return false; // whoever reads it says so
  const status = statSync(file);
  return status.isFIFO() || status.isCharacterDevice() || status.isSocket();
}

async function* standardInput(signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
  const stop = (): void => void process.stdin.destroy();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    for await (const piece of process.stdin) yield piece as Buffer;
  } catch (error) {
    if (signal?.aborted !== true) throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
  if (signal?.aborted === true)
    throw new InterruptedError("E_INTERRUPTED", "stopped while standard input was read.", {
      details: { signal: String(signal.reason), resumable: false },
    });
}

async function writeAll(pieces: AsyncIterable<Buffer>, target: string): Promise<number> {
  const written = await temporary.open(target, "w");
  let length = 0;
  try {
    for await (const piece of pieces) {
      await written.writeFile(piece);
      length += piece.length;
    }
  } finally {
    await written.close();
  }
  return length;
}
