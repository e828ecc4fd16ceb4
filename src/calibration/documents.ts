/**
 * Files of documents: JSON lines, a JSON array or Parquet, whose records were all checked once and are fetched one at a time, and
 * plain texts of which each is one document. A text keeps the line ends of its JSON string.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { CalibrationError, PruneError } from "../errors.js";
import type { OpenFile } from "../files/door.js";
import * as temporary from "../files/temporary-files.js";
import { open, readPieces } from "../files/text-files.js";
import type { ChatTemplate } from "./chat-template.js";
import { ParquetRecords } from "./parquet.js";
import { indexArray, indexLines, type RecordIndex, type RecordName } from "./record-index.js";
import { readRecord } from "./records.js";
import {
  compressionOf,
  createUnpacker,
  readSome,
  sizeOfFile,
  unpackingProblem,
  type Compression,
} from "./source-file.js";
import { kindOf, type SourceKind } from "./source-kind.js";
import { readPlainText } from "./text.js";
import { mostUnpacked, TOO_MUCH_UNPACKED, unpackedBytes } from "./unpacked-size.js";

export interface Document {
  readonly text: string;
  /** Written by the model's chat template, special tokens included. */
  readonly isChat: boolean;
}

export interface DocumentOptions {
  /** The field that holds the text or the messages, as `readRecord` takes it. */
  readonly field?: string | undefined;
  /** The model's template; asked for when the first conversation is read. */
  readonly chatTemplate: () => ChatTemplate;
}

/** Documents of one file, or of several one after the other. */
export interface Documents extends AsyncDisposable {
  readonly count: number;
  /** Of these, such of nothing but white space. */
  readonly empty: number;
  /** Records that were left out, without the field. */
  readonly withoutField: number;
  /** Of the files' bytes as given (compressed, if they are), one after the other. */
  readonly sha256: string;
  read(document: number): Promise<Document>;
}

/**
 * @param files in order
 * @throws CalibrationError naming the first record that is broken, or the file that holds no documents
 */
export async function openDocuments(files: readonly string[], options: DocumentOptions): Promise<Documents> {
  const opened: Documents[] = [];
  const close = async (): Promise<void> => {
    for (const each of opened) await each[Symbol.asyncDispose]();
  };
  try {
    for (const file of files) opened.push(await openFile(file, options));
  } catch (error) {
    await close();
    throw error;
  }
  const [only] = opened;
  if (only !== undefined && opened.length === 1) return only;
  const total = (key: "count" | "empty" | "withoutField"): number => opened.reduce((sum, each) => sum + each[key], 0);
  return {
    ...{ count: total("count"), empty: total("empty"), withoutField: total("withoutField") },
    sha256: createHash("sha256")
      .update(opened.map(({ sha256 }) => sha256).join())
      .digest("hex"),
    async read(document) {
      let rest = document;
      const holder = opened.find(({ count }) => rest < count || ((rest -= count), false));
      return (holder as Documents).read(rest);
    },
    [Symbol.asyncDispose]: close,
  };
}

