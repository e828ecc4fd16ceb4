/** What a record of a file of documents holds: a text, a conversation, or neither. */
import { CalibrationError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";

/** A turn of a conversation, as chat templates take it. */
export type Message = Readonly<Record<string, unknown>>;

export type RecordContent =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "chat"; readonly messages: readonly Message[] }
  /** None of the fields looked for, or null; `fields` are those it has. */
  | { readonly kind: "absent"; readonly fields: readonly string[] };

/** Where nothing is said, the first of these that a record has. */
export const USUAL_FIELDS = ["text", "messages"] as const;

/**
 * The field that was asked for, by its own name or as a path ("data.text"); else "text" or "messages". A string is a text, a list
 * of objects a conversation; a record that is itself a string is a text.
 * @param where of the record, in messages
 * @throws CalibrationError E_TEXT_JSON for what is neither record nor text, or holds something else under the field; E_TEXT_ENCODING
 */
export function readRecord(json: string, field: string | undefined, where: string): RecordContent {
  let record: unknown;
  try {
    record = parseJson(json);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw problem(where, `not valid JSON: ${reason}`, cause);
  }
  if (typeof record === "string") return checked({ kind: "text", text: record }, json, where, "it");
  if (!isRecord(record)) throw problem(where, "is not a JSON object");
  for (const name of field === undefined ? USUAL_FIELDS : [field]) {
    const value = valueOf(record, name);
    if (value === undefined || value === null) continue;
    if (typeof value === "string") return checked({ kind: "text", text: value }, json, where, `"${name}"`);
    if (Array.isArray(value) && value.every(isRecord))
      return checked({ kind: "chat", messages: value }, json, where, `"${name}"`);
    throw problem(where, `"${name}" is neither a text nor a list of messages`);
  }
  return { kind: "absent", fields: Object.keys(record) };
}

function valueOf(record: Readonly<Record<string, unknown>>, name: string): unknown {
  if (Object.hasOwn(record, name)) return record[name];
  let value: unknown = record;
  for (const part of name.split(".")) value = isRecord(value) && Object.hasOwn(value, part) ? value[part] : undefined;
  return value;
}

function checked<Content extends RecordContent>(content: Content, json: string, where: string, name: string): Content {
  if (!json.includes("\\u")) return content; // what was decoded from UTF-8 has no halves
  const texts = content.kind === "text" ? [content.text] : [JSON.stringify(content)];
  const isHalf = content.kind === "text" ? /\p{Surrogate}/u.test(texts[0]) : /\\ud[89a-f][0-9a-f]{2}/i.test(texts[0]); // stringify escapes halves only
  if (!isHalf) return content;
  throw new CalibrationError("E_TEXT_ENCODING", `${where}: ${name} holds half of a surrogate pair.`, {
    hint: "Such a text has no UTF-8 form, and no token ids: repair or remove it.",
    details: { where },
  });
}

function problem(where: string, what: string, cause?: unknown): CalibrationError {
  return new CalibrationError("E_TEXT_JSON", `${where}: ${what}.`, {
    hint: `A record is a JSON object with a string "text" or a list "messages"; --text-field names another one.`,
    details: { where },
    ...(cause === undefined ? {} : { cause }),
  });
}
