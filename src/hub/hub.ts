/**
 * Repositories of the Hub on this disk: what a revision is, which files it has, and the files that are wanted, in the cache that
 * other tools share. Everything that came is checked against the sizes and hashes that the Hub lists.
 */
import { join, posix } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { InterruptedError, NetworkError, PruneError } from "../errors.js";
import { mkdir, statfs } from "../files/hub-files.js";
import { OutputLock } from "../files/lock.js";
import { requireRoom, SPARE_BYTES } from "../files/space.js";
import { isRecord } from "../is-record.js";
import { SILENT_LOGGER, type Logger } from "../logging.js";
import { CachedRepository, isCommit } from "./cache.js";
import { HubClient, type Patience } from "./client.js";
import { downloadBlob, type HubFile } from "./download.js";
import { folderOf, listed, repositoryText, type Repository } from "./names.js";
import type { HubSettings } from "./settings.js";

export type { HubFile } from "./download.js";

/** A repository at a commit. */
export interface Snapshot {
  readonly repository: Repository;
  readonly commit: string;
  /** Absolute path of the snapshot's folder in the cache; files that are not downloaded are not there. */
  readonly directory: string;
  /** What the Hub lists; without a connection, what is in the cache. */
  readonly files: readonly HubFile[];
  /** Nothing was asked of the Hub, so nothing can be downloaded. */
  readonly isFromCache: boolean;
}

/** How far a download is, over all its files. */
export interface DownloadProgress {
  readonly file: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface HubListening {
  readonly logger?: Logger | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /** Another one than that of people, for tests. */
  readonly patience?: Patience;
}

/** Files at a time. */
const PARALLEL = 4;
const LOCK_PAUSE_MS = 500;

export class Hub {
  readonly #settings: HubSettings;
  readonly #listening: HubListening;
  readonly #client: HubClient;

  constructor(settings: HubSettings, listening: HubListening = {}) {
    this.#settings = settings;
    this.#listening = listening;
    const { logger = SILENT_LOGGER, signal, patience } = listening;
    this.#client = new HubClient({ ...settings, logger, signal, ...(patience === undefined ? {} : { patience }) });
  }

  /**
   * Find out what a revision is. Without a connection, or where the settings say so, what the cache has of it.
   * @param paths asks for these files alone, where a repository has very many; those it lacks are left out
   * @throws NetworkError E_HUB_GATED, E_HUB_MISSING, E_HUB_REVISION, E_HUB_TOKEN, E_HUB_OFFLINE, E_HUB_UNREACHABLE, …;
   *   InterruptedError after `signal`
   */
  async open(repository: Repository, paths?: readonly string[]): Promise<Snapshot> {
    const cached = new CachedRepository(this.#settings.cache, repository);
    if (this.#settings.isOffline)
      return this.#fromCache(repository, cached, "the network is not to be asked (--offline or HF_HUB_OFFLINE)");
    return this.#interruptible(async () => {
      try {
        const commit = await this.#commitOf(repository);
        const files =
          paths === undefined ? await this.#list(repository, commit) : await this.#look(repository, commit, paths);
        await cached.noteRef(repository.revision, commit);
        return { repository, commit, directory: cached.snapshot(commit), files, isFromCache: false };
      } catch (error) {
        if (!(error instanceof NetworkError) || !isAbsence(error)) throw error;
        if ((await cached.commitOf(repository.revision)) === undefined) throw error;
        this.#listening.logger?.warn(`${error.message} Taking what the cache has of ${repositoryText(repository)}.`);
        return this.#fromCache(repository, cached, error.message);
      }
    });
  }

