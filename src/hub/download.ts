/**
 * One file into the cache's blobs: from where an earlier attempt stopped, hashed as it comes, under its own name only once its
 * size and hash are those that the Hub lists.
 */
import { createHash, type Hash } from "node:crypto";
import { dirname } from "node:path";
import { NetworkError } from "../errors.js";
import { existsSync, mkdir, open, readPieces, rename, rm, stat } from "../files/hub-files.js";
import type { HubClient } from "./client.js";
import type { Repository } from "./names.js";

/** A file of a repository at a commit. */
export interface HubFile {
  /** With "/". */
  readonly path: string;
  readonly sizeBytes: number;
  /** Of large files the SHA-256 of the content, of others git's name of it. Also the blob's name in the cache. */
  readonly hash: string;
}

const SHA256_LENGTH = 64;

/** Hears how many of a file's bytes are there. */
export type OnBytes = (file: HubFile, bytes: number) => void;

/**
 * @param commit of the repository, which `repository.revision` is a name of
 * @param blob   where the content is to be
 * @throws NetworkError, E_HUB_SIZE and E_HUB_HASH for another content than the Hub lists; ResourceError
 */
export async function downloadBlob(
  client: HubClient,
  repository: Repository,
  commit: string,
  file: HubFile,
  blob: string,
  onBytes: OnBytes,
): Promise<void> {
  if (existsSync(blob) && (await stat(blob)).size === file.sizeBytes) return onBytes(file, file.sizeBytes);
  await mkdir(dirname(blob), { recursive: true });
  const unfinished = `${blob}.prune.incomplete`;
  const isContinued = existsSync(unfinished);
  try {
    await fetchInto(client, repository, commit, file, unfinished, onBytes);
  } catch (error) {
    if (!isContinued || !(error instanceof NetworkError) || !WRONG.has(error.code)) throw error;
    // What was there before may be what was wrong.
    await rm(unfinished, { force: true });
    await fetchInto(client, repository, commit, file, unfinished, onBytes);
  }
  await rename(unfinished, blob);
}

const WRONG = new Set(["E_HUB_SIZE", "E_HUB_HASH"]);

async function fetchInto(
  client: HubClient,
  repository: Repository,
  commit: string,
  file: HubFile,
  unfinished: string,
  onBytes: OnBytes,
): Promise<void> {
  let { hash, bytes } = await partOf(file, unfinished);
  const startOver = (): void => {
    hash = newHash(file);
    bytes = 0;
  };
  const receive = async (response: Response, pieces: AsyncIterable<Uint8Array>): Promise<void> => {
    // 200 is the whole file, whatever was asked for; 416 says that there is nothing after what is here.
    if (!isContinuation(response, bytes)) startOver();
    const handle = await open(unfinished, bytes === 0 ? "w" : "a");
    try {
      if (response.status === 416) return;
      for await (const piece of pieces) {
        if (bytes + piece.length > file.sizeBytes) throw wrongSize(repository, file, `more than ${file.sizeBytes}`);
        await handle.writeFile(piece);
        hash.update(piece);
        bytes += piece.length;
        onBytes(file, bytes);
      }
    } finally {
      await handle.close();
    }
  };
  onBytes(file, bytes);
  for (let before = -1; bytes < file.sizeBytes || before === -1;) {
    if (bytes === before) throw wrongSize(repository, file, String(bytes)); // an answer without news
    if (bytes === file.sizeBytes && bytes > 0) break;
    before = bytes;
    const headers = (): Record<string, string> => (bytes === 0 ? {} : { range: `bytes=${bytes}-` });
    await client.ask(
      addressOf(repository, commit, file),
      { repository, file: file.path, headers, taken: [416] },
      receive,
    );
  }
  const found = hash.digest("hex");
  if (found === file.hash) return;
  await rm(unfinished, { force: true });
  const { id } = repository;
  throw new NetworkError(
    "E_HUB_HASH",
    `${id}: ${file.path}: what came is not what the Hub lists: its hash is ${found}, not ${file.hash}.`,
    {
      hint: "Try again; if it stays so, something between here and the Hub changes files.",
      details: { repository: id, file: file.path, expected: file.hash, found },
    },
  );
}

function addressOf({ kind, id }: Repository, commit: string, { path }: HubFile): string {
  const name = path.split("/").map(encodeURIComponent).join("/");
  return `${kind === "dataset" ? "datasets/" : ""}${id}/resolve/${commit}/${name}`;
}

/** Whether an answer goes on after the first `bytes` of the file. */
function isContinuation({ status, headers }: Response, bytes: number): boolean {
  return status === 206 && Number(/^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1]) === bytes;
}

/** What an earlier attempt has left: its length, and its hash so far. More than the file has is nothing. */
async function partOf(file: HubFile, unfinished: string): Promise<{ hash: Hash; bytes: number }> {
  const hash = newHash(file);
  if (!existsSync(unfinished)) return { hash, bytes: 0 };
  const { size } = await stat(unfinished);
  if (size > file.sizeBytes) return { hash, bytes: 0 };
  for await (const piece of readPieces(unfinished)) hash.update(piece);
  return { hash, bytes: size };
}

/** Git names a content by the SHA-1 of its length and itself. */
function newHash({ hash, sizeBytes }: HubFile): Hash {
  return hash.length === SHA256_LENGTH ? createHash("sha256") : createHash("sha1").update(`blob ${sizeBytes}\0`);
}

function wrongSize({ id }: Repository, { path, sizeBytes }: HubFile, came: string): NetworkError {
  return new NetworkError("E_HUB_SIZE", `${id}: ${path}: ${came} bytes came, but the Hub lists ${sizeBytes}.`, {
    hint: "Try again; if it stays so, something between here and the Hub changes files.",
    details: { repository: id, file: path, expected: sizeBytes },
  });
}
