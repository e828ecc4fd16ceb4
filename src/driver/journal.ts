/**
 * The journal of a run: JSON lines in OUT.partial. The first holds the run's fingerprint, each further one a finished step by
 * its name, in whatever order steps were finished: the gradients, the allocation with the sparsity of each linear, a block
 * with the hash of what was written for it. A step's line exists only after its bytes are on disk.
 */
import { createHash } from "node:crypto";
import type { OpenFile } from "../files/door.js";
import { syncDirectory } from "../files/durable.js";
import { open, readFile } from "../files/output-files.js";
import { join } from "node:path";
import type { BlockTrainingReport, LayerReport, ModelTrainingReport } from "../contract.js";
import { CheckpointError, ConfigError } from "../errors.js";
import { fileErrorCode } from "../files/file-errors.js";
import { isRecord } from "../is-record.js";

export const JOURNAL_NAME = "journal.jsonl";

/** What must be equal for an interrupted run to go on, by name, so that a refusal can say what differs. */
export interface Fingerprint {
  /** What decides a run's bytes: its model, calibration and options. */
  readonly bytes: Readonly<Record<string, string>>;
  /** Where it ran. The same computation rounds differently elsewhere. */
  readonly place: Readonly<Record<string, string>>;
}

export function hashOf(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

export class Journal implements AsyncDisposable {
  readonly #file: OpenFile;
  readonly #steps: Map<string, unknown>;

  private constructor(file: OpenFile, steps: Map<string, unknown>) {
    this.#file = file;
    this.#steps = steps;
  }

  /**
   * Start a fresh journal, or with `resume` continue one of the same fingerprint.
   * @throws ConfigError E_FINGERPRINT, CheckpointError E_JOURNAL for a journal that is not one of ours
   */
  static async open(directory: string, fingerprint: Fingerprint, resume: boolean): Promise<Journal> {
    const path = join(directory, JOURNAL_NAME);
    const text = resume ? await readExisting(path) : undefined;
    if (text === undefined || wholeLines(text).length === 0) {
      const journal = new Journal(await open(path, "w"), new Map());
      await journal.#append({ type: "run", fingerprint });
      await syncDirectory({ open }, directory);
      return journal;
    }
    const { steps, length } = parseJournal(text, fingerprint, path);
    const file = await open(path, "r+");
    await file.truncate(length); // a line torn by a crash must not sit in front of the next one
    return new Journal(file, steps);
  }

  /** What was noted of a finished step; undefined where it is still to be done. */
  finished<Kind extends keyof StepEntries>(kind: Kind, name: string): StepEntries[Kind] | undefined {
    return this.#steps.get(keyOf(kind, name)) as StepEntries[Kind] | undefined;
  }

  /** Note that a step is finished, after everything it wrote was flushed. */
  async append<Kind extends keyof StepEntries>(kind: Kind, name: string, entry: StepEntries[Kind]): Promise<void> {
    await this.#append({ type: kind, name, ...entry });
    this.#steps.set(keyOf(kind, name), entry);
  }

  /** Note something that need not be on the disk before the next finished step is. */
  async appendSoon<Kind extends keyof StepEntries>(kind: Kind, name: string, entry: StepEntries[Kind]): Promise<void> {
    await this.#write({ type: kind, name, ...entry });
    this.#steps.set(keyOf(kind, name), entry);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async #append(line: object): Promise<void> {
    await this.#write(line);
    await this.#file.datasync();
  }

  async #write(line: object): Promise<void> {
    const { size } = await this.#file.stat();
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    for (let done = 0; done < bytes.length;)
      done += (await this.#file.write(bytes, done, bytes.length - done, size + done)).bytesWritten;
  }
}

/** What is noted of a step of each kind. */
export interface StepEntries {
  /** The pass over the dense model that collects gradients: its statistics lie in files beside the journal. */
  readonly gradients: {
    /** Mean next-token cross-entropy of the calibration sequences. */
    readonly loss: number;
  };
  readonly allocation: { readonly sparsities: Readonly<Record<string, number>> };
  /** What was read of the source for this block, or outside the blocks, before anything of it was overwritten. */
  readonly source: {
    /** Over its stored bytes, in the order of reading. */
    readonly sha256: string;
  };
  readonly block: {
    /** Over the bytes of the block's pruned tensors, in order. */
    readonly sha256: string;
    readonly layers: readonly LayerReport[];
    /** Where the block was trained. */
    readonly training?: readonly BlockTrainingReport[];
  };
  /** A shard that was written anew. */
  readonly shard: { readonly bytes: number };
  /** The whole model, trained: its tensors lie in a file beside the journal. */
  readonly training: { readonly report: ModelTrainingReport };
  /** The state after this step of a training lies in a folder beside the journal. */
  readonly "training-step": { readonly step: number };
  /** How many steps a training has that was given a time. */
  readonly "training-plan": { readonly steps: number };
}

type Content = Readonly<Record<string, unknown>>;

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const isText = (value: unknown): boolean => typeof value === "string";
const isNumber = (value: unknown): boolean => typeof value === "number";
const isListOf = (value: unknown, isItem: (item: Content) => boolean): boolean =>
  Array.isArray(value) && value.every((item) => isRecord(item) && isItem(item));

/** Whether what a line says of a step is what is noted of such steps, as far as a run goes by it. */
const CONTENTS: { readonly [Kind in keyof StepEntries]: (content: Content) => boolean } = {
  gradients: ({ loss }) => isNumber(loss),
  allocation: ({ sparsities }) =>
    isRecord(sparsities) && Object.values(sparsities).every((share) => isNumber(share) && inUnit(share as number)),
  source: ({ sha256 }) => isText(sha256),
  block: ({ sha256, layers, training }) =>
    isText(sha256) && isListOf(layers, isLayer) && (training === undefined || isListOf(training, () => true)),
  shard: ({ bytes }) => isCount(bytes),
  training: ({ report }) => isRecord(report) && isListOf(report["curve"], () => true),
  "training-step": ({ step }) => isCount(step),
  "training-plan": ({ steps }) => isCount(steps),
};

function isStep(type: unknown): type is keyof StepEntries {
  return typeof type === "string" && Object.hasOwn(CONTENTS, type);
}

/** Parts may be missing: they differ from those of now then. */
function isFingerprint(value: unknown): value is Partial<Fingerprint> {
  const areTexts = (part: unknown): boolean =>
    part === undefined || (isRecord(part) && Object.values(part).every(isText));
  return isRecord(value) && areTexts(value["bytes"]) && areTexts(value["place"]);
}

function inUnit(share: number): boolean {
  return share >= 0 && share <= 1;
}

function isLayer({ name, zeros, elements, seconds }: Content): boolean {
  return isText(name) && isCount(zeros) && isCount(elements) && isNumber(seconds);
}

function keyOf(kind: string, name: string): string {
  return `${kind} ${name}`;
}

/** Lines of a file that is only appended to: what a crash tore has no end, or after a power cut zeros where it is not on the disk. */
export function wholeLines(text: string): string[] {
  const zeros = text.indexOf("\0");
  return (zeros === -1 ? text : text.slice(0, zeros)).split("\n").slice(0, -1);
}

async function readExisting(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (fileErrorCode(error) === "ENOENT") return undefined; // stopped while cloning
    throw error;
  }
}

