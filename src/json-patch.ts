/** Changing values inside a JSON text and leaving every other byte of it: order, spacing, how numbers are written. */

export interface JsonPatch {
  /** Keys from the outermost object inwards. */
  readonly path: readonly string[];
  readonly value: unknown;
}

interface Member {
  readonly key: string;
  readonly start: number;
  readonly end: number;
}

/** Whitespace, and commas between members. */
const BETWEEN = /[\s,]*/y;
/** A string, or what is no bracket and no separator: numbers and words, also Python's. */
const SCALAR = /"(?:[^"\\]|\\.)*"|[^\s,\]}]+/y;

function skip(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}

/** The end of the value that begins at `at`. The text has been parsed before, so it is JSON. */
function endOfValue(text: string, at: number): number {
  if (text[at] !== "{" && text[at] !== "[") return skip(SCALAR, text, at);
  let depth = 0;
  for (let end = at; end < text.length;) {
    const character = text[end] as string;
    if (character === '"') {
      end = skip(SCALAR, text, end);
      continue;
    }
    if (character === "{" || character === "[") depth++;
    if (character === "}" || character === "]") depth--;
    end++;
    if (depth === 0) return end;
  }
  return text.length;
}

/** The members of the object that begins at `at`. */
function membersOf(text: string, at: number): Member[] {
  const members: Member[] = [];
  for (let position = skip(BETWEEN, text, at + 1); text[position] === '"';) {
    const keyEnd = skip(SCALAR, text, position);
    const key = JSON.parse(text.slice(position, keyEnd)) as string;
    const start = skip(BETWEEN, text, skip(BETWEEN, text, keyEnd) + 1); // behind the colon
    const end = endOfValue(text, start);
    members.push({ key, start, end });
    position = skip(BETWEEN, text, end);
  }
  return members;
}

/**
 * The text with one value replaced, or added at the end of its object. Objects on the way must be there.
 * @throws RangeError where one is not
 */
export function patchJson(text: string, { path, value }: JsonPatch): string {
  let at = text.indexOf("{");
  for (const [depth, key] of path.entries()) {
    const members = membersOf(text, at);
    const found = members.findLast((member) => member.key === key);
    if (depth < path.length - 1) {
      if (found === undefined || text[found.start] !== "{") throw new RangeError(`no object ${key} in the JSON text`);
      at = found.start;
    } else if (found !== undefined) {
      return text.slice(0, found.start) + JSON.stringify(value) + text.slice(found.end);
    } else {
      return withMember(text, at, members, `${JSON.stringify(key)}: ${JSON.stringify(value)}`);
    }
  }
  throw new RangeError("no path into the JSON text");
}

function withMember(text: string, object: number, members: readonly Member[], member: string): string {
  const last = members.at(-1);
  if (last === undefined) return `${text.slice(0, object + 1)}${member}${text.slice(object + 1)}`;
  const indent = /\n[ \t]*$/.exec(text.slice(0, text.lastIndexOf(JSON.stringify(last.key), last.start)))?.[0] ?? " ";
  return `${text.slice(0, last.end)},${indent}${member}${text.slice(last.end)}`;
}
