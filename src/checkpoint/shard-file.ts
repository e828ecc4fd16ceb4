/**
 * One open safetensors file: its checked header, and positional reads and writes that either finish or throw an error
 * which names the file. It knows byte ranges, not element types.
 */
import type { BigIntStats, OpenFile } from "../files/door.js";
import * as source from "../files/checkpoint-files.js";
import * as output from "../files/output-files.js";
import { join } from "node:path";
import { CheckpointError } from "../errors.js";
import { FOREIGN_HEAD_BYTES, refusalOfForeign } from "./foreign-file.js";
import { parseHeader, parseHeaderLength, type SafetensorsHeader } from "./header.js";

/** Node refuses single reads of 2 GiB and more. */
const READ_LIMIT = 2 ** 30;

/** What tells a file that was changed or replaced from one that was not, without a look at its bytes. Numbers as text. */
export interface ShardStamp {
  readonly name: string;
  readonly size: string;
  /** In nanoseconds. */
  readonly modified: string;
  /** Of anything about it, which no program can set back. */
  readonly changed: string;
  /** Device and number on it. */
  readonly place: string;
}

function stampOf(name: string, { size, mtimeNs, ctimeNs, dev, ino }: BigIntStats): ShardStamp {
  return { name, size: `${size}`, modified: `${mtimeNs}`, changed: `${ctimeNs}`, place: `${dev}:${ino}` };
}

export class ShardFile {
  /** File name inside the checkpoint's directory. */
  readonly name: string;
  readonly path: string;
  readonly sizeBytes: number;
  readonly header: SafetensorsHeader;
  /** The 8 bytes of length and the JSON, as stored. */
  readonly headerBytes: Uint8Array;
  bytesRead: number;
  /** Is told all bytes that are read, in order. */
  heard: ((bytes: Uint8Array) => void) | undefined;
  /** When it was opened. */
  readonly #opened: ShardStamp;
  readonly #handle: OpenFile;

  private constructor(
    file: Pick<ShardFile, "name" | "path" | "sizeBytes" | "header" | "headerBytes" | "bytesRead">,
    handle: OpenFile,
    opened: ShardStamp,
  ) {
    this.name = file.name;
    this.path = file.path;
    this.sizeBytes = file.sizeBytes;
    this.header = file.header;
    this.headerBytes = file.headerBytes;
    this.bytesRead = file.bytesRead;
    this.#handle = handle;
    this.#opened = opened;
  }

  /**
   * Open a file and check its header; `flags` is "r" or, to write into it, "r+".
   * @throws CheckpointError when it is missing, unreadable or not a whole safetensors file
   */
  static async open(directory: string, name: string, flags: "r" | "r+"): Promise<ShardFile> {
    const path = join(directory, name);
    if (!(await source.stat(path)).isFile()) throw notRegular(path); // opening a pipe waits, and a device may act
    const handle = await (flags === "r" ? source : output).open(path, flags);
    try {
      const opened = stampOf(name, await handle.stat({ bigint: true }));
      const status = await handle.stat();
      if (!status.isFile()) throw notRegular(path);
      const { size: sizeBytes } = status;
      const head = new Uint8Array(Math.min(FOREIGN_HEAD_BYTES, sizeBytes));
      await readFully(handle, head, 0, path);
      const { header, headerBytes } = await readHeader(handle, head, path, sizeBytes);
      const bytesRead = head.byteLength + headerBytes.byteLength;
      return new ShardFile({ name, path, sizeBytes, header, headerBytes, bytesRead }, handle, opened);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Fill `target` from the file's bytes at `position`. */
  async read(target: Uint8Array, position: number): Promise<void> {
    await readFully(this.#handle, target, position, this.path);
    this.bytesRead += target.byteLength;
    this.heard?.(target);
  }

  /** Of the open file, whatever its name leads to now. */
  async stamp(): Promise<ShardStamp> {
    return stampOf(this.name, await this.#handle.stat({ bigint: true }));
  }

  /** Whether something has written into the open file since it was opened. */
  async isRewritten(): Promise<boolean> {
    const { size, modified } = await this.stamp();
    return size !== this.#opened.size || modified !== this.#opened.modified;
  }

  /** Write all of `bytes` at `position`. */
  async write(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.byteLength;) {
      const length = Math.min(bytes.byteLength - done, READ_LIMIT);
      done += (await this.#handle.write(bytes, done, length, position + done)).bytesWritten;
    }
  }

  /** Force written data to the disk. */
  async sync(): Promise<void> {
    await this.#handle.sync();
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

function notRegular(path: string): CheckpointError {
  return new CheckpointError("E_FILE_UNREADABLE", `${path}: not a regular file; expected a safetensors file.`, {
    details: { file: path },
  });
}

/** @throws CheckpointError that says what the file is where it is a known kind of another file, else what is wrong with it */
async function readHeader(
  handle: OpenFile,
  head: Uint8Array,
  path: string,
  sizeBytes: number,
): Promise<Pick<ShardFile, "header" | "headerBytes">> {
  try {
    const headerBytes = new Uint8Array(8 + parseHeaderLength(head.subarray(0, 8), path, sizeBytes));
    await readFully(handle, headerBytes, 0, path);
    return { header: parseHeader(headerBytes.subarray(8), path, sizeBytes), headerBytes };
  } catch (problem) {
    throw refusalOfForeign(path, head) ?? problem;
  }
}

async function readFully(handle: OpenFile, target: Uint8Array, position: number, path: string): Promise<void> {
  for (let done = 0; done < target.byteLength;) {
    const length = Math.min(target.byteLength - done, READ_LIMIT);
    const { bytesRead } = await handle.read(target, done, length, position + done);
    if (bytesRead === 0) {
      throw new CheckpointError(
        "E_FILE_TRUNCATED",
        `${path}: ends at byte ${position + done}; it was longer when it was opened.`,
        {
          hint: "Something else changed the file while it was read; leave it alone and run again.",
          details: { file: path, position: position + done },
        },
      );
    }
    done += bytesRead;
  }
}
