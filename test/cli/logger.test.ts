import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createLogger } from "../../src/cli/logger.js";
import { UsageError } from "../../src/errors.js";

test("JSON lines carry level, time, message and fields, at once and one per call", async () => {
  const written: string[] = [];
  const { logger } = await createLogger({ level: "info", format: "json", write: (text) => void written.push(text) });
  logger.debug("hidden");
  logger.info("block 1/2", { block: 1 });
  logger.warn("careful");
  assert.equal(written.length, 2);
  const [first, second] = written.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual({ ...first, time: "" }, { level: "info", time: "", block: 1, msg: "block 1/2" });
  assert.ok(!Number.isNaN(Date.parse(String(first?.["time"]))));
  assert.equal(second?.["level"], "warn");
});

test("lines for people are one line each, with the level and in words alone", async () => {
  const written: string[] = [];
  const { logger } = await createLogger({ level: "warn", format: "pretty", write: (text) => void written.push(text) });
  logger.info("hidden");
  logger.error("no adapter", { device: "webgpu" });
  assert.equal(written.length, 1);
  assert.match(written[0] ?? "", /ERROR.*no adapter\S*\n$/);
});

test("the log file gets every line as JSON, whatever the terminal shows", async (context) => {
  const folder = mkdtempSync(join(tmpdir(), "prune-log-"));
  context.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "run.log");
  const written: string[] = [];
  const { logger, file: own } = await createLogger({
    ...{ level: "info", format: "pretty", file },
    write: (text) => void written.push(text),
  });
  logger.debug("a tensor", { name: "q_proj" });
  logger.warn("careful");
  own?.info("to the file alone");
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { level: string });
  assert.deepEqual(
    lines.map(({ level }) => level),
    ["debug", "warn", "info"],
  );
  assert.equal(written.length, 1, "neither what is finer than its level nor what is for the file");
});

test("a log file that cannot be opened is a usage error", async () => {
  await assert.rejects(
    createLogger({
      level: "info",
      format: "json",
      file: join(tmpdir(), "no", "such", "folder", "x.log"),
      write: () => undefined,
    }),
    (error: unknown) => error instanceof UsageError && error.code === "E_LOG_FILE",
  );
});