async function openFile(file: string, options: DocumentOptions): Promise<Documents> {
  const kind = await kindOf(file);
  if (kind !== "text") return DocumentFile.open(file, kind, options);
  const { text, sha256 } = readPlainText(file);
  return {
    ...{ count: 1, empty: text.trim() === "" ? 1 : 0, withoutField: 0, sha256 },
    read: () => Promise.resolve({ text, isChat: false }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** A file of records; what is compressed is unpacked into a temporary file, because documents are drawn in random order. */
class DocumentFile implements Documents {
  readonly count: number;
  readonly empty: number;
  readonly withoutField: number;
  readonly sha256: string;
  readonly #handle: OpenFile;
  readonly #index: RecordIndex;
  readonly #nameOf: RecordName;
  readonly #options: DocumentOptions;
  readonly #scratch: string | undefined;

  private constructor(
    opened: { readonly handle: OpenFile; readonly sha256: string; readonly scratch: string | undefined },
    index: RecordIndex,
    nameOf: RecordName,
    options: DocumentOptions,
  ) {
    this.#handle = opened.handle;
    this.sha256 = opened.sha256;
    this.#scratch = opened.scratch;
    this.#index = index;
    this.#nameOf = nameOf;
    this.#options = options;
    this.count = index.starts.length;
    this.empty = index.empty;
    this.withoutField = index.withoutField;
  }

  /** @throws CalibrationError naming the first record that is broken; E_TEXT_FIELD, E_TEXT_EMPTY where there are no documents */
  static async open(file: string, kind: SourceKind, options: DocumentOptions): Promise<DocumentFile> {
    const size = sizeOfFile(file);
    const purpose = `the unpacked text of ${file}`;
    const compression = compressionOf(file, await readSome(file, 64));
    const isUnpacked = compression !== undefined || kind === "parquet";
    const scratch = isUnpacked ? await temporary.makeTemporaryDirectory("documents", purpose) : undefined;
    try {
      const plain = scratch === undefined ? file : join(scratch, "documents.jsonl");
      if (kind === "parquet") await writeRecords(file, plain, options.field);
      else if (compression !== undefined) {
        await checkRoomToUnpack(file);
        await unpack(compression, file, plain, size);
      }
      const nameOf = recordNames(file, kind);
      const index = await (kind === "array" ? indexArray : indexLines)(plain, options.field, nameOf);
      if (index.starts.length === 0) throw noDocuments(file);
      const opened = { handle: await open(plain), sha256: await hashFile(file), scratch };
      return new DocumentFile(opened, index, nameOf, options);
    } catch (error) {
      if (scratch === undefined) throw error;
      await temporary.rm(scratch, { recursive: true, force: true });
      throw temporary.inTemporaryDirectory(error, scratch, purpose);
    }
  }

  async read(document: number): Promise<Document> {
    const { starts, lengths, numbers } = this.#index;
    const record = Buffer.alloc(lengths[document] ?? 0);
    await this.#handle.read(record, 0, record.length, starts[document] ?? 0);
    const where = this.#nameOf(numbers[document] ?? 0);
    const content = readRecord(record.toString("utf8"), this.#options.field, where);
    if (content.kind === "chat")
      return { text: this.#options.chatTemplate().render(content.messages, where), isChat: true };
    return { text: content.kind === "text" ? content.text : "", isChat: false };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
    if (this.#scratch !== undefined) await temporary.rm(this.#scratch, { recursive: true, force: true });
  }
}

function noDocuments(file: string): CalibrationError {
  return new CalibrationError("E_TEXT_EMPTY", `${file}: holds no documents.`, { details: { file } });
}

/** FILE:LINE of lines, else which record of the file. */
function recordNames(file: string, kind: SourceKind): RecordName {
  const separator = kind === "lines" ? ":" : kind === "parquet" ? ": row " : ": record ";
  return (record) => (record === 0 ? file : `${file}${separator}${record}`);
}

/**
 * Whether there is room to unpack what a file holds. Of zstd it is only known that it takes more than it does packed.
 * @throws ResourceError E_DISK_FULL, E_TEMPORARY_DIRECTORY
 */
export async function checkRoomToUnpack(file: string): Promise<void> {
  const sizeBytes = sizeOfFile(file);
  const compression = compressionOf(file, await readSome(file, 64));
  if (compression === undefined) return;
  const neededBytes = compression === "gzip" ? await unpackedBytes(file, sizeBytes) : sizeBytes;
  await temporary.requireTemporaryRoom(neededBytes, `the unpacked text of ${file}`);
}

async function unpack(compression: Compression, file: string, target: string, size: number): Promise<void> {
  const unpacker = createUnpacker(compression, file);
  const limitBytes = mostUnpacked(size);
  const unpacked = await temporary.open(target, "w");
  let length = 0;
  try {
    await pipeline(readPieces(file), unpacker, async (pieces: AsyncIterable<Buffer>) => {
      for await (const piece of pieces) {
        length += piece.length;
        if (length > limitBytes) throw new Error(TOO_MUCH_UNPACKED);
        await unpacked.writeFile(piece);
      }
    });
  } catch (cause) {
    throw cause instanceof PruneError ? cause : unpackingProblem(compression, file, cause);
  } finally {
    await unpacked.close();
  }
}

/** How much of what is written is gathered first. */
const WRITTEN_BYTES = 1 << 20;

/** The records of a Parquet file as lines, a row group in memory at a time. */
async function writeRecords(file: string, target: string, field: string | undefined): Promise<void> {
  const handle = await open(file);
  try {
    const records = await ParquetRecords.open(handle, file, field);
    await temporary.requireTemporaryRoom(records.unpackedBytes, `the unpacked text of ${file}`);
    const written = await temporary.open(target, "w");
    try {
      let lines: string[] = [];
      let length = 0;
      for await (const line of records.lines()) {
        lines.push(line, "\n");
        length += line.length;
        if (length < WRITTEN_BYTES) continue;
        await written.writeFile(lines.join(""));
        [lines, length] = [[], 0];
      }
      await written.writeFile(lines.join(""));
    } finally {
      await written.close();
    }
  } finally {
    await handle.close();
  }
}

async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of readPieces(file)) hash.update(piece);
  return hash.digest("hex");
}