  /**
   * Have these files of a snapshot in the cache.
   * @returns their absolute paths, in order
   * @throws NetworkError, E_HUB_OFFLINE for files that only the network has; ResourceError E_DISK_FULL before anything is
   *   downloaded; InterruptedError after `signal`: another call goes on from there
   */
  async download(snapshot: Snapshot, files: readonly HubFile[]): Promise<string[]> {
    const { repository, commit, isFromCache } = snapshot;
    const cached = new CachedRepository(this.#settings.cache, repository);
    const missing = async (): Promise<HubFile[]> => {
      const found = await Promise.all(files.map((file) => cached.find(commit, file.path, file.sizeBytes)));
      return files.filter((_file, index) => found[index] === undefined);
    };
    const absent = await missing();
    if (absent.length > 0) {
      if (isFromCache) throw incomplete(repository, absent, "there is no connection to the Hub");
      await this.#interruptible(async () => {
        await using _lock = await this.#lock(repository);
        await this.#fetchAll(snapshot, cached, await missing());
      });
    }
    return files.map(({ path }) => join(cached.snapshot(commit), path));
  }

  /** One process at a time downloads from a repository; the others wait, and find what it has fetched. */
  async #lock(repository: Repository): Promise<AsyncDisposable> {
    const { logger, signal } = this.#listening;
    const folder = join(this.#settings.cache, ".locks", folderOf(repository));
    await mkdir(folder, { recursive: true });
    for (let isFirst = true; ; isFirst = false) {
      try {
        return await OutputLock.take(join(folder, "prune"), repositoryText(repository));
      } catch (error) {
        if (!(error instanceof PruneError) || error.code !== "E_OUTPUT_LOCKED") throw error;
        if (isFirst) logger?.warn(`Waiting: ${error.message} ${error.hint ?? ""}`);
        await sleep(LOCK_PAUSE_MS, undefined, signal === undefined ? {} : { signal });
      }
    }
  }

  async #fetchAll(
    { repository, commit }: Snapshot,
    cached: CachedRepository,
    files: readonly HubFile[],
  ): Promise<void> {
    // Files of the same content are one blob under several names.
    const blobs = [...new Map(files.map((file) => [file.hash, file])).values()];
    const totalBytes = blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    await mkdir(cached.folder, { recursive: true });
    await requireRoom(
      { statfs },
      {
        directory: cached.folder,
        neededBytes: totalBytes + SPARE_BYTES,
        what: `the download of ${repositoryText(repository)}`,
        hint: "Free some space, or set HF_HUB_CACHE to a directory that has room.",
      },
    );
    const have = new Map<string, number>();
    const onBytes = (file: HubFile, bytes: number): void => {
      have.set(file.hash, bytes);
      const doneBytes = [...have.values()].reduce((sum, each) => sum + each, 0);
      this.#listening.onProgress?.({ file: file.path, doneBytes, totalBytes });
    };
    const queue = [...blobs];
    const failures: unknown[] = [];
    const work = async (): Promise<void> => {
      for (let file = queue.shift(); file !== undefined && failures.length === 0; file = queue.shift()) {
        try {
          await downloadBlob(this.#client, repository, commit, file, cached.blob(file.hash), onBytes);
          for (const { path } of files.filter(({ hash }) => hash === file?.hash))
            await cached.link(commit, path, file.hash);
        } catch (error) {
          failures.push(error);
        }
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, work));
    if (failures.length > 0) throw failures[0];
  }

  async #commitOf(repository: Repository): Promise<string> {
    const { kind, id, revision } = repository;
    const path = `api/${kind}s/${id}/revision/${encodeURIComponent(revision)}`;
    const { value } = await this.#client.askJson(path, { repository });
    const commit = isRecord(value) ? value["sha"] : undefined;
    if (typeof commit === "string" && isCommit(commit)) return commit;
    throw strange(repository, path, 'has no "sha"');
  }

  async #list(repository: Repository, commit: string): Promise<HubFile[]> {
    const { kind, id } = repository;
    const files: HubFile[] = [];
    for (let next: string | undefined = `api/${kind}s/${id}/tree/${commit}?recursive=true`; next !== undefined;) {
      const page: { value: unknown; next: string | undefined } = await this.#client.askJson(next, { repository });
      files.push(...filesOf(repository, page.value, next));
      next = page.next;
    }
    return files;
  }

  async #look(repository: Repository, commit: string, paths: readonly string[]): Promise<HubFile[]> {
    const { kind, id } = repository;
    const path = `api/${kind}s/${id}/paths-info/${commit}`;
    const { value } = await this.#client.askJson(path, { repository, body: { paths, expand: false } });
    return filesOf(repository, value, path);
  }

  async #fromCache(repository: Repository, cached: CachedRepository, why: string): Promise<Snapshot> {
    const commit = await cached.commitOf(repository.revision);
    if (commit === undefined)
      throw new NetworkError(
        "E_HUB_OFFLINE",
        `${repositoryText(repository)}: is not in ${this.#settings.cache}, and ${why}.`,
        {
          hint: "Download it once with a connection, or give the directory of a checkpoint.",
          details: { repository: repository.id, revision: repository.revision, cache: this.#settings.cache },
        },
      );
    const directory = cached.snapshot(commit);
    const files = (await cached.list(commit)).map((file) => ({ ...file, hash: "" }));
    return { repository, commit, directory, files, isFromCache: true };
  }

  /** What fetch and pauses throw after the signal, in this program's words. */
  async #interruptible<Result>(work: () => Promise<Result>): Promise<Result> {
    const { signal } = this.#listening;
    try {
      return await work();
    } catch (error) {
      if (signal?.aborted !== true) throw error;
      const reason: unknown = signal.reason;
      throw new InterruptedError(
        "E_INTERRUPTED",
        "stopped while downloading; what came is kept, the same command goes on from there.",
        {
          details: { resumable: false, ...(typeof reason === "string" ? { signal: reason } : {}) },
          cause: error,
        },
      );
    }
  }
}

