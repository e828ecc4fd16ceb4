/**
 * Asking the Hub: GET and POST with a token, again after a while where that may help, and never a secret in what is said.
 * Redirects are followed; fetch takes the token off where they lead to another host.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { NetworkError } from "../errors.js";
import type { Logger } from "../logging.js";
import { VERSION } from "../version.js";
import { codeOf, refusal, unreachable, withoutQuery, type Asked } from "./refusals.js";

/** How patient a client is. Milliseconds. */
export interface Patience {
  /** How often a question is asked before the answer is believed. */
  readonly attempts: number;
  /** Before the second attempt; doubled before each further one. */
  readonly firstPause: number;
  /** The longest pause, also where the server asks for a longer one. */
  readonly longestPause: number;
  /** Without a byte, a connection counts as broken. */
  readonly stall: number;
}

export const PATIENCE: Patience = { attempts: 6, firstPause: 1000, longestPause: 300_000, stall: 60_000 };

/** Answers that another attempt may change. */
const TEMPORARY = new Set([408, 429, 500, 502, 503, 504]);
/** There is no network, or no such host: where nothing was reached yet, another attempt would only keep people waiting. */
const NO_CONNECTION = new Set(["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH"]);

export interface ClientSettings {
  readonly endpoint: string;
  readonly token?: string | undefined;
  readonly logger: Logger;
  readonly signal?: AbortSignal | undefined;
  readonly patience?: Patience;
}

/** What a question needs beside its address. */
export interface Question extends Omit<Asked, "endpoint" | "hasToken"> {
  /** Asked for before every attempt. */
  readonly headers?: () => Readonly<Record<string, string>>;
  /** Sent as JSON by POST. */
  readonly body?: unknown;
  /** Statuses beside 2xx that are answers. */
  readonly taken?: readonly number[];
}

/** A piece of work that failed on its way, and may be done again. */
class Broken extends Error {
  readonly problem: NetworkError;
  /** Milliseconds that the server asks for. */
  readonly retryAfter: number | undefined;
  /** Some of the answer came: as good as a first attempt. */
  readonly hasProgress: boolean;

  constructor(
    problem: NetworkError,
    { retryAfter, hasProgress = false }: { retryAfter?: number | undefined; hasProgress?: boolean } = {},
  ) {
    super(problem.message, { cause: problem });
    this.problem = problem;
    this.retryAfter = retryAfter;
    this.hasProgress = hasProgress;
  }
}

export class HubClient {
  readonly endpoint: string;
  readonly #settings: ClientSettings;
  readonly #patience: Patience;
  /** Whether the server has answered before. */
  #isReached = false;

  constructor(settings: ClientSettings) {
    this.endpoint = settings.endpoint;
    this.#settings = settings;
    this.#patience = settings.patience ?? PATIENCE;
  }

