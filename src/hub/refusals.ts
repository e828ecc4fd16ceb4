/** What the Hub's answers mean, in this program's words. */
import { NetworkError } from "../errors.js";
import { repositoryText, type Repository } from "./names.js";

export interface Asked {
  readonly repository: Repository;
  /** Absent where the question is about the repository. */
  readonly file?: string;
  readonly endpoint: string;
  readonly hasToken: boolean;
}

const TOKEN_HINT = "set HF_TOKEN, or log in with `hf auth login`";

/** An answer that is not 2xx, and that asking again would not change. */
export function refusal(
  { status, headers, url }: Response,
  { repository, file, endpoint, hasToken }: Asked,
): NetworkError {
  const code = headers.get("x-error-code") ?? "";
  const said = headers.get("x-error-message") ?? "";
  const { kind, id, revision } = repository;
  const name = repositoryText(repository);
  const page = `${endpoint}/${kind === "dataset" ? "datasets/" : ""}${id}`;
  const details = {
    repository: id,
    revision,
    status,
    ...(code === "" ? {} : { serverCode: code }),
    url: withoutQuery(url),
  };
  const error = (ownCode: string, message: string, hint: string): NetworkError =>
    new NetworkError(ownCode, `${name}: ${message}.`, { hint, details });

  if (code === "GatedRepo")
    return hasToken
      ? error(
          "E_HUB_GATED",
          "is gated, and this token's account has no access",
          `Ask for it at ${page}, and wait until it is granted.`,
        )
      : error(
          "E_HUB_GATED",
          "is gated: its owners ask who uses it",
          `Accept the conditions at ${page}, then ${TOKEN_HINT}.`,
        );
  if (code === "RevisionNotFound")
    return error("E_HUB_REVISION", `has no revision "${revision}"`, `${page}/tree/main lists branches and tags.`);
  if (code === "EntryNotFound")
    return error("E_HUB_FILE", `has no file ${file ?? ""}`, `${page}/tree/${revision} lists them.`);
  if (said.startsWith("Access to this resource is disabled"))
    return error("E_HUB_DISABLED", "has been disabled by the Hub", `${page} says why.`);
  if (status === 401 && said.startsWith("Invalid credentials"))
    return error(
      "E_HUB_TOKEN",
      "the token is not valid",
      "Make another one at https://huggingface.co/settings/tokens.",
    );
  if (code === "RepoNotFound" || status === 401 || status === 404)
    return hasToken
      ? error(
          "E_HUB_MISSING",
          `no such ${kind}, or one that this token's account may not see`,
          `Compare the name with ${page}.`,
        )
      : error(
          "E_HUB_MISSING",
          `no such ${kind}, or a private one`,
          `Compare the name with ${page}; for a private one, ${TOKEN_HINT}.`,
        );
  if (status === 403)
    return error(
      "E_HUB_FORBIDDEN",
      `access refused${said === "" ? "" : ` (${said})`}`,
      "The token may lack the right to read this repository.",
    );
  return error(
    "E_HUB_STATUS",
    `the server answered with ${status}${said === "" ? "" : ` (${said})`}`,
    "Try again later.",
  );
}

/** Signed addresses are secrets. */
export function withoutQuery(url: string): string {
  return url.replace(/\?.*/, "");
}

/** Nothing came back, or not all of it. */
export function unreachable(url: string, cause: unknown): NetworkError {
  const { host } = new URL(url);
  return new NetworkError("E_HUB_UNREACHABLE", `${host}: ${reasonOf(cause)}.`, {
    hint: "Check the connection, or a proxy (HF_ENDPOINT names a mirror). What was downloaded is kept: the same command goes on with it. A model that is in the cache is taken with --offline.",
    details: { url: withoutQuery(url), cause: codeOf(cause) ?? null },
    cause,
  });
}

/** The system's code of a failed connection, which fetch puts into causes. */
export function codeOf(error: unknown): string | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause)
    if ("code" in cause && typeof cause.code === "string") return cause.code;
  return undefined;
}

function reasonOf(error: unknown): string {
  const code = codeOf(error);
  const reason = code === undefined ? undefined : REASONS[code];
  if (reason !== undefined) return reason;
  let last = error;
  while (last instanceof Error && last.cause instanceof Error) last = last.cause;
  const message = last instanceof Error ? last.message : String(last);
  return `the connection failed (${code === undefined || message.includes(code) ? message : `${code}: ${message}`})`;
}

const REASONS: Readonly<Record<string, string>> = {
  ENOTFOUND: "no such host",
  EAI_AGAIN: "the host's name cannot be looked up",
  ECONNREFUSED: "the connection was refused",
  ECONNRESET: "the connection was broken",
  UND_ERR_SOCKET: "the connection was broken",
  E_STALL: "nothing came for too long",
};
