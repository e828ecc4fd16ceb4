/** Text that cannot be read or has no room: who is at fault, and where. */
import assert from "node:assert/strict";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { openDocuments } from "../../src/calibration/documents.js";
import { readPlainText } from "../../src/calibration/text.js";
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

test("a TMPDIR without room is refused before anything is unpacked, or when it turns out to have none", async (t) => {
  const file = documents(t);
  const disk = mountSmallDisk(t, 8 << 20);
  if (disk === undefined) return t.skip(NO_DISK);
  setTemporary(t, disk);
  const long = join(temporaryDirectory(t), "long.jsonl.gz");
  const text = Buffer.alloc(9 << 20, 32);
  writeFileSync(long, gzipSync(text));
  await assert.rejects(open(long), isResource("E_DISK_FULL", /the unpacked text of .* needs \d+ bytes, but only/));
  writeFileSync(long, Buffer.concat([gzipSync(text), gzipSync("{}")])); // its end says 2
  await assert.rejects(open(long), isResource("E_DISK_FULL", /documents\.jsonl: no space is left/));
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
