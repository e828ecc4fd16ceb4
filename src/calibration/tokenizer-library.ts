/**
 * Hugging Face's tokenizers library, whose ids are the ones that models were trained on: the program's side of the
 * process it runs in (tokenizer-process.ts). Knows of definitions, texts and ids; of checkpoints nothing.
 */
import { fork, type ChildProcess } from "node:child_process";

export type LibraryRequest =
  | { readonly kind: "load"; /** A tokenizer.json. */ readonly definition: string }
  | {
      readonly kind: "encode";
      readonly text: string;
      /** With the special tokens around it. */ readonly isWhole: boolean;
    }
  | { readonly kind: "decode"; readonly ids: Int32Array }
  | { readonly kind: "look-up"; readonly token: string };

export type LibraryReply =
  | { readonly kind: "loaded" }
  | { readonly kind: "ids"; readonly ids: Int32Array }
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "id"; readonly id: number | undefined }
  | { readonly kind: "refused" | "unavailable"; readonly reason: string };

/** What the library said instead of an answer, or how its process ended. */
export class TokenizerFailure extends Error {
  /** Whether there is no build of the library for this system. */
  readonly isUnavailable: boolean;

  constructor(reason: string, isUnavailable: boolean) {
    super(reason);
    this.name = "TokenizerFailure";
    this.isUnavailable = isUnavailable;
  }
}

interface Waiting {
  readonly resolve: (reply: LibraryReply) => void;
  readonly reject: (failure: TokenizerFailure) => void;
}

/** What is kept of what the process prints: its last words. */
const KEPT_OUTPUT = 4096;

/** One tokenizer in a process of its own, which ends with the program or on disposal. Requests are answered in order. */
export class TokenizerLibrary implements Disposable {
  readonly #process: ChildProcess;
  readonly #waiting: Waiting[] = [];
  #output = "";
  #failure: TokenizerFailure | undefined;

  private constructor(child: ChildProcess) {
    this.#process = child;
    child.stderr?.on("data", (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString("utf8")).slice(-KEPT_OUTPUT);
    });
    child.on("message", (reply: LibraryReply) => {
      this.#waiting.shift()?.resolve(reply);
      if (this.#waiting.length === 0) this.#letGo();
    });
    child.once("error", (cause) => this.#end(cause.message));
    child.once("close", (code, signal) => this.#end(lastWords(this.#output, signal ?? `exit ${code}`)));
    this.#letGo();
  }

  /** @throws TokenizerFailure where the library takes no such definition, or cannot be had */
  static async load(definition: string): Promise<TokenizerLibrary> {
    const library = new TokenizerLibrary(
      fork(new URL("./tokenizer-process.js", import.meta.url), [], {
        serialization: "advanced",
        execArgv: [],
        stdio: ["ignore", "ignore", "pipe", "ipc"],
      }),
    );
    try {
      await library.take(definition);
      return library;
    } catch (error) {
      library[Symbol.dispose]();
      throw error;
    }
  }

  /** Another definition from now on. */
  async take(definition: string): Promise<void> {
    await this.#ask({ kind: "load", definition }, "loaded");
  }

  /** Whether its process answers no more. */
  get hasEnded(): boolean {
    return this.#failure !== undefined;
  }

  /** @throws TokenizerFailure, as the other requests */
  async encode(text: string, isWhole = false): Promise<Int32Array> {
    return (await this.#ask({ kind: "encode", text, isWhole }, "ids")).ids;
  }

  /** Without special tokens. */
  async decode(ids: Int32Array): Promise<string> {
    return (await this.#ask({ kind: "decode", ids }, "text")).text;
  }

  async idOf(token: string): Promise<number | undefined> {
    return (await this.#ask({ kind: "look-up", token }, "id")).id;
  }

  [Symbol.dispose](): void {
    this.#failure ??= new TokenizerFailure("the tokenizer was closed", false);
    if (this.#process.connected) this.#process.disconnect();
  }

  async #ask<Kind extends LibraryReply["kind"]>(
    request: LibraryRequest,
    kind: Kind,
  ): Promise<Extract<LibraryReply, { readonly kind: Kind }>> {
    if (this.#failure !== undefined) throw this.#failure;
    const reply = await new Promise<LibraryReply>((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#hold();
      this.#process.send(request, (cause) => {
        if (cause !== null) this.#end(cause.message);
      });
    });
    if (reply.kind === "refused" || reply.kind === "unavailable")
      throw new TokenizerFailure(reply.reason, reply.kind === "unavailable");
    if (reply.kind !== kind) throw new TokenizerFailure(`it answered with "${reply.kind}" instead of "${kind}"`, false);
    return reply as Extract<LibraryReply, { readonly kind: Kind }>;
  }

  /** The program stays alive while an answer is waited for, and not for the library's sake alone. */
  #hold(): void {
    this.#process.ref();
    this.#process.channel?.ref();
  }

  #letGo(): void {
    this.#process.unref();
    this.#process.channel?.unref();
    // A pipe of a child is a socket, which can be let go; its declared type does not say so.
    (this.#process.stderr as { unref?: () => void } | null)?.unref?.();
  }

  #end(reason: string): void {
    this.#failure ??= new TokenizerFailure(reason, false);
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}

/** What a panic says of itself, else the end of what was printed, else how the process ended. */
function lastWords(output: string, ending: string): string {
  const panic = /panicked at [^\n]*\n([^\n]+)/.exec(output)?.[1];
  const said = panic ?? output.trim().split("\n").at(-1) ?? "";
  return said === "" ? `its process ended (${ending})` : `it gave up: ${said}`;
}