interface Contents {
  readonly steps: Map<string, unknown>;
  /** Bytes of whole lines. */
  readonly length: number;
}

function parseJournal(text: string, fingerprint: Fingerprint, path: string): Contents {
  const lines = wholeLines(text);
  const steps = new Map<string, unknown>();
  for (const [index, line] of lines.entries()) {
    const entry = parseLine(line);
    if (index === 0) {
      const then = entry?.["fingerprint"];
      if (entry?.["type"] !== "run" || !isFingerprint(then)) throw refusal(path, 1, "the run's fingerprint");
      expectSame(then, fingerprint, path);
      continue;
    }
    const { type, name, ...content } = entry ?? {};
    if (typeof name !== "string" || !isStep(type) || !CONTENTS[type](content))
      throw refusal(path, index + 1, "a step of a run");
    steps.set(keyOf(type, name), content);
  }
  return { steps, length: Buffer.byteLength(lines.map((line) => `${line}\n`).join("")) };
}

function parseLine(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function refusal(path: string, line: number, expected: string): CheckpointError {
  return new CheckpointError("E_JOURNAL", `${path}: line ${line} is not about ${expected}.`, {
    hint: "The journal was changed by something else; start again with --force.",
    details: { path, line },
  });
}

/** What decides the bytes is compared first: with other options it does not matter where the run was. */
function expectSame(then: Partial<Fingerprint>, now: Fingerprint, path: string): void {
  for (const part of ["bytes", "place"] as const) {
    const [before, after] = [then[part] ?? {}, now[part]];
    const differing = Object.keys({ ...before, ...after }).filter((key) => before[key] !== after[key]);
    const [first] = differing;
    if (first === undefined) continue;
    const what = part === "bytes" ? "had another" : "ran on another";
    throw new ConfigError(
      "E_FINGERPRINT",
      `${path}: the interrupted run ${what} ${differing.join(", ")} (${first}: ${before[first] ?? "none"} then, ${after[first] ?? "none"} now).`,
      {
        hint:
          part === "bytes"
            ? "Resume with the same command, or start again with --force."
            : "Rounding differs from one to the other: resume where it ran, or start again with --force.",
        details: { differing, then, now },
      },
    );
  }
}
