/**
 * A server of the Hub's protocol on localhost: an API and files on one port, large files behind a redirect on another, as a CDN.
 * Errors are those that huggingface.co gives: X-Error-Code and X-Error-Message decide what they mean.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

export interface ServedRepository {
  /** "org/name", after "datasets/" where it is one. */
  readonly name: string;
  readonly files: Readonly<Record<string, Buffer | string>>;
  /** Branches and tags; default: main. */
  readonly refs?: readonly string[];
  /** Only with this token; "gated" and "private" differ in what others hear. */
  readonly access?: { readonly kind: "gated" | "private"; readonly token: string };
}

/** What goes wrong with the next request whose path holds `path`. */
export interface Fault {
  readonly path: string;
  /** Answered instead. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** The connection is cut after so many bytes of the body. */
  readonly cutAfter?: number;
  /** Sent in the place of the content. */
  readonly content?: Buffer;
  /** Nothing more comes after so many bytes. */
  readonly stallAfter?: number;
}

export interface Heard {
  readonly host: "hub" | "cdn";
  readonly method: string;
  readonly path: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

/** From this size on, files lie behind the redirect. */
const LARGE = 200;
/** Entries per page of a listing. */
const PAGE = 4;
const VALID_TOKENS = ["secret-token", "other-account"];

export class HubServer {
  readonly heard: Heard[] = [];
  readonly faults: Fault[] = [];
  /** What HF_ENDPOINT is to be. */
  endpoint = "";
  readonly #repositories = new Map<string, ServedRepository>();
  readonly #hub: Server;
  readonly #cdn: Server;

  private constructor() {
    this.#hub = createServer((request, response) => this.#serve("hub", request, response));
    this.#cdn = createServer((request, response) => this.#serve("cdn", request, response));
  }

