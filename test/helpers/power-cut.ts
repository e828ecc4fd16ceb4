/**
 * What may be on a disk after the power was cut, worked out from the steps that were done until then. A file's bytes are safe once the
 * file was synced, a name once its folder was; of everything else some is there and some is not, and which depends on the file system.
 */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { createRandom } from "../reference/random.js";
import type { Step } from "./accidents.js";

/**
 * - nothing: only what is safe;
 * - names: all names, and of the files' bytes what is safe; their lengths are right (a journal of metadata)
 * - empty: the same, but what was written since is not even there as zeros
 * - bytes: all bytes, and of the names what is safe;
 * - some: the names as they were at some moment since they were safe, and of each file's bytes here the old ones, there the new
 */
export const REMAINS = ["nothing", "names", "empty", "bytes", "some"] as const;
export type Remains = (typeof REMAINS)[number];

class File {
  bytes: Buffer = Buffer.alloc(0);
  safe: Buffer = Buffer.alloc(0);
}

class Folder {
  readonly names = new Map<string, Node>();
  safe = new Map<string, Node>();
  /** Names since they were safe, each with the number of the step that made them so. */
  history: { readonly step: number; readonly names: ReadonlyMap<string, Node> }[] = [];
}

type Node = File | Folder;

/** A change of names in two folders at once, none of which was synced since. */
interface Move {
  readonly step: number;
  readonly node: Node;
  readonly from: { readonly folder: Folder; readonly name: string };
  readonly into: { readonly folder: Folder; readonly name: string };
}

/** Sectors are written whole. */
const SECTOR = 512;

export class Disk {
  readonly #root = new Folder();
  readonly #path: string;
  #steps = 0;
  #moves: Move[] = [];

  /** @param path of the folder that it stands for; what is in there is safe */
  constructor(path: string) {
    this.#path = path;
    load(this.#root, path);
  }

  do(step: Step): void {
    this.#steps++;
    const node = this.#find(step.path);
    switch (step.type) {
      case "create":
        return this.#name(step.path, new File());
      case "mkdir":
        return this.#name(step.path, new Folder());
      case "unlink":
      case "rmdir":
        return this.#name(step.path, undefined);
      case "rename":
        return this.#rename(step.path, step.to);
      case "truncate":
        if (node instanceof File) node.bytes = resized(node.bytes, step.length);
        return;
      case "write":
        if (node instanceof File) {
          const { position, bytes } = step;
          node.bytes = resized(node.bytes, Math.max(node.bytes.length, position + bytes.length));
          node.bytes.set(bytes, position);
        }
        return;
      case "sync":
        if (node instanceof File) node.safe = Buffer.from(node.bytes);
        else if (node instanceof Folder) this.#secure(node);
        return;
      case "chmod":
        return;
    }
  }

  /**
   * Write what remains into an empty folder.
   * @returns a text that is equal for equal remains
   */
  leave(remains: Remains, folder: string, seed: number): string {
    const random = createRandom(seed);
    const moment = Math.floor(random() * (this.#steps + 1));
    const told: string[] = [];
    const write = (node: Node, path: string, name: string): void => {
      if (node instanceof Folder) {
        if (name !== "") mkdirSync(path);
        told.push(`${name}/`);
        const names = namesOf(node, remains, moment);
        for (const key of [...names.keys()].sort())
          write(names.get(key) as Node, join(path, key), name === "" ? key : `${name}/${key}`);
        return;
      }
      const bytes = bytesOf(node, remains, random);
      writeFileSync(path, bytes);
      told.push(`${name}: ${bytes.toString("base64")}`);
    };
    write(this.#root, folder, "");
    return told.join("\n");
  }

  #secure(folder: Folder): void {
    [folder.safe, folder.history] = [new Map(folder.names), []];
    const isOf = ({ from, into }: Move): boolean => from.folder === folder || into.folder === folder;
    // Nobody ever sees both names of what was moved, or none.
    for (const { step, node, from, into } of this.#moves.filter(isOf)) {
      if (from.folder.safe.get(from.name) === node) from.folder.safe.delete(from.name);
      into.folder.safe.set(into.name, node);
      for (const each of [from.folder, into.folder]) each.history = each.history.filter((names) => names.step >= step);
    }
    this.#moves = this.#moves.filter((move) => !isOf(move));
  }

  #rename(path: string, to: string): void {
    const node = this.#find(path);
    if (node === undefined) throw new RangeError(`${path} is not there`);
    const [from, into] = [path, to].map((each) => ({ folder: this.#folderOf(each), name: basename(each) }));
    if (from.folder !== into.folder) {
      this.#moves.push({ step: this.#steps, node, from, into });
      this.#name(path, undefined);
    } else from.folder.names.delete(from.name);
    this.#name(to, node);
  }

  #name(path: string, node: Node | undefined): void {
    const folder = this.#folderOf(path);
    if (node === undefined) folder.names.delete(basename(path));
    else folder.names.set(basename(path), node);
    folder.history.push({ step: this.#steps, names: new Map(folder.names) });
  }

  #find(path: string): Node | undefined {
    if (path === this.#path) return this.#root;
    const folder = this.#find(dirname(path));
    return folder instanceof Folder ? folder.names.get(basename(path)) : undefined;
  }

  #folderOf(path: string): Folder {
    const folder = this.#find(dirname(path));
    if (!(folder instanceof Folder)) throw new RangeError(`${dirname(path)} is no folder`);
    return folder;
  }
}

function namesOf({ names, safe, history }: Folder, remains: Remains, moment: number): ReadonlyMap<string, Node> {
  if (remains === "nothing" || remains === "bytes") return safe;
  return remains === "some" ? (history.findLast(({ step }) => step <= moment)?.names ?? safe) : names;
}

function bytesOf({ bytes, safe }: File, remains: Remains, random: () => number): Buffer {
  if (remains === "nothing" || remains === "empty") return safe;
  if (remains === "bytes") return bytes;
  const mixed = resized(safe, bytes.length);
  if (remains === "some")
    for (let at = 0; at < bytes.length; at += SECTOR)
      if (random() < 0.5) mixed.set(bytes.subarray(at, at + SECTOR), at);
  return mixed;
}

function resized(bytes: Buffer, length: number): Buffer {
  const other = Buffer.alloc(length);
  other.set(bytes.subarray(0, length));
  return other;
}

function load(folder: Folder, path: string): void {
  for (const name of readdirSync(path)) {
    const at = join(path, name);
    const node = statSync(at).isDirectory() ? new Folder() : new File();
    if (node instanceof Folder) load(node, at);
    else [node.bytes, node.safe] = [readFileSync(at), readFileSync(at)];
    folder.names.set(name, node);
  }
  folder.safe = new Map(folder.names);
}
