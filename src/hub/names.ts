/** How repositories of the Hub are called: on the command line, in URLs, and in the cache. Pure. */
import { UsageError } from "../errors.js";

export type RepositoryKind = "model" | "dataset";

export interface Repository {
  readonly kind: RepositoryKind;
  /** "org/name"; of some old models "name". */
  readonly id: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
}

export const MAIN = "main";
const SCHEME = "hf://";
/** Letters, digits, "-", "_" and ".", never ".." or "--", which the cache's folders separate by. */
const PART = /^(?!.*(?:\.\.|--))[A-Za-z0-9_][\w.-]{0,95}$/;

/** What names a repository without a doubt: hf://…. Anything else may be a path. */
export function isHubUrl(text: string): boolean {
  return text.startsWith(SCHEME);
}

/**
 * ORG/NAME, ORG/NAME@REVISION, hf://ORG/NAME, hf://datasets/ORG/NAME@REVISION; undefined for what can only be a path.
 * @throws UsageError E_HUB_NAME for what begins with hf:// and is no name
 */
export function parseRepository(text: string, kind: RepositoryKind = "model"): Repository | undefined {
  const isUrl = isHubUrl(text);
  const rest = isUrl ? text.slice(SCHEME.length) : text;
  const [, prefix, id = "", revision = MAIN] = /^(models\/|datasets\/)?([^@]*)(?:@(.*))?$/.exec(rest) ?? [];
  const parts = id.split("/");
  const isName = parts.length <= 2 && parts.every((part) => PART.test(part)) && isRevision(revision);
  if (isName && (isUrl || parts.length === 2))
    return { kind: prefix === undefined ? kind : prefix === "datasets/" ? "dataset" : "model", id, revision };
  if (!isUrl) return undefined;
  throw new UsageError("E_HUB_NAME", `"${text}" names no repository of the Hub.`, {
    hint: "Write hf://ORG/NAME or hf://ORG/NAME@REVISION.",
    details: { value: text },
  });
}

/** A name that git takes, and that stays in the folder of refs. */
export function isRevision(text: string): boolean {
  return /^[\w.-]+(?:\/[\w.-]+)*$/.test(text) && !text.split("/").some((part) => part.startsWith("."));
}

/** models--org--name */
export function folderOf({ kind, id }: Pick<Repository, "kind" | "id">): string {
  return `${kind}s--${id.replaceAll("/", "--")}`;
}

/** The repository of a folder in the cache; undefined for other names. */
export function repositoryOfFolder(name: string): Pick<Repository, "kind" | "id"> | undefined {
  const [, kind, ...parts] = /^(model|dataset)s--([^-].*?)(?:--(.+))?$/.exec(name) ?? [];
  const id = parts.filter((part) => part !== undefined).join("/");
  if (kind === undefined || id === "") return undefined;
  return { kind: kind as RepositoryKind, id };
}

/** "ORG/NAME", with the revision where that is not main. */
export function repositoryText({ id, revision }: Pick<Repository, "id" | "revision">): string {
  return revision === MAIN ? id : `${id}@${revision}`;
}

/** "a, b, c and 4 more" */
export function listed(names: readonly string[]): string {
  return names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
}