  static async start(t: TestContext, ...repositories: readonly ServedRepository[]): Promise<HubServer> {
    const server = new HubServer();
    for (const repository of repositories) server.#repositories.set(repository.name, repository);
    for (const each of [server.#hub, server.#cdn])
      await new Promise<void>((resolve) => each.listen(0, "127.0.0.1", resolve));
    server.endpoint = addressOf(server.#hub);
    t.after(() => server.stop());
    return server;
  }

  /** Nobody is there any more. */
  stop(): void {
    for (const each of [this.#hub, this.#cdn]) {
      each.closeAllConnections();
      each.close();
    }
  }

  /** Paths asked for of one host, in order. */
  paths(host: "hub" | "cdn"): string[] {
    return this.heard.filter((each) => each.host === host).map(({ path }) => path);
  }

  #serve(host: "hub" | "cdn", request: IncomingMessage, response: ServerResponse): void {
    const { method = "", headers } = request;
    const url = new URL(request.url ?? "", "http://localhost");
    const path = decodeURIComponent(url.pathname);
    this.heard.push({ host, method, path, authorization: headers.authorization, range: headers.range });
    const index = this.faults.findIndex((each) => path.includes(each.path));
    const fault = index === -1 ? undefined : this.faults.splice(index, 1)[0];
    if (fault?.status !== undefined) return void response.writeHead(fault.status, fault.headers).end();
    if (host === "cdn") return this.#sendBlob(path.slice(1), request, response, fault);
    const token = headers.authorization?.replace("Bearer ", "");
    if (token !== undefined && !VALID_TOKENS.includes(token))
      return refuse(response, 401, undefined, "Invalid credentials in Authorization header");
    const api = /^\/api\/(models|datasets)\/(.+?)\/(revision|tree|paths-info)\/(.+)$/.exec(path);
    if (api !== null) {
      const [, kind = "", id = "", what = "", revision = ""] = api;
      const repository = this.#find(kind === "datasets" ? `datasets/${id}` : id, token, response, false);
      if (repository === undefined) return;
      return this.#answer(repository, what, revision, url, request, response);
    }
    const [, name = "", revision = "", file = ""] = /^\/(.+?)\/resolve\/([^/]+)\/(.+)$/.exec(path) ?? [];
    const repository = this.#find(name, token, response, true);
    if (repository === undefined) return;
    if (!isRevisionOf(repository, revision)) return refuse(response, 404, "RevisionNotFound");
    const content = repository.files[file];
    if (content === undefined) return refuse(response, 404, "EntryNotFound");
    const { hash, size } = describe(file, content);
    if (size < LARGE) return sendBytes(Buffer.from(content), request, response, fault, hash);
    response.writeHead(302, {
      location: `${addressOf(this.#cdn)}/${hash}?signature=do-not-tell`,
      "x-linked-etag": `"${hash}"`,
      "x-linked-size": String(size),
      "x-repo-commit": commitOf(repository),
    });
    response.end();
  }

  #find(
    name: string,
    token: string | undefined,
    response: ServerResponse,
    isContent: boolean,
  ): ServedRepository | undefined {
    const repository = this.#repositories.get(name);
    const access = repository?.access;
    const isOpen = access === undefined || access.token === token;
    // Everybody may list a gated repository.
    if (repository !== undefined && (isOpen || (access.kind === "gated" && !isContent))) return repository;
    if (access?.kind === "gated")
      refuse(response, token === undefined ? 401 : 403, "GatedRepo", "Access to this model is restricted");
    else refuse(response, token === undefined ? 401 : 404, "RepoNotFound", "Repository not found");
    return undefined;
  }

  #answer(
    repository: ServedRepository,
    what: string,
    revision: string,
    url: URL,
    request: IncomingMessage,
    response: ServerResponse,
  ): void {
    if (!isRevisionOf(repository, revision)) return refuse(response, 404, "RevisionNotFound");
    if (what === "revision") return sendJson(response, { id: repository.name, sha: commitOf(repository) });
    const all = Object.entries(repository.files).map(([path, content]) => entryOf(path, content));
    if (what === "paths-info") {
      const pieces: Buffer[] = [];
      request.on("data", (piece: Buffer) => pieces.push(piece));
      request.on("end", () => {
        const { paths } = JSON.parse(Buffer.concat(pieces).toString()) as { paths: string[] };
        sendJson(
          response,
          all.filter(({ path }) => paths.includes(path)),
        );
      });
      return;
    }
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const next = new URL(url.pathname + url.search, this.endpoint);
    next.searchParams.set("cursor", String(from + PAGE));
    if (from + PAGE < all.length) response.setHeader("link", `<${next.href}>; rel="next"`);
    sendJson(response, [
      ...(from === 0 ? [{ type: "directory", oid: "0".repeat(40), size: 0, path: "onnx" }] : []),
      ...all.slice(from, from + PAGE),
    ]);
  }

  #sendBlob(hash: string, request: IncomingMessage, response: ServerResponse, fault: Fault | undefined): void {
    for (const { files } of this.#repositories.values())
      for (const [path, content] of Object.entries(files))
        if (describe(path, content).hash === hash)
          return sendBytes(Buffer.from(content), request, response, fault, hash);
    refuse(response, 404, undefined);
  }
}

export function commitOf({ name }: Pick<ServedRepository, "name">): string {
  return createHash("sha1").update(name).digest("hex");
}

function isRevisionOf(repository: ServedRepository, revision: string): boolean {
  return revision === commitOf(repository) || (repository.refs ?? ["main"]).includes(revision);
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** The name of a content: SHA-256 for what is large, git's for the rest. */
function describe(path: string, content: Buffer | string): { hash: string; size: number; path: string } {
  const bytes = Buffer.from(content);
  const hash =
    bytes.length < LARGE
      ? createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")
      : createHash("sha256").update(bytes).digest("hex");
  return { hash, size: bytes.length, path };
}

function entryOf(path: string, content: Buffer | string): { readonly path: string } {
  const { hash, size } = describe(path, content);
  if (size < LARGE) return { ...{ type: "file", oid: hash, size }, path };
  return { ...{ type: "file", oid: "f".repeat(40), size, lfs: { oid: hash, size, pointerSize: 134 } }, path };
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(value));
}

function refuse(response: ServerResponse, status: number, code: string | undefined, message = ""): void {
  response.writeHead(status, {
    ...(code === undefined ? {} : { "x-error-code": code }),
    ...(message === "" ? {} : { "x-error-message": message }),
  });
  response.end();
}

function sendBytes(
  content: Buffer,
  request: IncomingMessage,
  response: ServerResponse,
  fault: Fault | undefined,
  hash: string,
): void {
  const begin = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  if (begin >= content.length && begin > 0)
    return void response.writeHead(416, { "content-range": `bytes */${content.length}` }).end();
  const body = (fault?.content ?? content).subarray(begin);
  const range = { "content-range": `bytes ${begin}-${content.length - 1}/${content.length}` };
  response.writeHead(begin === 0 ? 200 : 206, {
    "content-length": body.length,
    etag: `"${hash}"`,
    "accept-ranges": "bytes",
    ...(begin === 0 ? {} : range),
  });
  const sent = fault?.cutAfter ?? fault?.stallAfter;
  if (sent === undefined) return void response.end(body);
  response.write(body.subarray(0, sent), () => {
    if (fault?.cutAfter !== undefined) setImmediate(() => response.destroy());
  });
}
