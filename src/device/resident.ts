/**
 * What lies in a device's memory: label, shape and life of a matrix or mask, and the ledger of what is alive. Both
 * backends build on it; nothing here knows what the memory is.
 */
import { InternalError } from "../errors.js";

/** Bytes of live objects by label. */
export class Ledger {
  readonly #entries = new Map<string, { readonly bytes: number; readonly count: number }>();

  add(label: string, bytes: number): void {
    const entry = this.#entries.get(label) ?? { bytes: 0, count: 0 };
    this.#entries.set(label, { bytes: entry.bytes + bytes, count: entry.count + 1 });
  }

  remove(label: string, bytes: number): void {
    const entry = this.#entries.get(label) ?? { bytes, count: 1 };
    if (entry.count === 1) this.#entries.delete(label);
    else this.#entries.set(label, { bytes: entry.bytes - bytes, count: entry.count - 1 });
  }

  snapshot(): ReadonlyMap<string, number> {
    return new Map([...this.#entries].map(([label, { bytes }]) => [label, bytes]));
  }
}

/** A keeper of memory: counts it, and takes it back. */
export interface Owner<Memory> {
  readonly ledger: Ledger;
  /** Called once, when the object is disposed; work that was queued before may still use the memory. */
  release(memory: Memory): void;
}

/** How a matrix or mask is called and how large it is. */
export interface Description {
  readonly label: string;
  readonly rows: number;
  readonly columns: number;
}

/** Queued work keeps the memory; new work on a disposed object is refused. */
export abstract class Resident<Memory> implements Disposable {
  readonly label: string;
  readonly rows: number;
  readonly columns: number;
  readonly byteLength: number;
  readonly #owner: Owner<Memory>;
  #memory: Memory | undefined;

  constructor(owner: Owner<Memory>, memory: Memory, byteLength: number, { label, rows, columns }: Description) {
    this.label = label;
    this.rows = rows;
    this.columns = columns;
    this.byteLength = byteLength;
    this.#owner = owner;
    this.#memory = memory;
    owner.ledger.add(label, byteLength);
  }

  get isDisposed(): boolean {
    return this.#memory === undefined;
  }

  protected get memory(): Memory {
    if (this.#memory === undefined) throw usedAfterDisposal(this.label);
    return this.#memory;
  }

  [Symbol.dispose](): void {
    const memory = this.#memory;
    if (memory === undefined) return;
    this.#memory = undefined;
    this.#owner.ledger.remove(this.label, this.byteLength);
    this.#owner.release(memory);
  }
}

export function usedAfterDisposal(label: string): InternalError {
  return new InternalError("E_DISPOSED", `device: "${label}" is used after it was disposed.`);
}
