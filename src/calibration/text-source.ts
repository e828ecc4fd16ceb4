/** What a source of text gives: one text, or documents. Its files are found here, whatever they are. */
import { createHash } from "node:crypto";
import { basename, join, resolve } from "node:path";
import picomatch from "picomatch";
import type { TokenSource } from "../contract.js";
import { CalibrationError } from "../errors.js";
import { readdirSync } from "../files/text-files.js";
import { ChatTemplate } from "./chat-template.js";
import { checkRoomToUnpack, openDocuments, type Documents } from "./documents.js";
import { statusOf } from "./source-file.js";
import { kindOf } from "./source-kind.js";
import { readPlainText } from "./text.js";

export interface TextSourceOptions {
  /** Whose chat template conversations are written by. */
  readonly modelDirectory: string;
  /** The field of records that holds the text or the messages. */
  readonly textField?: string | undefined;
}

export type TextSource =
  | { readonly kind: "ids" }
  | {
      readonly kind: "text";
      readonly text: string;
      /** Of the files' bytes. */
      readonly sha256: string;
      /** Rows it was joined from, where it was. */
      readonly rows?: { readonly count: number; readonly empty: number };
    }
  | { readonly kind: "documents"; readonly documents: Documents };

/** What stands between rows of WikiText: the papers' code (SparseGPT, Wanda) calibrates on and evaluates different joins. */
const ROW_JOINS = { calibration: " ", evaluation: "\n\n" } as const;

/**
 * One plain file is a text; files of records, and several files of any kind, are documents. WikiText-2 by name is one text:
 * its rows, empty ones among them, joined.
 * @throws CalibrationError E_TEXT_MISSING and whatever the readers have against a file
 */
export async function openTextSource(
  source: TokenSource,
  use: keyof typeof ROW_JOINS,
  { modelDirectory, textField }: TextSourceOptions,
): Promise<TextSource> {
  const files = filesOf(source.file);
  const [only = ""] = files;
  const kind = files.length === 1 ? await kindOf(only) : undefined;
  if (kind === "ids") return { kind: "ids" };
  if (source.set === "wikitext2") return readRows(files, ROW_JOINS[use], textField);
  if (kind === "text") return { kind: "text", ...readPlainText(only) };
  let template: ChatTemplate | undefined;
  const chatTemplate = (): ChatTemplate => (template ??= ChatTemplate.load(modelDirectory));
  return { kind: "documents", documents: await openDocuments(files, { field: textField, chatTemplate }) };
}

/**
 * Whether the source's files are there, of a kind that is read, and can be unpacked.
 * @throws CalibrationError, ResourceError
 */
export async function examineSource({ file: place }: TokenSource): Promise<void> {
  for (const file of filesOf(place)) {
    await kindOf(file);
    await checkRoomToUnpack(file);
  }
}

async function readRows(files: readonly string[], join: string, field: string | undefined): Promise<TextSource> {
  const rows: string[] = [];
  const hashes: string[] = [];
  for (const file of files) {
    if ((await kindOf(file)) === "text") {
      const { text, sha256 } = readPlainText(file);
      for (const row of rowsOfLines(text)) rows.push(row); // too many for the arguments of one call
      hashes.push(sha256);
      continue;
    }
    await using documents = await openDocuments([file], { field, chatTemplate: refuseChats(file) });
    for (let row = 0; row < documents.count; row++) rows.push((await documents.read(row)).text);
    hashes.push(documents.sha256);
  }
  const sha256 = hashes.length === 1 ? String(hashes[0]) : createHash("sha256").update(hashes.join()).digest("hex");
  const empty = rows.filter((row) => row.trim() === "").length;
  return { kind: "text", text: rows.join(join), sha256, rows: { count: rows.length, empty } };
}

/** The rows that the data set has for lines of wiki.train.raw: each with its line end, blank ones empty. */
function rowsOfLines(text: string): string[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines.map((line) => (line.trim() === "" ? "" : `${line}\n`));
}

function refuseChats(file: string): () => never {
  return () => {
    throw new CalibrationError("E_TEXT_JSON", `${file}: holds conversations; WikiText-2 has rows of text.`, {
      details: { file },
    });
  };
}

/** Of a folder these are taken; where it has none, texts. */
const RECORD_FILES = /\.(?:parquet|jsonl|ndjson|json)(?:\.gz|\.zst)?$/i;
const TEXT_FILES = /\.(?:txt|md|raw)(?:\.gz|\.zst)?$/i;

/**
 * A file as it is; of a folder the files of records in it and below, or its texts, by name; else the files that a glob matches.
 * @throws CalibrationError E_TEXT_MISSING
 */
export function filesOf(place: string): string[] {
  const status = statusOf(place);
  if (status?.isDirectory() === true) {
    const all = filesBelow(place);
    const records = all.filter((file) => RECORD_FILES.test(file));
    return expectAny(records.length > 0 ? records : all.filter((file) => TEXT_FILES.test(file)), place);
  }
  if (status !== undefined || !/[*?[{]/.test(place)) return [place];
  const { base, glob } = picomatch.scan(place);
  if (statusOf(base)?.isDirectory() !== true) return [place];
  const isMatch = picomatch(glob);
  return expectAny(
    filesBelow(base).filter((file) => isMatch(file.slice(resolve(base).length + 1).replaceAll("\\", "/"))),
    place,
  );
}

function expectAny(files: readonly string[], place: string): string[] {
  if (files.length > 0) return [...files];
  throw new CalibrationError("E_TEXT_MISSING", `${place}: no files of text are there.`, {
    hint: "Of a folder .parquet, .jsonl, .ndjson and .json are taken, else .txt, .md and .raw; a glob takes what it matches.",
    details: { place },
  });
}

/** Regular files of a folder and those in it, hidden ones left out, by path. */
function filesBelow(directory: string): string[] {
  return readdirSync(directory)
    .filter((name) => !basename(name).startsWith("."))
    .sort()
    .flatMap((name): string[] => {
      const path = join(resolve(directory), name);
      const status = statusOf(path);
      if (status?.isDirectory() === true) return filesBelow(path);
      return status?.isFile() === true ? [path] : [];
    });
}
