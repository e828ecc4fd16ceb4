/**
 * The journal of a run: JSON lines in OUT.partial. The first line holds the run's fingerprint, the second the sparsity
 * that the allocation gave to each linear, each further one a finished block with the hash of what was written for it. A
 * block's line exists only after its bytes are on disk.
 */
import { createHash } from "node:crypto";
import { open, readFile, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointError, ConfigError } from "../errors.js";
import type { LayerReport } from "../contract.js";

export const JOURNAL_NAME = "journal.jsonl";

export interface BlockEntry {
  readonly block: number;
  /** sha256 over the bytes of the block's pruned tensors, in order. */
  readonly sha256: string;
  readonly layers: readonly LayerReport[];
}

/** Everything that decides a run's bytes, by name, so that a refusal can say what differs. */
export type Fingerprint = Readonly<Record<string, string>>;

export function hashOf(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

export class Journal implements AsyncDisposable {
  readonly #file: FileHandle;
  /** Sparsity by linear, where the allocation was finished when the journal was opened. */
  readonly sparsities: ReadonlyMap<string, number> | undefined;
  /** Blocks that were finished when the journal was opened. */
  readonly finished: readonly BlockEntry[];

  private constructor(file: FileHandle, { sparsities, finished }: Pick<Contents, "sparsities" | "finished">) {
    this.#file = file;
    this.sparsities = sparsities;
    this.finished = finished;
  }

  /** Start a fresh journal, or with `resume` continue one of the same fingerprint. */
  static async open(directory: string, fingerprint: Fingerprint, resume: boolean): Promise<Journal> {
    const path = join(directory, JOURNAL_NAME);
    const text = resume ? await readExisting(path) : undefined;
    if (text === undefined || !text.includes("\n")) {
      const file = await open(path, "w");
      const journal = new Journal(file, { sparsities: undefined, finished: [] });
      await journal.#append({ type: "run", fingerprint });
      return journal;
    }
    const contents = parseJournal(text, fingerprint, path);
    const file = await open(path, "r+");
    await file.truncate(contents.length); // a line torn by a crash must not sit in front of the next one
    return new Journal(file, contents);
  }

  /** Note what the allocation decided: to be called once, before the first block. */
  async appendSparsities(sparsities: ReadonlyMap<string, number>): Promise<void> {
    await this.#append({ type: "allocation", sparsities: Object.fromEntries(sparsities) });
  }

  async append(entry: BlockEntry): Promise<void> {
    await this.#append({ type: "block", ...entry });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async #append(line: object): Promise<void> {
    const { size } = await this.#file.stat();
    await this.#file.write(`${JSON.stringify(line)}\n`, size);
    await this.#file.datasync();
  }
}

async function readExisting(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined; // stopped while cloning
    throw error;
  }
}

interface Contents {
  readonly sparsities: ReadonlyMap<string, number> | undefined;
  readonly finished: readonly BlockEntry[];
  /** Bytes of whole lines. */
  readonly length: number;
}

type Line = BlockEntry & {
  readonly type: string;
  readonly fingerprint?: Fingerprint;
  readonly sparsities?: Readonly<Record<string, number>>;
};

function parseJournal(text: string, fingerprint: Fingerprint, path: string): Contents {
  const lines = text.split("\n").slice(0, -1); // what follows the last newline was torn
  const [head, second, ...rest] = lines.map((line) => JSON.parse(line) as Line);
  const then = head?.fingerprint ?? {};
  const differing = Object.keys({ ...then, ...fingerprint }).filter((key) => then[key] !== fingerprint[key]);
  if (differing.length > 0) {
    const first = differing[0] as string;
    throw new ConfigError(
      "E_FINGERPRINT",
      `${path}: the interrupted run had another ${differing.join(", ")} (${first}: ${then[first] ?? "none"} then, ${fingerprint[first] ?? "none"} now).`,
      {
        hint: "Resume with the same command, or start again with --force.",
        details: { differing, then, now: fingerprint },
      },
    );
  }
  const refuse = (line: number, expected: string): never => {
    throw new CheckpointError("E_JOURNAL", `${path}: line ${line} is not about ${expected}.`, {
      hint: "The journal was changed by something else; start again with --force.",
      details: { path, line },
    });
  };
  if (second !== undefined && second.sparsities === undefined) refuse(2, "the allocation");
  rest.forEach((entry, index) => {
    if (entry.block !== index) refuse(index + 3, `block ${index}`);
  });
  return {
    sparsities: second?.sparsities === undefined ? undefined : new Map(Object.entries(second.sparsities)),
    finished: rest,
    length: Buffer.byteLength(lines.map((line) => `${line}\n`).join("")),
  };
}
