/**
 * How far a run has come: one fraction of all that it does, weighed by the time that its parts take on a usual machine, so
 * that what is left can be told from what has passed. It never falls.
 */
import type { EngineContext } from "../context.js";
import type { BlockSpec } from "../model/architecture.js";
import { blockPart, trainingPart } from "./parts.js";
import { secondsOf, USUAL_RATES } from "./rates.js";
import { partsOf, type PlannedRun } from "./run-cost.js";

export class Course {
  /** In order; a name may come more than once. */
  readonly #names: string[];
  readonly #seconds: number[];
  #total: number;
  /** Seconds of the parts before the one at work. */
  #before = 0;
  #at = 0;
  #fraction = 0;

  constructor(parts: readonly { readonly name: string; readonly seconds: number }[]) {
    this.#names = parts.map(({ name }) => name);
    this.#seconds = parts.map(({ seconds }) => seconds);
    this.#total = this.#seconds.reduce((sum, each) => sum + each, 0);
  }

  /** Of all that is done in this run, 0..1. */
  get fraction(): number {
    return this.#fraction;
  }

  /** What some of its parts take. */
  secondsOf(isCounted: (name: string) => boolean): number {
    return this.#seconds.reduce((sum, each, index) => sum + (isCounted(this.#names[index] as string) ? each : 0), 0);
  }

  /**
   * Parts that need not be done after all.
   * @param isLeftOut of those that have not begun
   */
  leaveOut(isLeftOut: (name: string) => boolean): void {
    for (let index = this.#at + 1; index < this.#names.length; index++)
      if (isLeftOut(this.#names[index] as string)) {
        this.#total -= this.#seconds[index] as number;
        this.#seconds[index] = 0;
      }
  }

  /** Nothing of a block is left to do. */
  finish(block: Pick<BlockSpec, "name">): number {
    return this.reach(blockPart(block, "end"), 1);
  }

  /** A part that an earlier run has done so much of, 0..1, before it begins here. */
  shorten(name: string, done: number): void {
    const index = this.#names.indexOf(name, this.#at);
    if (index === -1) return;
    const seconds = this.#seconds[index] as number;
    this.#seconds[index] = (1 - done) * seconds;
    this.#total -= done * seconds;
  }

  /**
   * A part is at work. Those before it are done; one that does not come any more changes nothing.
   * @param share how much of it is done, 0..1
   */
  reach(name: string, share: number): number {
    const next = this.#names[this.#at] === name ? this.#at : this.#names.indexOf(name, this.#at + 1);
    if (next === -1) return this.#fraction;
    for (; this.#at < next; this.#at++) this.#before += this.#seconds[this.#at] as number;
    const done = this.#before + share * (this.#seconds[next] as number);
    if (this.#total > 0) this.#fraction = Math.min(1, Math.max(this.#fraction, done / this.#total));
    return this.#fraction;
  }
}

export function courseOf(planned: PlannedRun): Course {
  const given = new Map(
    planned.trainings.map(({ options }, index) => [
      trainingPart(index),
      "minutes" in options ? options.minutes : undefined,
    ]),
  );
  return new Course(
    partsOf(planned).map(({ name, work }) => {
      const minutes = given.get(name);
      return { name, seconds: minutes === undefined ? secondsOf(work, USUAL_RATES) : 60 * minutes };
    }),
  );
}

/** Where in the whole its parts lie, 0..1, by the time that each takes. */
export function spansOf(seconds: readonly number[]): { readonly from: number; readonly to: number }[] {
  const total = seconds.reduce((sum, each) => sum + each, 0);
  let before = 0;
  return seconds.map((each) => ({ from: before / (total || 1), to: (before += each) / (total || 1) }));
}

/** Say that a part of a run that belongs to no block is at work. */
export function tell(
  { context, course }: { readonly context: EngineContext; readonly course: Course },
  name: string,
  share: number,
  words = name,
): void {
  context.emit({ type: "stage", block: null, stage: words, fraction: course.reach(name, share) });
}
