/**
 * What an option is: one entry of a table, from which flags, recipes, the configuration, what a run leaves behind,
 * fingerprints and help are derived. Types only, and words: `--help` reads tables without loading anything else.
 */
import type { z } from "zod";
import type { Allocation } from "../allocation/registry.js";

/** What reading values takes that `--help` must not wait for: zod, the methods and the allocation rules (library.ts). */
export interface Library {
  readonly z: typeof z;
  /** @throws UsageError E_METHOD with the nearest name */
  findMethod(name: string, others: readonly string[]): string;
  readonly allocationSchema: z.ZodType<Allocation>;
  /** @throws UsageError E_ALLOCATION_RULE, E_ALLOCATION_OPTION */
  parseAllocation(given: unknown): Allocation;
}

/**
 * The kind of an option's value. `Given` is what a caller may hand over, and a recipe may say: a plain value or the text of
 * a flag; `Asked` is what was read from it; `Field` is what the configuration holds.
 */
export interface OptionType<Given, Asked, Field = Asked> {
  /** @throws UsageError naming the flag */
  read(given: Given, flag: string, library: Library): Asked;
  /** What a recipe may say. */
  schema(library: Library): z.ZodType;
  /** The configuration's value as a recipe says it; undefined where a recipe need not. */
  write(field: Field): unknown;
  /** All that it may be, where that is a few words. */
  readonly values?: readonly string[];
  /** The value as the text of fingerprints, where that is not JSON. */
  text?(field: Field): string;
}

/** Headings of the help, in order. */
export const GROUPS = [
  "What to compare",
  "What to prune",
  "How to prune",
  "Model",
  "Hub",
  "Text",
  "Calibration",
  "Running",
  "Output",
] as const;
export type Group = (typeof GROUPS)[number];

/** Everything about an option but its type. */
export interface OptionWords<Asked> {
  /** One line for the help and for the recipe's JSON Schema. */
  readonly help: string;
  /** Absent: said by recipes and callers only. `argument` is absent for switches. */
  readonly flag?: { readonly argument?: string; readonly group: Group };
  /** Taken where nothing is said. */
  readonly default?: Asked;
  /** In words, what is taken where nothing is said and that is worked out. */
  readonly otherwise?: string;
}

/** An entry of the table of a run's options. */
export interface RunOptionWords<Asked> extends OptionWords<Asked> {
  /** Keys of a recipe that lead to the value, joined by dots; absent: no recipe says it. */
  readonly recipe?: string;
  /** Where false, the recipe that a run leaves does not say it. */
  readonly isWritten?: false | ((config: { readonly calibration?: unknown }) => boolean);
  /** Its name in `RunConfig`, where that is not the key; false: it is a part of others. */
  readonly field?: string | false;
  /** The configuration may be without it. */
  readonly isOptional?: true;
  /**
   * What it decides. "result": the bytes or the report of a run, so that a resumed run must have the same value. "contents":
   * what the files it names hold decides, and fingerprints have hashes of that. "place": where a run worked. "nothing".
   */
  readonly decides: "result" | "contents" | "place" | "nothing";
  /** Of `prune compare`: "shared" by all cells, an "axis" of the sweep or a part of one, or for a single "run" only. */
  readonly compare: "shared" | "axis" | "run";
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- any type of option: `unknown` would refuse all of them
export type AnyType = OptionType<any, any, any>;
export type Table = Readonly<Record<string, { readonly type: AnyType } & OptionWords<unknown>>>;

/** What a caller may hand over for the options of a table. */
export type RequestOf<Options extends Table> = {
  readonly [Key in keyof Options]?: Options[Key]["type"] extends OptionType<infer Given, infer _Asked, infer _Field>
    ? Given | undefined
    : never;
};

/** What was read of a request: with a value wherever the table has a default. */
export type AskedOf<Options extends Table> = {
  readonly [Key in keyof Options]: Options[Key]["type"] extends OptionType<infer _Given, infer Asked, infer _Field>
    ? Options[Key] extends { readonly default: unknown }
      ? Asked
      : Asked | undefined
    : never;
};

/** Ties the words of an option to its type, and keeps both as narrow as they are. */
export function option<Given, Asked, Field, const Words extends OptionWords<Asked>>(
  type: OptionType<Given, Asked, Field>,
  words: Words,
): Words & { readonly type: OptionType<Given, Asked, Field> } {
  return { ...words, type };
}

/** blockSize → --block-size */
export function flagOf(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** The help of an option with what is taken where nothing is said. */
export function helpOf({ type, help, default: value, otherwise }: Table[string]): string {
  const said: unknown = otherwise ?? (value === undefined ? undefined : type.write(value));
  return said === undefined ? help : `${help} (default: ${String(said)})`;
}

/** "a, b or c" */
export function listed(names: readonly string[]): string {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}
