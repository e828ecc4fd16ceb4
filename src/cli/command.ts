/**
 * What a command is: its words, and what it does with what was said. Commands are listed in commands/index.ts; their
 * modules import the rest of the program only when they act, so that help is fast.
 */
import { flagOf, GROUPS, helpOf, type Group, type Table } from "../options/option.js";
import type { Session } from "./session.js";

export interface Flag {
  /** As commander spells it: --name <argument>. */
  readonly spelling: string;
  readonly help: string;
  readonly group: Group;
  /** All that it may be, where that is a few words. */
  readonly values?: readonly string[];
}

const LOG_FORMATS = ["pretty", "json"] as const;

/** What every command has. */
export const COMMON_FLAGS: readonly Flag[] = [
  { spelling: "--json", help: "print one JSON document on stdout", group: "Output" },
  { spelling: "-q, --quiet", help: "no progress, only warnings and errors", group: "Output" },
  { spelling: "-v, --verbose", help: "debug messages, and stacks of errors", group: "Output" },
  { spelling: "--log-file <file>", help: "also append log lines as JSON to a file", group: "Output" },
  {
    spelling: "--log-format <format>",
    help: "log lines on stderr (default: pretty)",
    group: "Output",
    values: LOG_FORMATS,
  },
];

/** What was said, by camel-cased names: texts, lists of texts, true. The operand is among them, by its name. */
export type Said = Readonly<Record<string, unknown>>;

export interface CommandSpec {
  readonly name: string;
  readonly description: string;
  readonly examples: readonly string[];
  /** Taken where no command is named. */
  readonly isDefault?: true;
  /** The one word that needs no flag. Where there is a flag of the name, either may say it. */
  readonly operand?: { readonly name: string; readonly help: string };
  readonly flags: readonly Flag[];
  /** Do it, and print the result. */
  act(said: Said, session: Session): Promise<void>;
}

/** What most commands are about. */
export const MODEL = { name: "model", help: "directory of a checkpoint, or a model of the Hub: ORG/NAME" } as const;

/** The flags of a table of options, in the order of the help's groups. */
export function flagsOf(...tables: readonly Table[]): Flag[] {
  const flags = tables.flatMap((table) =>
    Object.entries(table).flatMap(([key, entry]): Flag[] => {
      if (entry.flag === undefined) return [];
      const { argument, group } = entry.flag;
      const spelling = argument === undefined ? flagOf(key) : `${flagOf(key)} ${argument}`;
      const { values } = entry.type;
      return [{ spelling, help: helpOf(entry), group, ...(values === undefined ? {} : { values }) }];
    }),
  );
  return inGroups(flags);
}

export function inGroups(flags: readonly Flag[]): Flag[] {
  return GROUPS.flatMap((name) => flags.filter(({ group }) => group === name));
}
