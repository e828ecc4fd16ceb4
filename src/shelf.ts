/** Bytes at positions, in memory or in a file: where what is not worked on lies. */
import type { OpenFile } from "./files/door.js";
import { open } from "./files/output-files.js";
import { InternalError } from "./errors.js";

export interface Shelf extends AsyncDisposable {
  /** Fill `bytes` with what was written at `position`. */
  read(position: number, bytes: Uint8Array): Promise<void>;
  write(position: number, bytes: Uint8Array): Promise<void>;
}

export class MemoryShelf implements Shelf {
  readonly #bytes: Uint8Array;

  constructor(length: number) {
    this.#bytes = new Uint8Array(length);
  }

  read(position: number, bytes: Uint8Array): Promise<void> {
    bytes.set(this.#bytes.subarray(position, position + bytes.length));
    return Promise.resolve();
  }

  write(position: number, bytes: Uint8Array): Promise<void> {
    this.#bytes.set(bytes, position);
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

export class FileShelf implements Shelf {
  readonly #path: string;
  readonly #file: OpenFile;

  private constructor(path: string, file: OpenFile) {
    this.#path = path;
    this.#file = file;
  }

  /** @param flags as `open`'s: "w+" for an empty one, "r" or "r+" for one that exists */
  static async open(path: string, flags: "w+" | "r" | "r+"): Promise<FileShelf> {
    return new FileShelf(path, await open(path, flags));
  }

  async read(position: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const { bytesRead } = await this.#file.read(bytes, done, bytes.length - done, position + done);
      if (bytesRead === 0) throw new InternalError("E_SHELF", `${this.#path}: ended early`);
      done += bytesRead;
    }
  }

  async write(position: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;)
      done += (await this.#file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }

  /** Resolves once everything is on the disk. */
  flush(): Promise<void> {
    return this.#file.datasync();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#file.close();
  }
}
