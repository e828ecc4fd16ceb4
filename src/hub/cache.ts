/**
 * The cache that Hugging Face's tools share:
 *
 *     models--org--name/refs/main               the commit that main was when it was last asked for
 *     models--org--name/blobs/<hash>            contents, under the hash that the Hub lists them with
 *     models--org--name/snapshots/<commit>/…    links to them, under the files' names
 */
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileErrorCode } from "../files/file-errors.js";
import { existsSync, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "../files/hub-files.js";
import { folderOf, MAIN, repositoryOfFolder, type Repository } from "./names.js";

const COMMIT = /^[0-9a-f]{40}$/;

export function isCommit(text: string): boolean {
  return COMMIT.test(text);
}

/** The folder of one repository in the cache. */
export class CachedRepository {
  readonly folder: string;

  constructor(cache: string, repository: Pick<Repository, "kind" | "id">) {
    this.folder = join(cache, folderOf(repository));
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(hash: string): string {
    return join(this.folder, "blobs", hash);
  }

  /** The commit of a revision that is in the cache; undefined where it is not. */
  async commitOf(revision: string): Promise<string | undefined> {
    const commit = isCommit(revision) ? revision : await this.#ref(revision);
    return commit !== undefined && existsSync(this.snapshot(commit)) ? commit : undefined;
  }

  async #ref(revision: string): Promise<string | undefined> {
    const file = join(this.folder, "refs", revision);
    if (!existsSync(file)) return undefined;
    const commit = (await readFile(file, "utf8")).trim();
    return isCommit(commit) ? commit : undefined;
  }

  /** Note what a branch or tag was. */
  async noteRef(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.#ref(revision)) === commit) return;
    const file = join(this.folder, "refs", revision);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, commit);
  }

  /** The file of a snapshot; undefined where it is not there, or not `size` bytes long. */
  async find(commit: string, path: string, size?: number): Promise<string | undefined> {
    const file = join(this.snapshot(commit), path);
    const found = await stat(file).catch(ifMissing);
    return found !== undefined && (size === undefined || found.size === size) ? file : undefined;
  }

  /** Give a blob a file's name in a snapshot. */
  async link(commit: string, path: string, hash: string): Promise<string> {
    const file = join(this.snapshot(commit), path);
    await mkdir(dirname(file), { recursive: true });
    const target = relative(dirname(file), this.blob(hash));
    try {
      await symlink(target, file);
    } catch (error) {
      if (fileErrorCode(error) !== "EEXIST") throw error;
      // Of another process, or one that leads nowhere: replaced in one step, so that nobody finds nothing there.
      const beside = `${file}.${process.pid}.tmp`;
      await rm(beside, { force: true });
      await symlink(target, beside);
      await rename(beside, file);
    }
    return file;
  }

  /** A snapshot's files; paths with "/". */
  async list(commit: string): Promise<{ readonly path: string; readonly sizeBytes: number }[]> {
    const root = this.snapshot(commit);
    const names = (await readdir(root, { recursive: true })).sort();
    const files = await Promise.all(
      names.map(async (name) => {
        const found = await stat(join(root, name)).catch(ifMissing);
        return found?.isFile() === true ? [{ path: name.replaceAll("\\", "/"), sizeBytes: found.size }] : [];
      }),
    );
    return files.flat();
  }
}

function ifMissing(error: unknown): undefined {
  if (fileErrorCode(error) === "ENOENT") return undefined;
  throw error;
}

/**
 * The snapshot of a folder models--org--name: what a user may give as a directory.
 * @returns undefined for other directories, and where the revision is not there
 */
export async function snapshotOfFolder(directory: string, revision = MAIN): Promise<string | undefined> {
  const path = resolve(directory);
  const repository = repositoryOfFolder(basename(path));
  if (repository === undefined || !existsSync(join(path, "snapshots"))) return undefined;
  const cached = new CachedRepository(dirname(path), repository);
  const commit = await cached.commitOf(revision);
  return commit === undefined ? undefined : cached.snapshot(commit);
}

/** Which repository and commit a directory of the cache is a snapshot of; undefined for other directories. */
export function repositoryOfSnapshot(directory: string): Repository | undefined {
  const path = resolve(directory);
  const revision = basename(path);
  const repository = repositoryOfFolder(basename(dirname(dirname(path))));
  if (repository === undefined || !isCommit(revision) || basename(dirname(path)) !== "snapshots") return undefined;
  return { ...repository, revision };
}
