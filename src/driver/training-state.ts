/**
 * What of a training survives a stop: copies of its state in OUT.partial at steps that the journal names, each with the course
 * so far. A copy is whole before the journal names it, and the one before is kept until then.
 */
import { syncDirectories } from "../files/durable.js";
import { mkdir, open, readFile, rm, writeFile } from "../files/output-files.js";
import { dirname, join } from "node:path";
import type { TrainingCourse } from "../contract.js";
import { CheckpointError } from "../errors.js";
import { isRecord } from "../is-record.js";
import type { ParameterStore } from "../training/parameter-store.js";
import type { Journal } from "./journal.js";

const COURSE_NAME = "course.json";

/** Copies are made no more often than this, and never take more than a twentieth of the time. */
const SECONDS_BETWEEN_COPIES = 300;
const SHARE_OF_TIME = 0.05;

export interface TrainingStateOptions {
  readonly store: ParameterStore;
  readonly journal: Journal;
  /** The training's name in the journal. */
  readonly name: string;
  /** For copies; the directory that it is in is on the disk. */
  readonly directory: string;
  /** Milliseconds; default `performance.now`. */
  readonly now?: () => number;
}

export class TrainingState {
  readonly #options: TrainingStateOptions;
  readonly #now: () => number;
  #kept: number | undefined;
  #keptAt: number;
  /** What the last copy took. */
  #seconds = 0;

  constructor(options: TrainingStateOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#keptAt = this.#now();
  }

  /** Take over what an earlier run kept, if it did. */
  async restore(): Promise<{ readonly step: number; readonly course: TrainingCourse } | undefined> {
    const { store, journal, name } = this.#options;
    const step = journal.finished("training-step", name)?.step;
    if (step === undefined) return undefined;
    const directory = this.#directoryOf(step);
    await store.restore(directory);
    this.#kept = step;
    return { step, course: await readCourse(join(directory, COURSE_NAME)) };
  }

  /** Whether so much time has gone by that the next step is worth a copy. */
  get isDue(): boolean {
    const seconds = (this.#now() - this.#keptAt) / 1000;
    return seconds >= Math.max(SECONDS_BETWEEN_COPIES, this.#seconds / SHARE_OF_TIME);
  }

  /** Keep the state after a step. */
  async keep(step: number, course: TrainingCourse): Promise<void> {
    if (this.#kept === step) return;
    const started = this.#now();
    const { store, journal, name } = this.#options;
    const directory = this.#directoryOf(step);
    await rm(directory, { recursive: true, force: true }); // one that was torn
    await mkdir(directory, { recursive: true });
    await store.snapshot(directory);
    await writeFile(join(directory, COURSE_NAME), JSON.stringify(course), { flush: true });
    await syncDirectories({ open }, directory, dirname(this.#options.directory));
    await journal.append("training-step", name, { step });
    if (this.#kept !== undefined) await rm(this.#directoryOf(this.#kept), { recursive: true, force: true });
    this.#kept = step;
    this.#keptAt = this.#now();
    this.#seconds = (this.#keptAt - started) / 1000;
  }

  #directoryOf(step: number): string {
    return join(this.#options.directory, `step-${step}`);
  }
}

/** @throws CheckpointError E_JOURNAL for a file that is not one of ours */
export async function readCourse(file: string): Promise<TrainingCourse> {
  const text = await readFile(file, "utf8");
  let course: unknown;
  try {
    course = JSON.parse(text);
  } catch {
    // refused below
  }
  if (isCourse(course)) return course;
  throw new CheckpointError("E_JOURNAL", `${file}: is not the course of a training.`, {
    hint: "The file was changed by something else; start again with --force.",
    details: { file },
  });
}

function isCourse(value: unknown): value is TrainingCourse {
  if (!isRecord(value)) return false;
  const { losses, gradientNorms, curve } = value;
  const isNumbers = (list: unknown): boolean =>
    Array.isArray(list) && list.every((item) => typeof item === "number" || item === null); // null: it was not finite
  return isNumbers(losses) && isNumbers(gradientNorms) && Array.isArray(curve) && curve.every(isRecord);
}