  /**
   * Ask, and let `read` take the answer; both are done again where the connection breaks or the server is busy.
   * @param path absolute, of the endpoint; or the address of a next page
   * @throws NetworkError
   */
  async ask<Answer>(
    path: string,
    question: Question,
    read: (response: Response, pieces: AsyncIterable<Uint8Array>) => Promise<Answer>,
  ): Promise<Answer> {
    const url = new URL(path, `${this.endpoint}/`);
    const { attempts, firstPause, longestPause } = this.#patience;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#askOnce(url, question, read);
      } catch (error) {
        if (!(error instanceof Broken)) throw error;
        if (error.hasProgress) attempt = 1;
        if (attempt >= attempts) throw error.problem;
        const pause = Math.min(error.retryAfter ?? firstPause * 2 ** (attempt - 1), longestPause);
        this.#settings.logger.debug(`${error.problem.message} Again in ${Math.ceil(pause / 1000)} s.`);
        await sleep(pause, undefined, this.#settings.signal === undefined ? {} : { signal: this.#settings.signal });
      }
    }
  }

  /** An answer in JSON, and the address of the next page where there is one. */
  async askJson(
    path: string,
    question: Question,
  ): Promise<{ readonly value: unknown; readonly next: string | undefined }> {
    return this.ask(path, question, async (response, pieces) => {
      const whole: Uint8Array[] = [];
      for await (const piece of pieces) whole.push(piece);
      const text = Buffer.concat(whole).toString("utf8");
      try {
        return { value: JSON.parse(text) as unknown, next: nextPage(response.headers.get("link")) };
      } catch (cause) {
        throw new NetworkError("E_HUB_ANSWER", `${withoutQuery(response.url)}: the answer is no JSON.`, {
          hint: "Something between here and the Hub may have answered in its place: a proxy, or the login page of a network.",
          details: { url: withoutQuery(response.url) },
          cause,
        });
      }
    });
  }

  async #askOnce<Answer>(
    url: URL,
    { headers, body, taken = [], ...asked }: Question,
    read: (response: Response, pieces: AsyncIterable<Uint8Array>) => Promise<Answer>,
  ): Promise<Answer> {
    const { token, signal } = this.#settings;
    const watch = new Watch(this.#patience.stall, signal);
    try {
      const response = await this.#fetch(url, watch, {
        method: body === undefined ? "GET" : "POST",
        headers: {
          "user-agent": `prune/${VERSION}; node/${process.versions.node}`,
          "accept-encoding": "identity", // sizes and ranges are those of the file
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          // A next page is where the server says, which need not be the endpoint.
          ...(token === undefined || url.origin !== new URL(this.endpoint).origin
            ? {}
            : { authorization: `Bearer ${token}` }),
          ...headers?.(),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      if (!response.ok && !taken.includes(response.status)) {
        await response.body?.cancel().catch(() => undefined);
        const problem = refusal(response, { ...asked, endpoint: this.endpoint, hasToken: token !== undefined });
        if (!TEMPORARY.has(response.status)) throw problem;
        throw new Broken(problem, { retryAfter: retryAfter(response.headers.get("retry-after")) });
      }
      return await read(response, this.#pieces(response, watch));
    } finally {
      watch.end();
    }
  }

  async #fetch(url: URL, watch: Watch, init: RequestInit): Promise<Response> {
    try {
      const response = await fetch(url, { ...init, signal: watch.signal });
      this.#isReached = true;
      return response;
    } catch (error) {
      if (this.#settings.signal?.aborted === true) throw error;
      const problem = unreachable(url.href, watch.isStalled ? STALLED : error);
      if (!this.#isReached && NO_CONNECTION.has(codeOf(error) ?? "")) throw problem;
      throw new Broken(problem);
    }
  }

  /** The body; a connection that breaks, or stays silent, is one that may be tried again. */
  async *#pieces(response: Response, watch: Watch): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    if (reader === undefined) return;
    let hasProgress = false;
    try {
      for (;;) {
        const piece = await reader.read().catch((error: unknown) => {
          if (this.#settings.signal?.aborted === true) throw error;
          throw new Broken(unreachable(response.url, watch.isStalled ? STALLED : error), { hasProgress });
        });
        if (piece.done) return;
        hasProgress = true;
        watch.rewind();
        yield piece.value;
        watch.rewind(); // what the reader took was not the server's
      }
    } finally {
      await reader.cancel().catch(() => undefined);
    }
  }
}

const STALLED = Object.assign(new Error("stalled"), { code: "E_STALL" });

/** Ends a request after a time without news, or when the caller wants it. */
class Watch {
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly #caller: AbortSignal | undefined;
  isStalled = false;

  constructor(milliseconds: number, caller: AbortSignal | undefined) {
    this.#timer = setTimeout(() => {
      this.isStalled = true;
      this.#controller.abort();
    }, milliseconds);
    this.#caller = caller;
    if (caller?.aborted === true) this.#stop();
    else caller?.addEventListener("abort", this.#stop);
  }

  readonly #stop = (): void => this.#controller.abort();

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  rewind(): void {
    this.#timer.refresh();
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener("abort", this.#stop);
  }
}

/** Seconds or a date, in milliseconds from now; undefined for neither. */
export function retryAfter(header: string | null, now = Date.now()): number | undefined {
  if (header === null) return undefined;
  if (/^\d+$/.test(header.trim())) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** Of a Link header: `<https://…>; rel="next"`. */
function nextPage(header: string | null): string | undefined {
  return header === null ? undefined : /<([^>]+)>;\s*rel="?next"?/.exec(header)?.[1];
}
