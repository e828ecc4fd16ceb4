/** Where the Hub is, where its cache is, and who asks: by the environment variables that Hugging Face's own tools read. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { UsageError } from "../errors.js";
import { existsSync, readFile } from "../files/hub-files.js";

export interface HubSettings {
  /** Without a slash at the end. */
  readonly endpoint: string;
  /** Absolute path of the folder of models--org--name folders. */
  readonly cache: string;
  readonly token?: string | undefined;
  /** Nothing is asked of the network. */
  readonly isOffline: boolean;
}

export interface HubRequest {
  readonly token?: string | undefined;
  readonly offline?: boolean | undefined;
}

const PUBLIC_ENDPOINT = "https://huggingface.co";

/**
 * What is asked for, else what the environment says, else the token's file and the usual places.
 * @throws UsageError E_HUB_ENDPOINT for an HF_ENDPOINT that is no http(s) address
 */
export async function hubSettings(
  asked: HubRequest = {},
  environment: NodeJS.ProcessEnv = process.env,
): Promise<HubSettings> {
  const variable = (name: string): string | undefined =>
    environment[name]?.trim() === "" ? undefined : environment[name]?.trim();
  const home = resolve(
    variable("HF_HOME") ??
      join(variable("XDG_CACHE_HOME") ?? join(environment["HOME"] ?? homedir(), ".cache"), "huggingface"),
  );
  const cache = variable("HF_HUB_CACHE") ?? variable("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub");
  const tokenFile = variable("HF_TOKEN_PATH") ?? join(home, "token");
  const token = asked.token ?? variable("HF_TOKEN") ?? variable("HUGGING_FACE_HUB_TOKEN") ?? (await tokenOf(tokenFile));
  const endpoint = (variable("HF_ENDPOINT") ?? PUBLIC_ENDPOINT).replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint))
    throw new UsageError("E_HUB_ENDPOINT", `HF_ENDPOINT: "${endpoint}" is no address that begins with https://.`, {
      hint: `Leave it out for ${PUBLIC_ENDPOINT}.`,
      details: { value: endpoint },
    });
  const isOffline =
    asked.offline === true || isTrue(variable("HF_HUB_OFFLINE")) || isTrue(variable("TRANSFORMERS_OFFLINE"));
  return { endpoint, cache: resolve(cache), token, isOffline };
}

function isTrue(text: string | undefined): boolean {
  return ["1", "on", "yes", "true"].includes(text?.toLowerCase() ?? "");
}

/** What `hf auth login` leaves. */
async function tokenOf(file: string): Promise<string | undefined> {
  if (!existsSync(file)) return undefined;
  const token = (await readFile(file, "utf8")).trim();
  return token === "" ? undefined : token;
}
