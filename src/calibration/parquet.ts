/** Records of a Parquet file: a row group at a time by byte ranges, the columns that hold documents and no others. */
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { parquetMetadataAsync, parquetReadObjects, parquetSchema, type FileMetaData } from "hyparquet";
import { CalibrationError, PruneError } from "../errors.js";
import type { OpenFile } from "../files/door.js";
import { fieldMissing } from "./record-index.js";
import { USUAL_FIELDS } from "./records.js";
import { expectZstd, unpackZstdPage } from "./source-file.js";

/** What is held of a row group, unpacked. */
const LARGEST_GROUP_BYTES = 2 ** 30;

/** Pages are unpacked by Node; snappy is the reader's own. */
const UNPACKERS = {
  GZIP: (page: Uint8Array) => gunzipSync(page),
  BROTLI: (page: Uint8Array) => brotliDecompressSync(page),
  ZSTD: (page: Uint8Array) => unpackZstdPage(page),
};
const READABLE = ["UNCOMPRESSED", "SNAPPY", ...Object.keys(UNPACKERS)];

interface RangeFile {
  readonly byteLength: number;
  slice(start: number, end?: number): Promise<ArrayBuffer>;
}

export class ParquetRecords {
  /** Of the columns that are read, unpacked. */
  readonly unpackedBytes: number;
  readonly #file: RangeFile;
  readonly #metadata: FileMetaData;
  readonly #columns: string[];
  readonly #name: string;

  private constructor(
    file: RangeFile,
    metadata: FileMetaData,
    { columns, name }: { readonly columns: string[]; readonly name: string },
  ) {
    this.#file = file;
    this.#metadata = metadata;
    this.#columns = columns;
    this.#name = name;
    this.unpackedBytes = metadata.row_groups.reduce((sum, group) => sum + this.#groupBytes(group), 0);
  }

  /**
   * @param handle stays the caller's
   * @param field as `readRecord` takes it
   * @throws CalibrationError E_TEXT_PARQUET, E_TEXT_FIELD, E_TEXT_ZSTD
   */
  static async open(handle: OpenFile, name: string, field: string | undefined): Promise<ParquetRecords> {
    const { size } = await handle.stat();
    const file = {
      byteLength: size,
      slice: (start: number, end = size) => readRange(handle, start, end),
    };
    const metadata = await readable(name, () => parquetMetadataAsync(file));
    const names = parquetSchema(metadata).children.map(({ element }) => element.name);
    const wanted = field === undefined ? USUAL_FIELDS : [names.includes(field) ? field : (field.split(".")[0] ?? "")];
    const columns = wanted.filter((column) => names.includes(column));
    if (columns.length === 0) throw fieldMissing(name, field, names);
    const records = new ParquetRecords(file, metadata, { columns, name });
    records.#expectReadable();
    return records;
  }

  /** A line of JSON for every row: its columns that hold documents. */
  async *lines(): AsyncGenerator<string> {
    let rowStart = 0;
    for (const group of this.#metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const rows = await readable(this.#name, () =>
        parquetReadObjects({
          ...{ file: this.#file, metadata: this.#metadata, compressors: UNPACKERS },
          ...{ columns: this.#columns, rowStart, rowEnd },
        }),
      );
      for (const row of rows) yield JSON.stringify(row, plainNumbers);
      rowStart = rowEnd;
    }
  }

  #groupBytes(group: FileMetaData["row_groups"][number]): number {
    const chunks = group.columns.filter(({ meta_data }) => this.#columns.includes(meta_data?.path_in_schema[0] ?? ""));
    return chunks.reduce((sum, { meta_data }) => sum + Number(meta_data?.total_uncompressed_size ?? 0), 0);
  }

  #expectReadable(): void {
    this.#metadata.row_groups.forEach((group, index) => {
      const codecs = group.columns
        .filter(({ meta_data }) => this.#columns.includes(meta_data?.path_in_schema[0] ?? ""))
        .map(({ meta_data }) => String(meta_data?.codec));
      if (codecs.includes("ZSTD")) expectZstd(this.#name);
      const unknown = codecs.find((codec) => !READABLE.includes(codec));
      if (unknown !== undefined)
        throw parquetProblem(this.#name, `its columns are compressed with ${unknown}, which is not read`);
      const bytes = this.#groupBytes(group);
      if (bytes > LARGEST_GROUP_BYTES)
        throw parquetProblem(
          this.#name,
          `row group ${index} has ${bytes} bytes of text; at most ${LARGEST_GROUP_BYTES} are held`,
        );
    });
  }
}

/** Integers of 64 bits as numbers. */
function plainNumbers(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? Number(value) : value;
}

async function readRange(handle: OpenFile, start: number, end: number): Promise<ArrayBuffer> {
  const bytes = new Uint8Array(end - start);
  let done = 0;
  while (done < bytes.length) {
    const { bytesRead } = await handle.read(bytes, done, bytes.length - done, start + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.buffer;
}

/** What the reader of the format has against a file in the user's words. */
async function readable<Value>(name: string, work: () => Promise<Value>): Promise<Value> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof PruneError) throw cause;
    throw parquetProblem(name, cause instanceof Error ? cause.message : String(cause), cause);
  }
}

function parquetProblem(name: string, what: string, cause?: unknown): CalibrationError {
  return new CalibrationError("E_TEXT_PARQUET", `${name}: cannot be read as Parquet: ${what}.`, {
    hint: "The download may be incomplete: get it again. Else write its texts as JSON lines.",
    details: { file: name },
    ...(cause === undefined ? {} : { cause }),
  });
}