/** Whether the Hub could not be asked, so that the cache may answer in its place. */
function isAbsence({ code, details }: NetworkError): boolean {
  return code === "E_HUB_UNREACHABLE" || (code === "E_HUB_STATUS" && Number(details["status"]) >= 500);
}

/** @throws NetworkError for paths that lead out of the repository, or hashes that are none: both become names of files */
function filesOf(repository: Repository, value: unknown, path: string): HubFile[] {
  if (!Array.isArray(value)) throw strange(repository, path, "is no list");
  return value.flatMap((entry: unknown): HubFile[] => {
    if (!isRecord(entry)) throw strange(repository, path, "lists something else than files");
    if (entry["type"] !== "file") return [];
    const { lfs, path: name, size, oid } = entry;
    const [hash, sizeBytes] = isRecord(lfs) ? [lfs["oid"], lfs["size"]] : [oid, size];
    if (typeof name !== "string" || !isInside(name))
      throw strange(repository, path, `lists the path ${JSON.stringify(name)}`);
    if (
      typeof hash !== "string" ||
      !/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(hash) ||
      !Number.isSafeInteger(sizeBytes) ||
      Number(sizeBytes) < 0
    )
      throw strange(repository, path, `lists ${name} without a hash and a size`);
    return [{ path: name, sizeBytes: Number(sizeBytes), hash }];
  });
}

function isInside(path: string): boolean {
  return (
    path !== "" &&
    !path.startsWith("/") &&
    !/[\\:\p{Cc}]/u.test(path) &&
    posix.normalize(path) === path &&
    !path.split("/").includes("..")
  );
}

function strange({ id }: Repository, path: string, what: string): NetworkError {
  return new NetworkError("E_HUB_ANSWER", `${id}: the answer to ${path} ${what}.`, {
    hint: "The server at HF_ENDPOINT may not speak the Hub's protocol.",
    details: { repository: id },
  });
}

/** Files of a snapshot that only the network has. */
function incomplete(repository: Repository, missing: readonly { readonly path: string }[], why: string): NetworkError {
  const names = missing.map(({ path }) => path);
  return new NetworkError(
    "E_HUB_OFFLINE",
    `${repositoryText(repository)}: not in the cache: ${listed(names)}, and ${why}.`,
    {
      hint: "Download the rest once with a connection.",
      details: { repository: repository.id, missing: names },
    },
  );
}
