/**
 * The one door to the file system: Node's functions, under their names, for one purpose. Whatever they throw of the system's is a
 * PruneError that names the file and what it is for. Nothing else imports node:fs.
 */
import { createReadStream, existsSync, fstatSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import * as system from "node:fs/promises";
import { fileError, type Purpose } from "./file-errors.js";

/** An open file. Every method of Node's that is used, with the errors of its purpose. */
export type OpenFile = Pick<
  system.FileHandle,
  "read" | "write" | "writeFile" | "stat" | "sync" | "datasync" | "truncate" | "close"
>;

type Work = (...args: never[]) => Promise<unknown>;

/** What a purpose may do with files. */
export interface Door {
  readonly access: typeof system.access;
  readonly appendFile: typeof system.appendFile;
  readonly chmod: typeof system.chmod;
  readonly copyFile: typeof system.copyFile;
  readonly lstat: typeof system.lstat;
  readonly mkdir: typeof system.mkdir;
  readonly mkdtemp: typeof system.mkdtemp;
  readonly readdir: typeof system.readdir;
  readonly readFile: typeof system.readFile;
  readonly readlink: typeof system.readlink;
  readonly realpath: typeof system.realpath;
  readonly rename: typeof system.rename;
  readonly rm: typeof system.rm;
  readonly rmdir: typeof system.rmdir;
  readonly stat: typeof system.stat;
  readonly statfs: typeof system.statfs;
  readonly symlink: typeof system.symlink;
  readonly writeFile: typeof system.writeFile;
  open(path: string, flags?: string): Promise<OpenFile>;
  /** A file's bytes, from the first to the last. */
  readPieces(path: string): AsyncGenerator<Buffer>;
  /** Whether a descriptor is a regular file. */
  isRegular(descriptor: number): boolean;
  /** All of a text to a descriptor that is a file: a disk that has room for a part of it only is full. */
  writeWholeSync(descriptor: number, text: string): void;
  readonly existsSync: typeof existsSync;
  readonly readdirSync: (path: string) => string[];
  readonly readFileSync: typeof readFileSync;
  readonly statSync: typeof statSync;
}

export const { constants } = system;
export type { BigIntStats, Stats } from "node:fs";

const PIECE_BYTES = 1 << 20;

export function doorFor(purpose: Purpose): Door {
  /** @param index which argument is the path that errors are about */
  const named = <Function extends Work>(work: Function, index = 0): Function =>
    (async (...args: Parameters<Function>) => {
      try {
        return await work(...args);
      } catch (error) {
        throw fileError(error, String(args[index]), purpose);
      }
    }) as unknown as Function;
  const namedSync = <Function extends (...args: never[]) => unknown>(work: Function): Function =>
    ((...args: Parameters<Function>) => {
      try {
        return work(...args);
      } catch (error) {
        throw fileError(error, String(args[0]), purpose);
      }
    }) as Function;
  const opened = (handle: system.FileHandle, path: string): OpenFile => {
    const about = <Function extends Work>(work: Function): Function =>
      (async (...args: Parameters<Function>) => {
        try {
          return await work.apply(handle, args);
        } catch (error) {
          throw fileError(error, path, purpose);
        }
      }) as unknown as Function;
    return {
      read: about(handle.read),
      write: about(handle.write),
      writeFile: about(handle.writeFile),
      stat: about(handle.stat),
      sync: about(handle.sync),
      datasync: about(handle.datasync),
      truncate: about(handle.truncate),
      close: about(handle.close),
    };
  };
  const open = named(system.open);
  return {
    access: named(system.access),
    appendFile: named(system.appendFile),
    chmod: named(system.chmod),
    copyFile: named(system.copyFile, 1),
    lstat: named(system.lstat),
    mkdir: named(system.mkdir),
    mkdtemp: named(system.mkdtemp),
    readdir: named(system.readdir),
    readFile: named(system.readFile),
    readlink: named(system.readlink),
    realpath: named(system.realpath),
    rename: named(system.rename, 1),
    rm: named(system.rm),
    rmdir: named(system.rmdir),
    stat: named(system.stat),
    statfs: named(system.statfs),
    symlink: named(system.symlink, 1),
    writeFile: named(system.writeFile),
    open: async (path, flags) => opened(await open(path, flags), path),
    async *readPieces(path) {
      try {
        for await (const piece of createReadStream(path, { highWaterMark: PIECE_BYTES })) yield piece as Buffer;
      } catch (error) {
        throw fileError(error, path, purpose);
      }
    },
    isRegular: (descriptor) => {
      try {
        return fstatSync(descriptor).isFile();
      } catch {
        return false;
      }
    },
    writeWholeSync: (descriptor, text) => {
      const bytes = Buffer.from(text);
      const path = `descriptor ${descriptor}`;
      try {
        for (let done = 0; done < bytes.length;) done += writeSync(descriptor, bytes, done);
      } catch (error) {
        throw fileError(error, path, purpose);
      }
    },
    existsSync,
    readdirSync: namedSync((path: string) => readdirSync(path)),
    readFileSync: namedSync(readFileSync),
    statSync: namedSync(statSync),
  };
}
