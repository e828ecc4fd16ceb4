/** Gathering problems, so that a user hears of all of them at once: one place for what checks return or throw. */
import { combineProblems, PruneError } from "./errors.js";

export class Problems {
  readonly #found: PruneError[] = [];

  get found(): readonly PruneError[] {
    return this.#found;
  }

  /** Note these; undefined is no problem. */
  add(...problems: readonly (PruneError | undefined)[]): void {
    this.#found.push(...problems.filter((problem) => problem !== undefined));
  }

  /** What a check gave, or `otherwise` where that is a problem, which is noted. */
  take<Value>(result: Value | PruneError, otherwise: Value): Value {
    if (!(result instanceof PruneError)) return result;
    this.#found.push(result);
    return otherwise;
  }

  /**
   * What `work` gives, or undefined where it throws a PruneError, which is noted; other errors go on.
   * @param name puts the problem in the caller's words
   */
  attempt<Value>(
    work: () => Value,
    name: (problem: PruneError) => PruneError = (problem) => problem,
  ): Value | undefined {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      this.#found.push(name(error));
      return undefined;
    }
  }

  /** @throws one error that lists all problems, where there are any */
  throwAny(): void {
    if (this.#found.length > 0) throw combineProblems(this.#found);
  }
}

/** The problem that a check throws; undefined where it throws none. */
export function problemOf(check: () => unknown): PruneError | undefined {
  const problems = new Problems();
  problems.attempt(check);
  return problems.found[0];
}
