import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseCount, parsePositive, parseSize, parseSparsity } from "../../src/options/units.js";
import { UsageError } from "../../src/errors.js";

function refuses(parse: () => unknown, message: RegExp): void {
  assert.throws(parse, (error: unknown) => error instanceof UsageError && message.test(error.message));
}

test("sparsity is a fraction or a percentage", () => {
  const accepted: [string, number][] = [
    ["0.7", 0.7],
    [".5", 0.5],
    ["70%", 0.7],
    ["66.7%", 0.667],
    ["0", 0],
    ["0%", 0],
    ["0.5%", 0.005],
  ];
  for (const [text, value] of accepted) assert.equal(parseSparsity(text), value, text);
});

test("a bare 70 is refused with both ways to write it", () => {
  refuses(() => parseSparsity("70"), /--sparsity: "70" is not a fraction below 1; for 70% write 0\.7 or 70%\./);
});

test("a sparsity that leaves nothing, or is no number, is refused with its value", () => {
  for (const text of ["1", "100%", "1.0"]) refuses(() => parseSparsity(text), /would leave no weights/);
  for (const text of ["", "half", "-0.5", "0.5x", "NaN", "1e-1"]) refuses(() => parseSparsity(text), /is not a number/);
});

test("every percentage below 100 with one decimal is the nearest double of its fraction", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 999 }),
      (tenths) => parseSparsity(`${tenths / 10}%`) === Number((tenths / 1000).toFixed(3)),
    ),
  );
});

test("sizes take decimal and binary units and refuse bare numbers", () => {
  const accepted: [string, number][] = [
    ["4GB", 4e9],
    ["512MiB", 2 ** 29],
    ["1.5 kB", 1500],
    ["7b", 7],
    ["2TiB", 2 ** 41],
  ];
  for (const [text, value] of accepted) assert.equal(parseSize("--memory", text), value, text);
  for (const text of ["4", "4G", "-1GB", "GB", ""])
    refuses(() => parseSize("--memory", text), /--memory: ".*" is not a size/);
});

test("counts are whole decimal numbers not below their least value", () => {
  assert.equal(parseCount("--nsamples", "128", 1), 128);
  for (const text of ["0", "-1", "1.5", "1e3", "0x10", "", "99999999999999999999"]) {
    refuses(() => parseCount("--nsamples", text, 1), /--nsamples: ".*" is not a whole number of at least 1/);
  }
});

test("a positive number is finite and above zero", () => {
  assert.equal(parsePositive("--damping", "1e-2"), 0.01);
  for (const text of ["0", "-1", "x", "", "Infinity"]) refuses(() => parsePositive("--damping", text), /--damping/);
});
