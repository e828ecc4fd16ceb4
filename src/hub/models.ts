/**
 * Models by name: a path, a folder of the cache, or a repository of the Hub. What describes a model is fetched when it is looked
 * for, so that a request can be checked; its weights follow once the request is known to be good.
 */
import { join, resolve } from "node:path";
import { NetworkError, UsageError } from "../errors.js";
import { existsSync, readFile } from "../files/hub-files.js";
import { snapshotOfFolder } from "./cache.js";
import { Hub, type HubListening, type Snapshot } from "./hub.js";
import { descriptionFiles, indexOf, weightFiles } from "./model.js";
import { isHubUrl, isRevision, MAIN, parseRepository, repositoryText, type Repository } from "./names.js";
import { hubSettings, type HubRequest } from "./settings.js";

/** What a request says of where models come from. */
export interface ModelRequest extends HubRequest {
  /** Of a repository: a branch, a tag or a commit. */
  readonly revision?: string | undefined;
}

export class HubModels {
  readonly #workingDirectory: string;
  readonly #listening: HubListening;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #found = new Map<string, Promise<string>>();
  readonly #opened: { readonly hub: Hub; readonly snapshot: Snapshot }[] = [];

  constructor(workingDirectory: string, listening: HubListening = {}, environment: NodeJS.ProcessEnv = process.env) {
    this.#workingDirectory = workingDirectory;
    this.#listening = listening;
    this.#environment = environment;
  }

  /**
   * The directory that a name stands for, absolute. Of a repository it holds what describes the model; the weights are there after
   * `complete`. What exists is a path, and so is whatever no repository can be called.
   * @throws UsageError E_REVISION, E_HUB_NAME; NetworkError as `Hub.open` and `Hub.download`; ResourceError
   */
  async find(text: string, asked: ModelRequest): Promise<string> {
    const key = JSON.stringify([text, asked.revision]);
    const found = this.#found.get(key) ?? this.#find(text, asked);
    this.#found.set(key, found);
    return found;
  }

  /** Have the weights of every model that was found. */
  async complete(): Promise<void> {
    for (const { hub, snapshot } of this.#opened.splice(0)) {
      const index = indexOf(snapshot);
      const text = index === undefined ? undefined : await readFile(join(snapshot.directory, index.path), "utf8");
      await hub.download(snapshot, weightFiles(snapshot, text));
    }
  }

  async #find(text: string, asked: ModelRequest): Promise<string> {
    const { revision } = asked;
    if (revision !== undefined && !isRevision(revision)) throw revisionError(`"${revision}" is no name of a revision`);
    const path = resolve(this.#workingDirectory, text);
    if (!isHubUrl(text) && existsSync(path)) return this.#findPath(path, revision);
    const repository = parseRepository(text);
    if (repository === undefined) {
      if (revision !== undefined) throw revisionError(`${text} is no repository of the Hub, which alone has revisions`);
      return path;
    }
    if (revision !== undefined && repository.revision !== MAIN && repository.revision !== revision)
      throw revisionError(`${text} says another one`);
    try {
      return await this.#open({ ...repository, revision: revision ?? repository.revision }, asked);
    } catch (error) {
      if (!(error instanceof NetworkError) || isHubUrl(text)) throw error;
      const { code, message, hint, details, cause } = error;
      throw new NetworkError(code, message, {
        hint: `${hint ?? ""} There is no directory ${path} either.`.trim(),
        details,
        cause,
      });
    }
  }

  async #findPath(path: string, revision: string | undefined): Promise<string> {
    const snapshot = await snapshotOfFolder(path, revision);
    if (snapshot !== undefined) return snapshot;
    if (revision !== undefined) throw revisionError(`${path} has no such revision`);
    return path;
  }

  async #open(repository: Repository, asked: HubRequest): Promise<string> {
    const hub = new Hub(await hubSettings(asked, this.#environment), this.#listening);
    const snapshot = await hub.open(repository);
    this.#listening.logger?.info(
      `${repositoryText(repository)} of the Hub: commit ${snapshot.commit.slice(0, 12)}${snapshot.isFromCache ? ", from the cache" : ""}`,
    );
    await hub.download(snapshot, descriptionFiles(snapshot));
    this.#opened.push({ hub, snapshot });
    return snapshot.directory;
  }
}

function revisionError(reason: string): UsageError {
  return new UsageError("E_REVISION", `--revision: ${reason}.`, {
    hint: "It names a branch, a tag or a commit of a model on the Hub: ORG/NAME --revision v1.0.",
  });
}
