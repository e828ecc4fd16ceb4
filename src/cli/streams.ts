/**
 * Writing to stdout and stderr. Either may be closed or full at any time, before the work, while it goes on or after it: that
 * is noted and never decides what becomes of the work.
 */
import { fileErrorCode } from "../files/file-errors.js";
import { isRegular, writeWholeSync } from "../files/stream-files.js";

/** Whether text for `stream` may be coloured: NO_COLOR and FORCE_COLOR first, then whether a terminal shows it. */
export function shouldColor(
  stream: { readonly isTTY?: boolean },
  environment: NodeJS.ProcessEnv = process.env,
): boolean {
  if (environment["NO_COLOR"] !== undefined && environment["NO_COLOR"] !== "") return false;
  const forced = environment["FORCE_COLOR"];
  if (forced !== undefined) return forced !== "0" && forced !== "false";
  return stream.isTTY === true && environment["TERM"] !== "dumb";
}

/** The failure of a stream whose reader has closed it. */
export const CLOSED = "EPIPE";

/** A stream of the process: hands over whole texts, and keeps in mind what it could not. */
export class Outlet {
  readonly #stream: NodeJS.WriteStream;
  readonly #descriptor: number;
  readonly #isFile: boolean;
  readonly #pending = new Set<Promise<void>>();
  #failure: string | undefined;

  constructor(stream: NodeJS.WriteStream, descriptor: number) {
    this.#stream = stream;
    this.#descriptor = descriptor;
    this.#isFile = isRegular(descriptor);
    stream.on("error", (error) => this.#note(error));
  }

  /** The system's code of the first failure (EPIPE: its reader has closed it), or undefined. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Of a terminal; 0 where nobody says. */
  get columns(): number {
    return this.#stream.columns ?? 0;
  }

  /** Write a text; what becomes of it is known once `flush` resolves. */
  write(text: string): void {
    // Node's stream of a file takes no notice of what did not fit on the disk.
    if (this.#isFile) {
      try {
        writeWholeSync(this.#descriptor, text);
      } catch (error) {
        this.#note(error);
      }
      return;
    }
    const written = new Promise<void>((resolve) => {
      this.#stream.write(text, (error) => {
        if (error) this.#note(error);
        resolve();
      });
    });
    this.#pending.add(written);
    void written.then(() => this.#pending.delete(written));
  }

  /** Resolves once everything was handed to the system or refused by it, to the failure. */
  async flush(): Promise<string | undefined> {
    await Promise.all(this.#pending);
    return this.#failure;
  }

  #note(error: unknown): void {
    this.#failure ??= fileErrorCode(error) ?? (error instanceof Error && "code" in error ? String(error.code) : "EIO");
  }
}

export const stdout = new Outlet(process.stdout, 1);
export const stderr = new Outlet(process.stderr, 2);
