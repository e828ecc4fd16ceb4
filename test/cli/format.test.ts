import assert from "node:assert/strict";
import { test } from "node:test";
import { shouldColor } from "../../src/cli/streams.js";
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatLoss,
  formatPercent,
  formatTable,
} from "../../src/report/format.js";

test("numbers read well at every size", () => {
  assert.deepEqual([0, 999, 1000, 10957208, 1.5e9, 12e12].map(formatBytes), [
    "0 B",
    "999 B",
    "1.00 kB",
    "11.0 MB",
    "1.50 GB",
    "12.0 TB",
  ]);
  assert.deepEqual([0.123, 59.94, 59.96, 61, 3599.6, 7384].map(formatDuration), [
    "0.12 s",
    "59.9 s",
    "1 min 00 s",
    "1 min 01 s",
    "1 h 00 min",
    "2 h 03 min",
  ]);
  assert.deepEqual([0, 1.23456, 12345.6, 1e-5, 3.2e7, Infinity].map(formatLoss), [
    "0",
    "1.235",
    "12350",
    "1.000e-5",
    "3.200e+7",
    "Infinity",
  ]);
  assert.equal(formatPercent(0.70001, 4), "70.0010%");
  assert.equal(formatCount(3670016), "3,670,016");
});

test("table columns line up, numbers to the right, without trailing blanks", () => {
  assert.equal(
    formatTable(
      ["name", "zeros"],
      [
        ["a", "1"],
        ["long name", "1,000"],
      ],
      ["zeros"],
    ),
    ["name       zeros", "a              1", "long name  1,000"].join("\n"),
  );
});

test("colours follow NO_COLOR, then FORCE_COLOR, then the terminal", () => {
  const terminal = { isTTY: true };
  assert.equal(shouldColor(terminal, {}), true);
  assert.equal(shouldColor({}, {}), false);
  assert.equal(shouldColor(terminal, { NO_COLOR: "1", FORCE_COLOR: "1" }), false);
  assert.equal(shouldColor(terminal, { NO_COLOR: "" }), true);
  assert.equal(shouldColor({}, { FORCE_COLOR: "1" }), true);
  assert.equal(shouldColor(terminal, { FORCE_COLOR: "0" }), false);
  assert.equal(shouldColor(terminal, { TERM: "dumb" }), false);
});
