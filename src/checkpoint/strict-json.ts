/**
 * A JSON parser for hostile input, used for safetensors headers and shard indexes.
 *
 * JSON.parse keeps the last of two equal keys and turns 1.0 and 1e3 into integers; loaders disagree about such files,
 * so here duplicate keys are refused, integers are told apart from other numbers, strings must be well-formed Unicode,
 * and nesting is capped. Objects come back as Maps, so a key such as "__proto__" is only a key. Pure; no recovery.
 */

/** A number that is not a plain integer in the safe range, kept as written. */
export interface OtherNumber {
  readonly literal: string;
}

export type StrictJson =
  | string
  | boolean
  | null
  | /** always a safe integer */ number
  | OtherNumber
  | readonly StrictJson[]
  | ReadonlyMap<string, StrictJson>;

/** Headers nest three levels deep (file, tensor, shape); deeper input is not a header. */
export const NESTING_CAP = 16;

/** What is wrong and where; callers wrap it into an error that names the file. */
export class StrictJsonError extends Error {
  /** Set when a key occurs twice. */
  readonly duplicateKey: string | undefined;

  constructor(message: string, duplicateKey?: string) {
    super(message);
    this.name = "StrictJsonError";
    this.duplicateKey = duplicateKey;
  }
}

/** Decode UTF-8 strictly and parse one JSON document; only white space may follow it. */
export function parseStrictJson(bytes: Uint8Array): StrictJson {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    if (cause instanceof TypeError) throw new StrictJsonError("not valid UTF-8");
    throw cause;
  }
  const cursor: Cursor = { text, position: 0 };
  const value = parseValue(cursor, 0);
  skipSpace(cursor);
  if (cursor.position < text.length) throw unexpected(cursor, "the end of the document");
  return value;
}

export function isJsonObject(value: StrictJson | undefined): value is ReadonlyMap<string, StrictJson> {
  return value instanceof Map;
}

/** A quoted, escaped and shortened form of a name from a file, safe to print on a terminal. */
export function quoteName(name: string): string {
  const LONGEST = 160;
  const shown = name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name;
  // Control and format characters (escape sequences, direction overrides) would act on the terminal.
  return JSON.stringify(shown).replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

interface Cursor {
  readonly text: string;
  position: number;
}

/** The longest number token that is looked at; far more digits than any double needs. */
const NUMBER_LENGTH_CAP = 400;

// Plain loops rather than regular expressions: those overflow their backtracking stack on tokens of many megabytes.

function skipSpace(cursor: Cursor): void {
  const { text } = cursor;
  for (;;) {
    const code = text.charCodeAt(cursor.position);
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
    cursor.position++;
  }
}

function unexpected(cursor: Cursor, expected: string): StrictJsonError {
  const { text, position } = cursor;
  const found = position < text.length ? quoteName(text.slice(position, position + 12)) : "the end of the text";
  return new StrictJsonError(`not valid JSON: expected ${expected} at character ${position}, found ${found}`);
}

function takeCharacter(cursor: Cursor, character: string): boolean {
  skipSpace(cursor);
  if (cursor.text[cursor.position] !== character) return false;
  cursor.position++;
  return true;
}

function parseValue(cursor: Cursor, depth: number): StrictJson {
  if (depth > NESTING_CAP) throw new StrictJsonError(`nested deeper than ${NESTING_CAP} levels`);
  skipSpace(cursor);
  switch (cursor.text[cursor.position]) {
    case "{":
      return parseObject(cursor, depth);
    case "[":
      return parseArray(cursor, depth);
    case '"':
      return parseString(cursor);
    default:
      return parseLiteral(cursor);
  }
}

function parseObject(cursor: Cursor, depth: number): ReadonlyMap<string, StrictJson> {
  cursor.position++;
  const entries = new Map<string, StrictJson>();
  if (takeCharacter(cursor, "}")) return entries;
  do {
    skipSpace(cursor);
    const key = parseString(cursor);
    if (entries.has(key)) throw new StrictJsonError(`key ${quoteName(key)} occurs twice`, key);
    if (!takeCharacter(cursor, ":")) throw unexpected(cursor, `":"`);
    entries.set(key, parseValue(cursor, depth + 1));
  } while (takeCharacter(cursor, ","));
  if (!takeCharacter(cursor, "}")) throw unexpected(cursor, `"," or "}"`);
  return entries;
}

function parseArray(cursor: Cursor, depth: number): readonly StrictJson[] {
  cursor.position++;
  const items: StrictJson[] = [];
  if (takeCharacter(cursor, "]")) return items;
  do items.push(parseValue(cursor, depth + 1));
  while (takeCharacter(cursor, ","));
  if (!takeCharacter(cursor, "]")) throw unexpected(cursor, `"," or "]"`);
  return items;
}

function parseString(cursor: Cursor): string {
  const { text, position } = cursor;
  if (text[position] !== '"') throw unexpected(cursor, "a string");
  const end = closingQuote(text, position + 1);
  if (end === -1) throw unexpected(cursor, "a string that ends");
  cursor.position = end + 1;
  const content = text.slice(position + 1, end);
  if (/[\u0000-\u001f]/.test(content))
    throw new StrictJsonError(`string ${quoteName(content)} holds a control character`);
  if (!content.includes("\\")) return content;
  let value: string;
  try {
    value = JSON.parse(`"${content}"`) as string; // cannot be anything else between quotes
  } catch (cause) {
    if (cause instanceof SyntaxError) throw new StrictJsonError(`string ${quoteName(content)} holds an unknown escape`);
    throw cause;
  }
  if (/\p{Surrogate}/u.test(value))
    throw new StrictJsonError(`string ${quoteName(value)} holds half of a surrogate pair`);
  return value;
}

/** The first quote from `from` on with an even number of backslashes before it, or -1. */
function closingQuote(text: string, from: number): number {
  for (let end = text.indexOf('"', from); end !== -1; end = text.indexOf('"', end + 1)) {
    let firstBackslash = end;
    while (firstBackslash > from && text.charCodeAt(firstBackslash - 1) === 0x5c) firstBackslash--;
    if ((end - firstBackslash) % 2 === 0) return end;
  }
  return -1;
}

function parseLiteral(cursor: Cursor): StrictJson {
  const { text, position } = cursor;
  for (const [word, value] of LITERALS) {
    if (text.startsWith(word, position)) {
      cursor.position += word.length;
      return value;
    }
  }
  let end = position;
  while (end < text.length && end - position < NUMBER_LENGTH_CAP && NUMBER_CHARACTERS.includes(text.charAt(end))) end++;
  const literal = text.slice(position, end);
  if (!/^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/.test(literal)) throw unexpected(cursor, "a value");
  cursor.position = end;
  const number = Number(literal);
  const isPlainInteger = /^-?[0-9]+$/.test(literal) && Number.isSafeInteger(number) && !Object.is(number, -0);
  return isPlainInteger ? number : { literal };
}

const NUMBER_CHARACTERS = "0123456789+-.eE";
const LITERALS = [
  ["true", true],
  ["false", false],
  ["null", null],
] as const;
