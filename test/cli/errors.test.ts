import assert from "node:assert/strict";
import { test } from "node:test";
import { errorDocument, errorText } from "../../src/cli/failure.js";
import * as errors from "../../src/errors.js";
import { ERROR_DOCUMENT, parseDocument } from "../helpers/documents.js";
import { runPrune } from "../helpers/cli.js";

const { EXIT_CODES, exitCodeOf } = errors;

/** Every row of the table of exit codes, by the error that leads there. */
const TABLE: readonly [keyof typeof EXIT_CODES, number, unknown][] = [
  ["internal", 1, new Error("unexpected")],
  ["internal", 1, new errors.InternalError("E_X", "broken invariant")],
  ["internal", 1, "thrown text"],
  ["usage", 2, new errors.UsageError("E_X", "bad flag")],
  ["usage", 2, new errors.ConfigError("E_X", "bad configuration")],
  ["gate", 3, new errors.GateError("E_X", "limit not kept")],
  ["input", 4, new errors.CheckpointError("E_X", "corrupt")],
  ["input", 4, new errors.CalibrationError("E_X", "short")],
  ["input", 4, new errors.NumericalError("E_X", "pivot")],
  ["resources", 5, new errors.DeviceError("E_X", "no adapter")],
  ["resources", 5, new errors.ResourceError("E_X", "disk full")],
  ["network", 6, new errors.NetworkError("E_X", "no such host")],
  [
    "interruptedResumable",
    75,
    new errors.InterruptedError("E_X", "stopped", { details: { resumable: true, signal: "SIGTERM" } }),
  ],
  ["sigint", 130, new errors.InterruptedError("E_X", "stopped", { details: { resumable: false, signal: "SIGINT" } })],
  ["sigterm", 143, new errors.InterruptedError("E_X", "stopped", { details: { resumable: false, signal: "SIGTERM" } })],
];

for (const [name, code, error] of TABLE) {
  test(`${error instanceof Error ? error.name : typeof error} ends with ${code} (${name}), also after crossing threads`, () => {
    assert.equal(EXIT_CODES[name], code);
    assert.equal(exitCodeOf(error), code);
    const crossed = structuredClone(errors.serializeError(error));
    assert.equal(exitCodeOf(errors.deserializeError(crossed)), code);
  });
}

test("the table of exit codes is complete, and no error leads to success", () => {
  const covered = new Set<string>(TABLE.map(([name]) => name));
  assert.deepEqual(
    Object.keys(EXIT_CODES).filter((name) => !covered.has(name)),
    ["success"],
  );
  assert.equal(EXIT_CODES.success, 0);
});

test("an error is one line, its hint another, and the stack only with -v", () => {
  const error = new errors.CalibrationError("E_X", "a.txt: 3 tokens; one window needs 8.", {
    hint: "Use a longer text.",
  });
  assert.equal(errorText(error, false), "error: a.txt: 3 tokens; one window needs 8.\nhint: Use a longer text.\n");
  assert.match(errorText(error, true), /^error: .*\nhint: .*\n.*\n\s+at /);
});

test("an internal error asks for a report", () => {
  assert.match(
    errorText(new TypeError("x is undefined"), false),
    /^error: x is undefined\nhint: This is a defect of prune\. Please report it/,
  );
});

test("the error document has the fields of its schema", () => {
  const document = errorDocument(new errors.UsageError("E_X", "bad", { details: { value: 70 } }));
  assert.deepEqual(document, {
    schema: "prune.error/v1",
    code: "E_X",
    message: "bad",
    hint: null,
    details: { value: 70 },
  });
});

test("with --json a failure puts its document on stdout and its words on stderr", async () => {
  for (const [args, code] of [
    [["--sparsity", "70"], "E_SPARSITY"],
    [["--nonsense"], "E_USAGE"],
    [["inspect", "absent-directory"], "E_MODEL_MISSING"],
    [["eval", "absent-directory", "--text", "t.txt"], "E_MODEL_MISSING"],
  ] as const) {
    const finished = await runPrune([...args, "--json"]);
    const document = parseDocument(ERROR_DOCUMENT, finished.stdout);
    assert.equal(document.code, code);
    assert.ok(finished.stderr.startsWith(`error: ${document.message}`), finished.stderr);
    assert.equal(finished.code, code === "E_MODEL_MISSING" ? 4 : 2);
  }
});
