/** Text that cannot be read or has no room: who is at fault, and where. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { openDocuments } from "../../src/calibration/documents.js";
import { readPlainText } from "../../src/calibration/text.js";
import { unpackedBytes } from "../../src/calibration/unpacked-size.js";
import { CalibrationError, ResourceError } from "../../src/errors.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { mountSmallDisk, NO_DISK } from "../helpers/small-disk.js";

/** os.tmpdir() asks the environment every time. */
function setTemporary(t: TestContext, directory: string): void {
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = directory;
  t.after(() => {
    if (before === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = before;
  });
}

const isResource =
  (code: string, message: RegExp) =>
  (error: unknown): true => {
    assert.ok(error instanceof ResourceError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    assert.match(String(error.hint), /TMPDIR/);
    return true;
  };

const open = (file: string) =>
  openDocuments([file], {
    chatTemplate: () => {
      throw new Error("no conversations here");
    },
  });

function documents(t: TestContext): string {
  const file = join(temporaryDirectory(t), "docs.jsonl.gz");
  writeFileSync(file, gzipSync(`${JSON.stringify({ text: "a" })}\n`.repeat(1000)));
  return file;
}

test("a TMPDIR that is not there is named, with what would go there", async (t) => {
  const file = documents(t);
  setTemporary(t, "/nonexistent");
  await assert.rejects(open(file), isResource("E_TEMPORARY_DIRECTORY", /^\/nonexistent: .*docs\.jsonl\.gz/));
});

test("a TMPDIR without room is refused before anything is unpacked, of gzip in several parts too", async (t) => {
  const file = documents(t);
  const disk = mountSmallDisk(t, 8 << 20);
  if (disk === undefined) return t.skip(NO_DISK);
  setTemporary(t, disk);
  const long = join(temporaryDirectory(t), "long.jsonl.gz");
  const text = Buffer.alloc(9 << 20, 32);
  writeFileSync(long, gzipSync(text));
  await assert.rejects(open(long), isResource("E_DISK_FULL", /the unpacked text of .* needs \d+ bytes, but only/));
  writeFileSync(long, Buffer.concat([gzipSync(text), gzipSync("{}")])); // its end says 2
  await assert.rejects(open(long), isResource("E_DISK_FULL", /the unpacked text of .* needs \d+ bytes, but only/));
  await (await open(file))[Symbol.asyncDispose]();
});

test("links that lead in a loop are the text's mistake", (t) => {
  const link = join(temporaryDirectory(t), "loop.txt");
  symlinkSync(link, link);
  assert.throws(
    () => readPlainText(link),
    (error: unknown) => error instanceof CalibrationError && error.code === "E_FILE_LINKS",
  );
});

test("the length of unpacked text is counted, of gzip in several parts too", async (t) => {
  const file = join(temporaryDirectory(t), "texts.jsonl.gz");
  const [long, short] = [randomBytes(40_000).toString("hex"), "b"].map((text) => gzipSync(text));
  assert.ok(long && short);
  const cases: readonly (readonly [Uint8Array, number])[] = [
    [long, 80_000],
    [Buffer.concat([long, short]), 80_001],
    [Buffer.concat([short, long]), 80_001],
    [Buffer.concat([long, long, long]), 240_000],
  ];
  for (const [bytes, expected] of cases) {
    writeFileSync(file, bytes);
    assert.equal(await unpackedBytes(file, bytes.length), expected);
  }
  const torn = long.subarray(0, long.length - 9); // as much as it takes packed is known of it
  writeFileSync(file, torn);
  assert.ok((await unpackedBytes(file, torn.length)) >= torn.length);
});
