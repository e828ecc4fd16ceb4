/** What was asked for, read by a table of options: every value by its type, defaults filled in, all problems together. */
import { PruneError, UsageError } from "../errors.js";
import { nearestName } from "../nearest-name.js";
import { Problems } from "../problems.js";
import { LIBRARY } from "./library.js";
import { flagOf, type AskedOf, type RequestOf, type Table } from "./option.js";

/** A request as far as it can be taken. */
export interface ReadOptions<Asked> {
  /** What could be read; what could not is as if it had not been given. */
  readonly asked: Asked;
  readonly problems: readonly PruneError[];
  /** Options that were given and could not be read. */
  readonly unread: ReadonlySet<string>;
}

/** Read a request, leaving out what cannot be taken, so that the rest can be checked too. */
export function readOptions<Options extends Table>(
  table: Options,
  request: RequestOf<Options>,
): ReadOptions<AskedOf<Options>> {
  const problems = new Problems();
  const unread = new Set<string>();
  const read = Object.entries<unknown>(request).flatMap(([key, given]): [string, unknown][] => {
    if (given === undefined) return [];
    const entry = Object.hasOwn(table, key) ? table[key] : undefined;
    if (entry === undefined) {
      unread.add(key);
      problems.add(unknownOption(key, Object.keys(table)));
      return [];
    }
    const value: unknown = problems.attempt(() => entry.type.read(given, flagOf(key), LIBRARY) as unknown);
    if (value !== undefined) return [[key, value]];
    unread.add(key);
    return [];
  });
  const defaults = Object.entries(table).flatMap(([key, entry]) =>
    entry.default === undefined ? [] : [[key, entry.default] as const],
  );
  const asked = { ...Object.fromEntries(defaults), ...Object.fromEntries(read) } as AskedOf<Options>;
  return { asked, problems: problems.found, unread };
}

function unknownOption(key: string, known: readonly string[]): UsageError {
  const nearest = nearestName(key, known);
  return new UsageError("E_OPTION_UNKNOWN", `"${key}" is no option.`, {
    ...(nearest === undefined ? {} : { hint: `Did you mean "${nearest}"?` }),
    details: { value: key, known },
  });
}
