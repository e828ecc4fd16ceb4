import assert from "node:assert/strict";
import { test } from "node:test";
import type { EngineEvent } from "../../src/contract.js";
import { runInEngine } from "../../src/driver/engine.js";
import { createStopBuffer, requestStop } from "../../src/driver/engine-protocol.js";
import { CheckpointError, InternalError, InterruptedError } from "../../src/errors.js";
import { createMemoryLogger } from "../../src/logging.js";

const workerUrl = new URL("../helpers/fake-engine.js", import.meta.url);

function start(act: string, onEvent: (event: EngineEvent) => void = () => undefined, stopBuffer = createStopBuffer()) {
  const logger = createMemoryLogger();
  const report = runInEngine(
    { module: "", name: "" },
    { act },
    {
      logger,
      onEvent,
      stopBuffer,
      workerUrl,
    },
  );
  return { logger, report };
}

test("log lines, events and the report of the engine's thread arrive; its stdout does not reach ours", async () => {
  const events: EngineEvent[] = [];
  const { logger, report } = start("work", (event) => events.push(event));
  assert.deepEqual(await report, { done: true });
  assert.deepEqual(logger.lines, [{ level: "warn", message: "careful", fields: { tensor: "q_proj" } }]);
  assert.deepEqual(events, [{ type: "windows", done: 1, total: 2, fraction: 0.5 }]);
});

test("an error of the engine arrives with its class, code, hint and details", async () => {
  await assert.rejects(start("refuse").report, (error: unknown) => {
    assert.ok(error instanceof CheckpointError);
    assert.deepEqual(
      [error.code, error.message, error.hint, error.details],
      ["E_X", "a.safetensors: broken.", "Mend it.", { byte: 8 }],
    );
    return true;
  });
});

test("a crash of the engine's thread, or its silent end, is an internal error", async () => {
  await assert.rejects(
    start("crash").report,
    (error: unknown) => error instanceof InternalError && /undefined is not a matrix/.test(error.message),
  );
  await assert.rejects(
    start("vanish").report,
    (error: unknown) => error instanceof InternalError && /code 3 and no result/.test(error.message),
  );
});

test("a thread that stays alive after its result does not hold the result back", async () => {
  assert.deepEqual(await start("linger").report, { done: true });
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  test(`the engine hears ${signal} through shared memory`, async () => {
    const stopBuffer = createStopBuffer();
    const { report } = start("until-stopped", () => requestStop(stopBuffer, signal), stopBuffer);
    await assert.rejects(
      report,
      (error: unknown) => error instanceof InterruptedError && error.details["signal"] === signal,
    );
  });
}
