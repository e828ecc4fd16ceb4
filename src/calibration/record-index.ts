/** Where the records of a file lie: lines of JSON, or the elements of one JSON array. Nothing is held but their places. */
import { CalibrationError } from "../errors.js";
import { readPieces } from "../files/text-files.js";
import { readRecord, USUAL_FIELDS } from "./records.js";
import { badEncoding, decodeStrictly } from "./text.js";

/** Byte offset and length of every record that holds a document, and how many there were beside. */
export interface RecordIndex {
  readonly starts: number[];
  readonly lengths: number[];
  /** Which record of the file each is, from 1; of lines the line. */
  readonly numbers: number[];
  /** Documents of nothing but white space; they are among the others. */
  empty: number;
  /** Records without the field; these are left out. */
  withoutField: number;
}

/** How a file's records are named in messages. */
export type RecordName = (record: number) => string;

/** No document that windows are drawn from is longer; a file without line ends would be held whole. */
const LARGEST_DOCUMENT_BYTES = 32 * 1024 * 1024;

/**
 * Check every line and remember where it lies; blank lines are skipped.
 * @param plain the file as it is or unpacked
 * @throws CalibrationError naming the first record that is broken; E_TEXT_FIELD where none has the field
 */
export async function indexLines(plain: string, field: string | undefined, nameOf: RecordName): Promise<RecordIndex> {
  const taking = new Taking(field, nameOf);
  let lineNumber = 0;
  let offset = 0;
  const takeLine = (line: Buffer): void => {
    lineNumber += 1;
    taking.take(line, offset, lineNumber);
    offset += line.length + 1;
  };
  let rest: Buffer[] = [];
  for await (const chunk of readPieces(plain)) {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      takeLine(Buffer.concat([...rest, chunk.subarray(start, end)]));
      rest = [];
      start = end + 1;
    }
    if (start < chunk.length) rest.push(chunk.subarray(start));
    expectShort(lengthOf(rest), nameOf(lineNumber + 1));
  }
  if (rest.length > 0) takeLine(Buffer.concat(rest));
  return taking.finish();
}

const [TAB, LF, CR, SPACE, QUOTE, BACKSLASH, COMMA] = [0x09, 0x0a, 0x0d, 0x20, 0x22, 0x5c, 0x2c];
const OPENING = [0x5b, 0x7b];
const CLOSING = [0x5d, 0x7d];
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];

/** The same of the elements of a JSON array. @throws as `indexLines` */
export async function indexArray(plain: string, field: string | undefined, nameOf: RecordName): Promise<RecordIndex> {
  const taking = new Taking(field, nameOf);
  let [offset, depth, count, start] = [0, 0, 0, 0];
  let [inString, isEscaped, isBehindComma, isClosed] = [false, false, false, false];
  let kept: Buffer[] = []; // of the element that is being read
  const broken = (what: string): CalibrationError =>
    new CalibrationError("E_TEXT_JSON", `${nameOf(count + 1)}: ${what}.`, {
      hint: "The file begins as a JSON array of records. The download may be incomplete: get it again.",
      details: { record: count + 1 },
    });
  const takeElement = (last: Buffer): void => {
    const element = Buffer.concat([...kept, last]);
    kept = [];
    const isBlank = decodeStrictly(element)?.trim() === "";
    if (isBlank && !isBehindComma && count === 0) return; // [ ]
    if (isBlank) throw broken("an element is missing");
    count += 1;
    taking.take(element, start, count);
  };
  for await (const chunk of readPieces(plain)) {
    let begin = 0; // of the element, in this chunk
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i];
      if (inString) {
        if (isEscaped) isEscaped = false;
        else if (byte === BACKSLASH) isEscaped = true;
        else if (byte === QUOTE) inString = false;
      } else if (byte === QUOTE && depth > 0) inString = true;
      else if (OPENING.includes(byte)) {
        if (isClosed) throw broken("something follows the array");
        depth += 1;
        if (depth === 1) [begin, start] = [i + 1, offset + i + 1];
      } else if (CLOSING.includes(byte)) {
        depth -= 1;
        if (depth === 0) {
          takeElement(chunk.subarray(begin, i));
          isClosed = true;
        }
      } else if (byte === COMMA && depth === 1) {
        takeElement(chunk.subarray(begin, i));
        isBehindComma = true;
        [begin, start] = [i + 1, offset + i + 1];
      } else if (depth === 0 && ![TAB, LF, CR, SPACE, ...BYTE_ORDER_MARK].includes(byte))
        throw broken("something stands outside the array");
    }
    if (depth > 0) kept.push(Buffer.from(chunk.subarray(begin)));
    expectShort(lengthOf(kept), nameOf(count + 1));
    offset += chunk.length;
  }
  if (depth > 0 || inString) throw broken("the file ends within it");
  return taking.finish();
}

/** What indexing has found so far. */
class Taking {
  readonly #field: string | undefined;
  readonly #nameOf: RecordName;
  readonly #index: RecordIndex = { starts: [], lengths: [], numbers: [], empty: 0, withoutField: 0 };
  #otherFields: readonly string[] = [];

  constructor(field: string | undefined, nameOf: RecordName) {
    this.#field = field;
    this.#nameOf = nameOf;
  }

  take(bytes: Buffer, start: number, number: number): void {
    const where = this.#nameOf(number);
    expectShort(bytes.length, where);
    const json = decodeStrictly(bytes);
    if (json === undefined) throw badEncoding(where, bytes);
    if (json.trim() === "") return;
    const content = readRecord(json, this.#field, where);
    if (content.kind === "absent") {
      this.#index.withoutField += 1;
      if (this.#otherFields.length === 0) this.#otherFields = content.fields;
      return;
    }
    if (content.kind === "text" ? content.text.trim() === "" : content.messages.length === 0) this.#index.empty += 1;
    this.#index.starts.push(start);
    this.#index.lengths.push(bytes.length);
    this.#index.numbers.push(number);
  }

  /** @throws CalibrationError E_TEXT_FIELD */
  finish(): RecordIndex {
    const { starts, withoutField } = this.#index;
    if (starts.length === 0 && withoutField > 0) throw fieldMissing(this.#nameOf(0), this.#field, this.#otherFields);
    return this.#index;
  }
}

/** No record of a file has the field. */
export function fieldMissing(file: string, field: string | undefined, fields: readonly string[]): CalibrationError {
  const wanted = (field === undefined ? USUAL_FIELDS : [field]).map((name) => `"${name}"`).join(" or ");
  const there = fields.map((name) => `"${name}"`).join(", ");
  return new CalibrationError("E_TEXT_FIELD", `${file}: no record has ${wanted}; they have ${there || "no fields"}.`, {
    hint: "Name the field that holds the text with --text-field; data.text is text in data.",
    details: { file, field: field ?? null, fields },
  });
}

function lengthOf(pieces: readonly Buffer[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}

function expectShort(length: number, where: string): void {
  if (length <= LARGEST_DOCUMENT_BYTES) return;
  throw new CalibrationError(
    "E_TEXT_TOO_LONG",
    `${where}: over ${LARGEST_DOCUMENT_BYTES} bytes in a record; a document may have no more.`,
    { hint: "Cut it into several documents.", details: { where, limitBytes: LARGEST_DOCUMENT_BYTES } },
  );
}
